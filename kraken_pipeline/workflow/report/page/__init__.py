"""The completeness report as one HTML page that needs nothing else: its contents, pictures, and how they are laid out.

`workflow.report_page` is how others make one. Matplotlib and Jinja2 are loaded by what draws, when it draws: importing
this package loads neither.
"""
