"""The connection over which candles are written: InfluxDB Line Protocol (ILP) over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import requests
from questdb import QuestDBError, QuestDBErrorCode, Sender
from requests.auth import HTTPBasicAuth

from kraken_pipeline.errors import StoreError, StoreUnavailable
from kraken_pipeline.storage.questdb.values import escaped

_REQUEST_ROWS = 100_000
"""The number of rows in one HTTP request, which QuestDB commits as one transaction."""

# Errors that a retry does not resolve: wrong credentials, or a table with another schema.
_REFUSALS = (
    QuestDBErrorCode.AuthError,
    QuestDBErrorCode.ConfigError,
    QuestDBErrorCode.BadDataFrame,
    QuestDBErrorCode.InvalidApiCall,
    QuestDBErrorCode.ServerFlushError,
)


class IlpConnection:
    """A connection to QuestDB's HTTP port, opened on first use and lent to one caller at a time.

    Args:
        url: `http://user:password@host:9000`.
        timeout: The time-out for a connection or an answer, in seconds.

    Attributes:
        where: Host and port, for messages.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        user, password = (unquote(part or "").encode() for part in (parts.username, parts.password))
        self._credentials = HTTPBasicAuth(user, password) if user else None
        self._conf = sender_conf(url, timeout)
        self._scheme = parts.scheme
        self._timeout = timeout
        self._sender: Sender | None = None
        self._sending = threading.Lock()
        self.where = parts.netloc.rpartition("@")[2]

    def close(self) -> None:
        """Close the connection, after the caller that it is lent to."""
        with self._sending:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._sender is not None:
            self._sender.close(flush=False)
            self._sender = None

    @contextmanager
    def lent(self, failure: str) -> Iterator[Sender]:
        """Lend the connection for the duration of a block; opening it negotiates the protocol version.

        Args:
            failure: What QuestDB did not do if the block fails, for the message.

        Raises:
            StoreUnavailable: QuestDB does not answer, or the connection was lost midway: some rows may have arrived.
            StoreError: QuestDB rejects the credentials or the rows.
        """
        with self._sending:
            try:
                if self._sender is None:
                    self._sender = Sender.from_conf(self._conf)
                    self._sender.establish()  # type: ignore[no-untyped-call]
                yield self._sender
            except QuestDBError as error:
                said = f"QuestDB at {self.where} {failure}: {error}"
                self._hang_up()
                raise (StoreError if error.code in _REFUSALS else StoreUnavailable)(said) from error
            except BaseException:
                self._hang_up()  # or the rows in its buffer would be sent with the next ones
                raise

    def ping(self) -> None:
        """Check that QuestDB accepts a write from this user, with an empty one.

        The client's own handshake succeeds even with a wrong password.

        Raises:
            StoreUnavailable: QuestDB does not answer.
            StoreError: QuestDB rejects the credentials.
        """
        try:
            with requests.Session() as session:
                session.trust_env = False  # the ILP client uses no proxies either
                address = f"{self._scheme}://{self.where}/write"
                reply = session.post(address, auth=self._credentials, timeout=self._timeout)
        except requests.RequestException as error:
            said = f"QuestDB at {self.where} does not answer over HTTP ({type(error).__name__})"
            raise StoreUnavailable(said) from error
        if reply.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
            raise StoreError(
                f"QuestDB at {self.where} does not allow writing over HTTP: HTTP {reply.status_code}; check the "
                "user and the password of KRAKEN_QUESTDB_URL"
            )
        if not reply.ok:
            raise StoreUnavailable(f"QuestDB at {self.where} cannot be written to over HTTP: HTTP {reply.status_code}")


def sender_conf(url: str, timeout: float) -> str:
    """Return the configuration string of the ILP client for a URL and a time-out in seconds."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 9000)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    conf = f"{parts.scheme}::addr={host}:{port};"
    if parts.username:
        conf += f"username={escaped(unquote(parts.username))};password={escaped(unquote(parts.password or ''))};"
    milliseconds = round(1_000 * timeout)
    return (
        f"{conf}auto_flush_rows={_REQUEST_ROWS};auto_flush_interval=off;auto_flush_bytes=off;"
        f"request_timeout={milliseconds};retry_timeout={milliseconds};"
    )
