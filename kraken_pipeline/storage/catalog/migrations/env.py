"""Runs the migrations on the connection that the catalog passes in."""

from alembic import context

from kraken_pipeline.storage.catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
