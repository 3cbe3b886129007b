"""The use cases, called by Dagster and the shell alike. They depend on neither."""
