"""The jobs that Dagster runs beside the assets, each with its config and its ops."""
