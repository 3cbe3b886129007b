"""Verification in groups of pairs: the files that steps of their own compare."""

from __future__ import annotations

from collections.abc import Sequence

from kraken_pipeline.storage.records.manifest import LakeFile
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.pair_groups import step_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.run_spec import RunSpec
from kraken_pipeline.workflow.verify.verification import Compared, compare, files_to_compare


def groups_to_verify(
    stores: Stores, spec: RunSpec, run: RunContext, *, quick: bool, part: float | None
) -> list[list[LakeFile]]:
    """Return the files to compare in groups, each with all files of its pairs, and report their size.

    Args:
        stores: The stores.
        spec: The selected pairs and intervals.
        run: The context of the run.
        quick: Whether only sizes and footers are compared.
        part: The share of all bytes to compare, least recently read files first; None for all files.
    """
    of_pair: dict[str, list[LakeFile]] = {}
    for file in files_to_compare(stores, spec, part):
        of_pair.setdefault(file.series.pair, []).append(file)
    sizes = {pair: 0 if quick else sum(file.bytes for file in files) for pair, files in of_pair.items()}
    run.report(bytes_total=sum(file.bytes for files in of_pair.values() for file in files))
    seconds = {pair: costs.verifying(len(files), sizes[pair]) for pair, files in of_pair.items()}
    groups = step_groups(seconds, stores.settings.kraken_workers)
    return [[file for pair in group for file in of_pair[pair]] for group in groups]


def compare_group(stores: Stores, files: Sequence[LakeFile], run: RunContext, *, quick: bool) -> Compared:
    """Compare the files of one group with their records; nothing is recorded."""
    run.report(phase="verifying")
    return compare(stores, files, run, quick=quick, threads=stores.settings.kraken_workers)
