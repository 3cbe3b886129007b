"""The completeness report as one self-contained HTML page: its contents, pictures and layout.

Other modules make a page with `workflow.page.report_page`. Matplotlib and Jinja2 are loaded when something is drawn;
importing this package loads neither.
"""
