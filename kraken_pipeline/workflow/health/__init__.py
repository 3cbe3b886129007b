"""Health: whether each thing that the pipeline stands on works."""
