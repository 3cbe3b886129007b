"""The completeness report, in the terminal, as JSON and as a page."""
