"""Health: whether the pipeline can do its work, one sentence for each thing it stands on."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from kraken_pipeline.errors import PipelineError
from kraken_pipeline.settings import Settings
from kraken_pipeline.storage import evidence_records
from kraken_pipeline.storage.schema import gaps
from kraken_pipeline.storage.stores import Stores, opened

LOW_SPACE_BYTES = 2 << 30


class Verdict(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: How it is.
        sentence: What was seen, and what to do where it is not well.
    """

    name: str
    verdict: Verdict
    sentence: str


def check_health(settings: Settings) -> list[Check]:
    """Looks at everything, whatever is broken."""
    try:
        with opened(settings) as stores:
            return [check(stores) for check in (_lake, _space, _catalog, _series)]
    except PipelineError as error:
        return [Check("stores", Verdict.FAILED, str(error))]


def worst(checks: list[Check]) -> Verdict:
    """The worst verdict among them."""
    order = list(Verdict)
    return max((check.verdict for check in checks), key=order.index, default=Verdict.OK)


def _lake(stores: Stores) -> Check:
    probe = stores.lake.scratch / f"{uuid.uuid4().hex}.probe"
    try:
        with probe.open("wb") as stream:
            stream.write(b"probe")
            stream.flush()
            os.fsync(stream.fileno())
        probe.unlink()
    except OSError as error:
        return Check("lake", Verdict.FAILED, f"{stores.lake.root} cannot be written: {error}")
    return Check("lake", Verdict.OK, f"{stores.lake.root} can be written")


def _space(stores: Stores) -> Check:
    free = shutil.disk_usage(stores.lake.root).free
    sentence = f"{free / 2**30:.1f} GiB free"
    if free < LOW_SPACE_BYTES:
        return Check("space", Verdict.WARNING, f"{sentence}: make room before the next large archive")
    return Check("space", Verdict.OK, sentence)


def _catalog(stores: Stores) -> Check:
    try:
        revision = stores.catalog.revision()
    except sa.exc.SQLAlchemyError as error:
        return Check("catalog", Verdict.FAILED, f"the catalog does not answer: {error}")
    return Check("catalog", Verdict.OK, f"the catalog answers and is at migration {revision}")


def _series(stores: Stores) -> Check:
    threshold = stores.settings.kraken_max_gaps
    query = (
        sa.select(gaps.c.pair, gaps.c.interval)
        .where(gaps.c.closed_at.is_(None))
        .group_by(gaps.c.pair, gaps.c.interval)
        .having(sa.func.count() > threshold)
    )
    with stores.catalog.read() as connection:
        broken = connection.execute(query).all()
        count = len(evidence_records.extents(connection))
    if broken:
        worst_of = ", ".join(f"{pair} {interval}" for pair, interval in broken[:5])
        return Check(
            "series", Verdict.WARNING, f"{len(broken)} of {count} series have more than {threshold} gaps: {worst_of}"
        )
    return Check("series", Verdict.OK, f"{count} series, none with more than {threshold} gaps")
