"""Container images composed layer by layer, and the registry protocol. Imports neither Airflow nor Azure."""
