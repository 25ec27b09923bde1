"""Takes images to where they serve, and checks them there: what runs on a host, and what is said to it; needs neither Airflow nor Azure."""
