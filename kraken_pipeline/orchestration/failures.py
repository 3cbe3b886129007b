"""Which retry mechanism each error talks to.

A `LastingError` fails in the same way again, so it forbids retries; a `PassingError` may be retried. What is no
`PipelineError` is a mistake of the program and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kraken_pipeline.errors import LastingError, PassingError


@contextmanager
def explained() -> Iterator[None]:
    """Turns the pipeline's errors into Dagster's, with their sentence as the description."""
    try:
        yield
    except LastingError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except PassingError as error:
        raise dg.Failure(description=str(error), allow_retries=True) from error
