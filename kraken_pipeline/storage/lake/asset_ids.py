"""The ids of pairs: in the catalog, and in a copy beside the candles for readers without the catalog."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from kraken_pipeline.errors import StoreError, WriteConflict
from kraken_pipeline.market.pair import Pair
from kraken_pipeline.storage.catalog.database import Catalog
from kraken_pipeline.storage.catalog.schema import assets as asset_ids
from kraken_pipeline.storage.lake.files import LakeFiles, Put
from kraken_pipeline.storage.lake.inspection import unreadable
from kraken_pipeline.storage.paths import make_folder
from kraken_pipeline.storage.postgresql import alone
from kraken_pipeline.storage.records import manifest

ASSETS_SCHEMA = pl.Schema({"asset_id": pl.Int32(), "pair": pl.String(), "base": pl.String(), "quote": pl.String()})
ASSET_IDS_FILE = "lake/assets.parquet"
_TRIES = 20


class AssetIds:
    """The ids of the pairs of one home, never reused.

    Args:
        home: The folder.
        files: The place of the copy beside the candles.
        catalog: The catalog that records them.
    """

    def __init__(self, home: Path, files: LakeFiles, catalog: Catalog) -> None:
        self._files = files
        self._scratch = home / "tmp"
        self._lock = home / "locks" / "assets.lock"
        self._catalog = catalog
        make_folder(self._lock.parent)

    def all(self) -> pl.DataFrame:
        """Return every pair that the lake ever held: `asset_id`, `pair`, `base`, `quote`. Ids are never reused."""
        with self._catalog.read() as connection:
            rows = connection.execute(sa.select(asset_ids).order_by(asset_ids.c.asset_id)).all()
        return pl.DataFrame(rows, schema=ASSETS_SCHEMA, orient="row")

    def register(self, pairs: Iterable[Pair]) -> list[Pair]:
        """Assign an id to every pair that has none, and return the new pairs.

        If an earlier run was killed before it had written the copy beside the candles, it is written now.
        """
        wanted = {pair.name: pair for pair in pairs}
        known = set(self.all()["pair"])
        if wanted.keys() <= known:
            if known and not self._is_copied():
                self.copy()
            return []
        with self._catalog.write() as connection:
            alone(connection, asset_ids)  # otherwise two processes would give one id to two pairs
            known = set(connection.scalars(sa.select(asset_ids.c.pair)))
            new = [pair for name, pair in sorted(wanted.items()) if name not in known]
            first = int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(asset_ids.c.asset_id), 0))) or 0) + 1
            rows = [
                {"asset_id": asset_id, "pair": pair.name, "base": pair.base, "quote": pair.quote}
                for asset_id, pair in enumerate(new, start=first)
            ]
            if rows:
                connection.execute(sa.insert(asset_ids), rows)
                manifest.outdate_assets(connection, ASSET_IDS_FILE)
        if new:
            self.copy()
        return new

    def copy(self) -> None:
        """Write the ids of pairs beside the candles, for readers of the lake without the catalog.

        Raises:
            WriteConflict: Other machines keep replacing the copy.
        """
        from filelock import FileLock  # noqa: PLC0415 - only runs write, and readers need not load it

        with FileLock(self._lock, timeout=60, is_singleton=False):
            for left in reversed(range(_TRIES)):
                try:
                    self._replace()
                except WriteConflict:  # of another machine, whose copy may lack the newest ids
                    if not left:
                        raise
                else:
                    return

    def _replace(self) -> None:
        """Replace the copy; the ids are read after its version, so that no older copy replaces a newer one."""
        before = self._files.version(ASSET_IDS_FILE)
        written = self._scratch / f"{uuid.uuid4().hex}.parquet"
        try:
            self.all().write_parquet(written)
            self._files.sync(written)
            content = written.read_bytes()
            with self._catalog.write() as connection:
                manifest.record_assets(connection, ASSET_IDS_FILE, content)
            digest = sha256(content).hexdigest()
            self._files.put([[Put(written, ASSET_IDS_FILE, digest, before)]])
            with self._catalog.write() as connection:
                manifest.confirm_assets(connection, ASSET_IDS_FILE, digest)
        finally:
            written.unlink(missing_ok=True)

    def _is_copied(self) -> bool:
        with self._catalog.read() as connection:
            return manifest.has_assets(connection, ASSET_IDS_FILE)

    def exists(self) -> bool:
        """Return whether there is a copy beside the candles."""
        return self._files.exists(ASSET_IDS_FILE)

    def content(self) -> bytes:
        """Return the bytes of the copy.

        Raises:
            OSError: It does not exist, or cannot be read.
        """
        with self._files.open(ASSET_IDS_FILE) as stream:
            return stream.read()

    def import_ids(self) -> None:
        """Import the ids of a lake whose catalog has none: earlier versions kept them in the file only.

        Raises:
            StoreError: The file cannot be read.
        """
        if self.all().is_empty() and self.exists():
            self.adopt()

    def adopt(self) -> None:
        """Import the ids of pairs that are in the file and not in the catalog.

        Raises:
            StoreError: The file cannot be read.
        """
        try:
            kept = pl.read_parquet(self.content()).select(ASSETS_SCHEMA.names()).to_dicts()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StoreError(
                f"{self._files.place}/{ASSET_IDS_FILE}, which has the ids of pairs, {unreadable(error)}: "
                "kraken-pipeline recover assigns new ones"
            ) from error
        with self._catalog.write() as connection:
            alone(connection, asset_ids)
            known = connection.execute(sa.select(asset_ids.c.asset_id, asset_ids.c.pair)).all()
            ids, pairs = {row.asset_id for row in known}, {row.pair for row in known}
            rows = [row for row in kept if row["asset_id"] not in ids and row["pair"] not in pairs]
            if rows:
                connection.execute(sa.insert(asset_ids), rows)

    def restore(self) -> bool:
        """Replace the ids with those of the file, if it is the one that was written; return whether it is."""
        with self._catalog.read() as connection:
            recorded = manifest.digest_of(connection, ASSET_IDS_FILE)
        try:
            content = self.content()
        except OSError:
            return False
        if sha256(content).hexdigest() != recorded:
            return False
        rows = pl.read_parquet(content).select(ASSETS_SCHEMA.names()).to_dicts()
        with self._catalog.write() as connection:
            alone(connection, asset_ids)
            connection.execute(sa.delete(asset_ids))
            connection.execute(sa.insert(asset_ids), rows)
        return True

    def pairs(self) -> list[Pair]:
        """Return every pair that has an id, by name."""
        return [Pair(row["pair"], row["base"], row["quote"]) for row in self.all().sort("pair").to_dicts()]
