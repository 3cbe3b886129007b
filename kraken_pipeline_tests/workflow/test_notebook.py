"""The chart of a notebook, and the notebook of the docs, run as Jupyter runs it."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from kraken_pipeline import plot_candles
from kraken_pipeline.errors import InvalidRequest
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage.stores import opened
from kraken_pipeline.workflow.reading import plot
from kraken_pipeline.workflow.reading.candles import read_candles
from kraken_pipeline.workflow.releases.dataset import open_release
from kraken_pipeline_tests.support.homes import Q1, Q3, START, Shelf, run, settings_of

pytestmark = pytest.mark.slow

TOUR = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Settings:
    """A home with two quarters and a gap between them."""
    settings = settings_of(tmp_path_factory.mktemp("notebook"))
    with opened(settings) as stores:
        run(stores, shelf.q1, shelf.q3, resampling=False)
    return settings


def test_a_chart_has_each_candle_and_says_what_is_known_of_the_time(settings: Settings) -> None:
    figure = plot_candles("ADAEUR", "1h", start=START, end=Q3.start + 3_600, settings=settings)
    prices, volume, *strip = figure.data
    candles = read_candles("ADAEUR", "1h", start=START, end=Q3.start + 3_600, settings=settings)
    shown = np.asarray(prices.close, float)
    assert shown[~np.isnan(shown)].tolist() == candles["close"].to_list()
    assert [its for its in np.nan_to_num(np.asarray(volume.y, float)) if its] == candles["volume"].to_list()
    kinds = {part.name: part for part in strip}
    assert {"quiet", "gap"} < set(kinds)
    assert list(kinds["gap"].x) == [(Q3.start - Q1.end) * 1_000]
    assert sum(sum(part.customdata) for part in strip) == (Q3.start + 3_600 - START) // 3_600
    assert "plotly" in figure.to_html()


def test_a_chart_says_what_it_cannot_show(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "MOST_CANDLES", 10)
    with pytest.raises(InvalidRequest, match="candles are more than a chart can show"):
        plot_candles("XBTUSD", "1h", start=START, end=Q1.end, settings=settings)


def test_the_tour_runs_on_a_home(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KRAKEN_PIPELINE_HOME", str(settings.home))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOUR.parents[2]), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(TOUR, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without its results"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    assert "application/vnd.plotly" in text
    assert "not complete: " in text
    made = open_release(settings.home / "releases" / "tour")
    assert f"XBTUSD, release tour, SHA-256 {made.certificate.digest}" in text
    candles = read_candles("XBTUSD", "1d", settings=settings)
    assert read_candles("XBTUSD", "1d", release="tour", settings=settings).equals(candles)
    assert f"shape: ({candles.height}, {candles.width})" in text
