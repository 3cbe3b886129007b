"""Reconciliation in groups of pairs: the pairs that have changed, and the results of several groups as one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from kraken_pipeline.storage.records import publications
from kraken_pipeline.storage.stores import Stores
from kraken_pipeline.workflow import costs
from kraken_pipeline.workflow.pair_groups import changes_of, step_groups
from kraken_pipeline.workflow.progress import RunContext
from kraken_pipeline.workflow.reconcile.quiet_search import search_changes
from kraken_pipeline.workflow.reconcile.reconcile import Reconciled, compare_changes


def groups_to_compare(stores: Stores, pairs: Iterable[str], run: RunContext) -> list[list[str]]:
    """Return the pairs that have changed since the last reconciliation in groups, and expect the work of the run."""
    with stores.catalog.read() as connection:
        marked = publications.marked(connection, set(pairs))
    changes = changes_of(stores, publications.ranges_of(mark for found in marked.values() for mark in found))
    workers = stores.settings.kraken_workers
    run.expect("reconciling", costs.reconciling(changes.values(), workers))
    return step_groups({pair: costs.comparing([change], 1) for pair, change in changes.items()}, workers)


def compare_and_search(stores: Stores, pairs: Collection[str], run: RunContext) -> Reconciled:
    """Reconcile what has changed of some pairs, and search them for quiet time without recording any."""
    done = compare_changes(stores, pairs, run)
    return replace(done, searched=(search_changes(stores, pairs),))


def together(parts: Sequence[Reconciled]) -> Reconciled:
    """Return the results of several parts of one reconciliation as one result."""
    return Reconciled(
        tuple(sorted({pair for part in parts for pair in part.pairs})),
        sum(part.refuted for part in parts),
        sum(part.conflicts for part in parts),
        sum(part.healed for part in parts),
        sum(part.given_back for part in parts),
        tuple(note for part in parts for note in part.notes),
        frozenset(pair for part in parts for pair in part.changed),
        tuple(search for part in parts for search in part.searched),
    )
