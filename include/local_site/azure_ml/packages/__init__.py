"""Packages: models, a scoring script and their requirements as a container image in the registry, or as a build context."""
