"""The use cases, each called by Dagster and by the shell alike. Knows nothing of either."""
