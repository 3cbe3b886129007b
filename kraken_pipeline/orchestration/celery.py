"""The Celery app by the name that workers are started with.

A worker is started with `celery --app kraken_pipeline.orchestration.celery worker --queues dagster --concurrency 2`,
with the settings of the home in its environment. It needs the extra `celery`.
"""

from kraken_pipeline.orchestration.delivery.app import app

__all__ = ["app"]
