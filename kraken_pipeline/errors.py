"""The errors that the pipeline raises on purpose.

::

    PipelineError
    ├── PassingError             a later retry can succeed
    │   ├── Busy                 another process holds the lock that is needed
    │   ├── StoreUnavailable     a server that holds a store does not answer: PostgreSQL, QuestDB, a bucket
    │   ├── WriteConflict        another writer replaced an object of the lake since it was read
    │   └── ExchangeUnavailable  Kraken did not answer: 5xx, a page of the CDN, a reset, a time-out, "busy"
    │       ├── Throttled        Kraken asks to wait, perhaps until a given time
    │       ├── Maintenance      Kraken reports maintenance
    │       ├── AnswerTooSlow    an answer exceeded the total time-out of a request
    │       └── CircuitOpen      requests are suspended after consecutive failures
    └── LastingError             the same attempt fails again until a person changes something
        ├── InvalidSettings      an environment variable is wrong
        ├── InvalidRequest       what a run was asked to do is wrong or impossible
        ├── OtherCode            a worker runs another version of the code than the run
        ├── Incomplete           candles that were required are missing, or may be
        ├── KilledAgain          whatever works on a group of files is killed
        ├── UnreadableArchive    a file is not an archive, is damaged, or its name cannot be parsed
        │   └── SourceChanged    a file is not, or no longer, the one that was found
        ├── ExchangeRefused      Kraken answered that the request is wrong or its target does not exist
        ├── UnusableReply        Kraken's reply is not what such a reply should be
        │   ├── ReplyTooLarge    a reply is larger than any of Kraken's, compressed or decompressed
        │   └── RedirectRefused  a reply redirects to another address than the one requested
        └── StoreError           the lake, the catalog or QuestDB is not in a usable state
            ├── CatalogLost      the catalog is not the one that the lake was written with, or not a database
            ├── DamagedFile      a file of the lake is not the one that was written
            ├── DiskFull         the disk has no room to write
            └── LakeRefused      the bucket of the lake does not exist, or refuses requests

A message says what was tried, on which pair, interval and window, and what to do. Code that retries
checks the class (`PassingError`), never the text.
"""

from collections.abc import Sequence
from unicodedata import category

STOPPED = "stopped; run the same command to go on"
STOPPED_CODE = 130
"""The exit code of a program ended by Ctrl-C."""


def plain(text: str) -> str:
    r"""Return a text that is safe for terminals, logs and databases: unprintable characters are escaped, as \x00 or \n.

    Names from files, archives and the exchange may contain anything: escape sequences, NUL, bytes that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or category(character) == "Zs" else repr(character)[1:-1]
        for character in text
    )


class PipelineError(Exception):
    """The base class of the pipeline's errors; the message is passed through `plain`, because it may quote anything."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class PassingError(PipelineError):
    """An error that may resolve by itself: the same attempt can succeed later."""


class Busy(PassingError):
    """Another process held a lock for longer than the time-out."""


class StoreUnavailable(PassingError):
    """The server of a store does not answer, or its connection was lost; earlier work is durable."""


class WriteConflict(PassingError):
    """An object of the lake is not the one that a write has read; nothing was overwritten."""


class ExchangeUnavailable(PassingError):
    """Kraken did not answer, which says nothing about its data."""


class Throttled(ExchangeUnavailable):
    """Kraken asks for fewer requests.

    Attributes:
        wait_until: The time before which no request may be made, in seconds since the epoch; None if Kraken named none.
    """

    def __init__(self, message: str, wait_until: float | None = None) -> None:
        super().__init__(message)
        self.wait_until = wait_until


class Maintenance(ExchangeUnavailable):
    """Kraken's status reports maintenance."""


class AnswerTooSlow(ExchangeUnavailable):
    """An answer exceeded the total time-out of a request, although its parts kept coming."""


class CircuitOpen(ExchangeUnavailable):
    """Requests to Kraken are suspended for a while after consecutive failures.

    Attributes:
        retry_at: The time when one process will try again, in seconds since the epoch.
    """

    def __init__(self, message: str, retry_at: float) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class LastingError(PipelineError):
    """An error that recurs until a person changes something."""


class InvalidSettings(LastingError):
    """A setting in the environment is wrong; the message names the variable."""


class InvalidRequest(LastingError):
    """The request to a run is wrong or impossible; the message names the value and the allowed ones."""


class OtherCode(LastingError):
    """A worker runs other code than the process that began the run; it does nothing of the run."""


class Incomplete(LastingError):
    """Candles that a reader requires are missing, or may be missing although their time counts as quiet.

    Attributes:
        gaps: The missing ranges, each as (pair, start, end) in seconds since the epoch.
        suspicious: The ranges of quiet time under suspicion, likewise.
    """

    def __init__(
        self,
        message: str,
        gaps: Sequence[tuple[str, int, int]] = (),
        suspicious: Sequence[tuple[str, int, int]] = (),
    ) -> None:
        super().__init__(message)
        self.gaps = tuple(gaps)
        self.suspicious = tuple(suspicious)


class KilledAgain(LastingError):
    """Several processes in a row were killed at the same work, which is not tried again."""


class UnreadableArchive(LastingError):
    """A file cannot be read as the archive that its name announces."""


class SourceChanged(UnreadableArchive):
    """An archive was replaced or written to after it was found: the data read from it is not evidence."""


class ExchangeRefused(LastingError):
    """Kraken answered that the request is wrong or not allowed, or that its target does not exist."""


class UnusableReply(LastingError):
    """Kraken's reply is well-formed but not what such a reply should be: it is not evidence of anything."""


class ReplyTooLarge(UnusableReply):
    """A reply is larger than any of Kraken's; it was not read to its end, nor decompressed."""


class RedirectRefused(UnusableReply):
    """A reply redirects to another address than the one requested; the redirect is not followed."""


class StoreError(LastingError):
    """The lake, the catalog or QuestDB is not in a usable state."""


class CatalogLost(StoreError):
    """The catalog is empty although the lake is not, older than the lake, or not a database; it is not used."""


class DamagedFile(StoreError):
    """A file of the lake or of the ledger is not the one that was written; its contents are not used.

    Attributes:
        paths: The damaged files, relative to the home.
    """

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class DiskFull(StoreError):
    """The disk has no room to write; earlier work is durable, and the same command continues from there."""


class LakeRefused(StoreError):
    """The bucket of the lake does not exist, refuses requests, or does not keep the conditions of a put."""
