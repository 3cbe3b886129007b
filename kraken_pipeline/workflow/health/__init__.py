"""Health checks of everything the pipeline depends on."""
