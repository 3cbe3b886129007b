"""Which retry mechanism each error talks to.

A `LastingError` fails in the same way again, so it forbids retries; a `PassingError` may be retried. Faults of a
disk, a database or a Parquet file are taken for what they mean. What is left is a mistake of the program and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.errors import LastingError, PassingError
from kraken_pipeline.storage.faults import faults_explained


@contextmanager
def explained() -> Iterator[None]:
    """Turns the pipeline's errors into Dagster's, with their sentence as the description."""
    try:
        with faults_explained():
            yield
    except LastingError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except PassingError as error:
        raise dg.Failure(description=str(error), allow_retries=True) from error
