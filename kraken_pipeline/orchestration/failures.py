"""The translation of the pipeline's errors into Dagster's failures and retries.

A `LastingError` would recur, so it forbids retries; a `PassingError` may be retried. Faults of a disk, a database or a
Parquet file are translated into one of these. Any other error is a bug of the program and keeps its traceback.

Ops have no Dagster retry policy: with one, Dagster also retries an op that Ctrl-C ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.errors import LastingError, PassingError
from kraken_pipeline.storage.faults import faults_explained

MAX_RETRIES = 2
WAIT = 3
"""The wait before each retry, in seconds: a restarted server is back by the second retry."""


@contextmanager
def explained(*, retried: bool = False) -> Iterator[None]:
    """Turn the pipeline's errors into Dagster's, with their sentence as the description.

    Args:
        retried: Whether a `PassingError` makes Dagster retry the op; set it only if the op can resume its earlier work.
    """
    try:
        with faults_explained():
            yield
    except LastingError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except PassingError as error:
        failure = dg.Failure(description=str(error), allow_retries=True)
        failure.__cause__ = error
        if retried:
            raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=WAIT) from failure
        raise failure from error
