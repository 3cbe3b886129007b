"""A bucket of an object store: S3 and what speaks its protocol, Google's or Azure's, through `obstore`.

Credentials are read from the environment by the library, and appear nowhere else. Its own messages quote the key and
the signature of a request, so that only the store's error code is passed on.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from errno import ENOENT
from itertools import chain
from typing import Any, TypeVar

from kraken_pipeline.errors import InvalidSettings, PipelineError, StoreUnavailable

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
    from obstore.store import from_url
except ImportError as error:
    raise InvalidSettings(
        "a bucket needs a library that is not installed: pip install 'kraken_pipeline[s3]'"
    ) from error

_PAUSE = 0.1
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})(?: ([A-Z][A-Za-z ]+))?")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")

_Answer = TypeVar("_Answer")


class ConditionFailed(Exception):
    """The condition of a request does not hold: another version of the object is there, or one where none may be."""


class ObjectStore:
    """A bucket, or what lies below a prefix of it.

    Args:
        url: The URL: `s3://bucket/prefix`.
        patience: The time to wait for a store that does not answer, in seconds.
        what: What lies there, for messages: `the lake`.
        needs: What credentials must allow, for messages: `list and read`.
        setting: The name of the setting that has the URL, for messages; None where it is no setting.
        refused: The error to raise for a bucket that does not exist or refuses requests.

    Attributes:
        place: The URL, without a slash at its end.
        client: The library's client, to be used within `explained`.
    """

    def __init__(
        self,
        url: str,
        patience: float,
        *,
        what: str,
        needs: str,
        setting: str | None,
        refused: Callable[[str], PipelineError],
    ) -> None:
        self.place = url.rstrip("/")
        self._patience = patience
        self._what = f"{what} at {self.place}"
        self._needs = needs
        self._setting = "" if setting is None else f"{setting}: "
        self._refused = refused
        with self.explained():
            self.client = from_url(
                self.place,
                # The library ignores its own variable for HTTP where it is given any option of the client.
                client_options={"timeout": "120s", "connect_timeout": "5s", "allow_http": _is_http_allowed()},
                retry_config={"max_retries": 1_000, "retry_timeout": timedelta(seconds=patience)},
            )

    def head(self, path: str) -> Any:
        """Return what the store says of an object: `size`, `last_modified`, `e_tag` and `version`.

        Raises:
            FileNotFoundError: There is no such object.
        """
        with self.explained(path):
            return obstore.head(self.client, path)

    def get(self, path: str, options: Any = None) -> tuple[Any, bytes]:
        """Return what the store says of an object, and its content; a connection can break off between both.

        Args:
            path: The key.
            options: The range to read, or the condition for reading, as the library has them.

        Raises:
            FileNotFoundError: There is no such object.
            ConditionFailed: The condition does not hold.
        """

        def get() -> tuple[Any, bytes]:
            with self.explained(path):
                found = obstore.get(self.client, path, options=options)
                return found.meta, bytes(found.bytes())

        return self.repeated(get)

    def below(self, prefix: str) -> Iterator[Any]:
        """Yield what the store says of each object below a prefix, page by page: its `path`, and as `head` does."""
        with self.explained():
            yield from chain.from_iterable(obstore.list(self.client, prefix or None))

    def directly_below(self, prefix: str) -> list[Any]:
        """Return the same of the objects directly below a prefix."""
        with self.explained():
            return list(obstore.list_with_delimiter(self.client, prefix or None)["objects"])

    def copy(self, path: str, target: str) -> None:
        """Copy an object within the bucket.

        Raises:
            FileNotFoundError: There is no such object.
        """

        def copy() -> None:
            with self.explained(path):
                obstore.copy(self.client, path, target)

        self.repeated(copy)

    def delete(self, paths: Collection[str]) -> None:
        """Delete objects; those that do not exist are skipped."""

        def delete() -> None:
            with self.explained():
                obstore.delete(self.client, sorted(paths))

        self.repeated(delete)

    def repeated(self, request: Callable[[], _Answer]) -> _Answer:
        """Return the answer to a request that may be made twice, repeating it until the patience is over.

        The library repeats what finds no server. It does not repeat a request other than a get that breaks off, because
        whether it was done is unknown then, nor an answer of which the end is missing.
        """
        until = time.monotonic() + self._patience
        while True:
            try:
                return request()
            except StoreUnavailable:
                if time.monotonic() >= until:
                    raise
                time.sleep(_PAUSE)

    @contextmanager
    def explained(self, path: str | None = None) -> Iterator[None]:
        """Replace the library's errors, whose texts quote credentials, by the pipeline's.

        Args:
            path: The object that is read, which may be missing; None where a missing one is an error of the bucket.

        Raises:
            FileNotFoundError: There is no such object.
            ConditionFailed: The condition of the request does not hold.
            PipelineError: The store does not answer, or refuses the request.
        """
        try:
            yield
        except FileNotFoundError as error:
            if path is None or any(sign in str(error) for sign in _NO_BUCKET):
                raise self._no_bucket() from None
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), f"{self.place}/{path}") from None
        except (AlreadyExistsError, PreconditionError):
            raise ConditionFailed("the condition of a request does not hold") from None
        except BaseError as error:
            raise self._fault(str(error)) from None

    def _no_bucket(self) -> PipelineError:
        return self._refused(f"{self._setting}there is no bucket for {self.place}; create it, or correct the URL")

    def _fault(self, said: str) -> PipelineError:
        if any(sign in said for sign in _NO_BUCKET):
            return self._no_bucket()
        if "builder error" in said:
            return self._refused(
                f"{self._what}: its address begins with http://, which sends all in the clear: set AWS_ALLOW_HTTP=true "
                "if that is meant, or correct AWS_ENDPOINT_URL"
            )
        code, status = _CODE.search(said), _STATUS.search(said)
        why = code[1] if code else (f"status {status[1]}" if status else "no connection, or no credentials")
        if status is not None and status[1].startswith("4") and status[1] not in ("408", "429"):
            return self._refused(
                f"{self._what}: the store refuses a request ({why}): check the credentials in the environment "
                f"(AWS_ACCESS_KEY_ID and the like), and that they allow to {self._needs}"
            )
        return StoreUnavailable(
            f"{self._what}: the store has not answered for {self._patience:g} s ({why}): check the network, and "
            "AWS_ENDPOINT_URL where it is not Amazon's; run the same command again to continue"
        )


def _is_http_allowed() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
