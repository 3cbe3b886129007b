"""Which retry mechanism each error talks to.

A `LastingError` fails in the same way again, so it forbids retries; a `PassingError` may be retried. Faults of a
disk, a database or a Parquet file are taken for what they mean. What is left is a mistake of the program and keeps its
traceback.

Ops have no retry policy of Dagster's: with one, an op that Ctrl-C ends is tried again too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.errors import LastingError, PassingError
from kraken_pipeline.storage.faults import faults_explained

MAX_RETRIES = 2
WAIT = 3
"""Seconds before each retry: a server that is restarted is back by the second."""


@contextmanager
def explained(*, retried: bool = False) -> Iterator[None]:
    """Turn the pipeline's errors into Dagster's, with their sentence as the description.

    Args:
        retried: Whether a `PassingError` has the op tried again, because what it did before is known.
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
