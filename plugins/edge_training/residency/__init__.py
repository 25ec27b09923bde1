"""What may leave the premises, what did leave, and the receipt. Imports neither Airflow nor Azure."""
