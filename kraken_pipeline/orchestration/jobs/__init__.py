"""The Dagster jobs other than the assets' runs, each with its config and its ops."""
