"""The stores as a Dagster resource. Nothing is opened before a run needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.settings import Settings, load_settings
from kraken_pipeline.storage.stores import Stores, opened

STORES = "stores"
STORES_TO_RECOVER = "stores_to_recover"


def stores_of(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Stores:
    """Return the stores that a step was given."""
    found = getattr(context.resources, STORES)
    assert isinstance(found, Stores)  # noqa: S101 - for the type checker; resources are untyped
    return found


def stores_resource(settings: Settings | None = None, *, is_recovering: bool = False) -> dg.ResourceDefinition:
    """The stores of the home that the settings name; those of the environment where none are given.

    A catalog that was lost is opened only to be recovered.

    Each run holds its lock while it has them, so that `status` can tell a run at work from one that was killed.
    """

    @dg.resource(description="The lake, the catalog and the locks under KRAKEN_PIPELINE_HOME.")
    @contextmanager
    def stores(context: dg.InitResourceContext) -> Iterator[Stores]:
        with opened(settings or load_settings(), is_recovering=is_recovering) as found:
            if context.run is None:
                yield found
            else:
                with found.locks.run(context.run.run_id):
                    yield found

    return stores
