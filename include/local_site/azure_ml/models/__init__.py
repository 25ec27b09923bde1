"""The model registry: assets, models and their versions."""
