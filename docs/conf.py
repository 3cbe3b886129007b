"""The configuration of the site of the docs, which `make docs` builds with Sphinx.

The pages are the files that are read in the repository too, at the same paths, so that a link between two of them works
in both places. What only the site has is added while a page is read: the navigation, and the reference from the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.reference import commands_page, python_page  # noqa: E402 - Sphinx runs this file without the folder above it

project = "kraken_pipeline"
author = "The kraken_pipeline authors"
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "deploy/README.md", "docs/**.md"]
exclude_patterns = [".venv", "site", "data", "demo-data"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # as deep as the pages link, with the anchors that the forge makes
smartquotes = False  # a quotation mark stays what it is
default_role = "literal"  # a word in single backticks is code, in docstrings as in Markdown
autodoc_member_order = "bysource"
napoleon_use_rtype = False
html_theme = "furo"
html_title = "kraken_pipeline"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "default"

NAVIGATION: Mapping[str, Mapping[str, str]] = {
    "Start": {"Tour": "docs/tour", "Concepts": "docs/concepts", "Glossary": "docs/glossary"},
    "How to": {
        "Install it": "docs/installing",
        "Archives": "docs/archives",
        "Read candles": "docs/reading",
        "Releases": "docs/releases",
        "Names of pairs": "docs/names",
        "QuestDB": "docs/questdb",
        "Docker Compose": "deploy/README",
        "Kubernetes": "docs/kubernetes",
    },
    "Operations": {
        "Production": "docs/production",
        "Monitoring": "docs/monitoring",
        "Security": "docs/security",
        "Troubleshooting": "docs/troubleshooting",
        "Scaling": "docs/scaling",
    },
    "Reference": {
        "Command line": "docs/cli",
        "Settings": "docs/settings",
        "JSON": "docs/json",
        "Python": "docs/python",
    },
    "The project": {
        "Architecture": "docs/architecture",
        "Decisions": "docs/decisions/README",
        "Contributing": "CONTRIBUTING",
        "Changelog": "CHANGELOG",
    },
}
"""The pages by their place in the navigation: title → page. Sphinx warns of a page that is in none."""


def navigation() -> str:
    """Return the navigation, which belongs to the first page."""
    return "".join(
        _toctree(f":caption: {caption}", *(f"{title} </{page}>" for title, page in pages.items()))
        for caption, pages in NAVIGATION.items()
    )


def decisions() -> str:
    """Return the navigation below the list of decisions."""
    return _toctree(":glob:", "*")


def _toctree(option: str, *entries: str) -> str:
    return "\n\n".join(("", "```{toctree}\n:hidden:\n" + "\n".join((option, "", *entries)) + "\n```", ""))


ADDED: Mapping[str, Callable[[], str]] = {
    "README": navigation,
    "docs/decisions/README": decisions,
    "docs/cli": commands_page,
    "docs/python": python_page,
}
"""What the site has at the end of a page, beyond its file."""

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//[^"']*"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["'](?:https?:)?//[^"']*"""
    r"""|@import[^;]*//[^;]*|url\(["']?(?:https?:)?//[^)]*"""
)
"""What makes a browser load something from another machine, in HTML and CSS."""


def loaded_from_elsewhere(text: str) -> list[str]:
    """Return the parts of HTML or CSS by which a reader's browser would load something from the network."""
    return _LOADED.findall(text)


def setup(app: Any) -> None:
    """Register with Sphinx what is done to each page and to the site as a whole."""
    app.connect("source-read", _add)
    app.connect("autodoc-process-docstring", _keep_colons, priority=100)  # before Napoleon
    app.connect("doctree-read", _end_names)
    app.connect("build-finished", _finish)


def _add(_: Any, page: str, source: list[str]) -> None:
    if page in ADDED:
        source[0] += ADDED[page]()


def _keep_colons(*event: Any) -> None:
    """Keep all words about a result in its description: Napoleon would take those before a colon for its type."""
    lines: list[str] = event[-1]
    for heading, text in pairwise(range(len(lines))):
        if lines[heading].strip() in {"Returns:", "Yields:"}:
            lines[text] = re.sub(r"\S", r": \g<0>", lines[text], count=1)


def _end_names(_: Any, page: Any) -> None:
    """End the name of a parameter with a colon, where Sphinx writes two hyphens."""
    from docutils import nodes  # noqa: PLC0415 - as Sphinx, it is not installed where the tests run

    for text in [*page.findall(nodes.Text)]:
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))


def _finish(app: Any, failure: Exception | None) -> None:
    from sphinx.util import logging  # noqa: PLC0415 - tests import this module where Sphinx is not installed

    if failure is not None:
        return
    site = Path(app.outdir)
    (site / "index.html").write_text(
        f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n', encoding="utf-8"
    )
    for path in sorted((*site.rglob("*.html"), *site.rglob("*.css"))):
        for part in loaded_from_elsewhere(path.read_text("utf-8")):
            logging.getLogger(__name__).warning(f"{path.relative_to(site)} loads from the network: {part}")
