"""Every error that the pipeline raises on purpose.

::

    PipelineError
    ├── PassingError             trying again later can help
    │   ├── Busy                 another process holds the lock that is needed
    │   ├── StoreUnavailable     a server that holds a store does not answer: PostgreSQL, QuestDB
    │   └── ExchangeUnavailable  Kraken gave no answer: 5xx, a page of the CDN, a reset, a time-out, "busy"
    │       ├── Throttled        it asks to wait, perhaps until a moment that it names
    │       ├── Maintenance      it says that it is being worked on
    │       ├── AnswerTooSlow    its answer takes longer than a request may in all
    │       └── CircuitOpen      it failed so often in a row that nobody asks it for a while
    └── LastingError             the same attempt fails again until a person changes something
        ├── InvalidSettings      an environment variable is wrong
        ├── InvalidRequest       what a run was asked to do is wrong or impossible
        ├── UnreadableArchive    a file is no archive, is damaged, or its name says nothing usable
        │   └── SourceChanged    it is not, or no longer, the file that was found
        ├── ExchangeRefused      Kraken answered that what was asked for does not exist or is wrong
        ├── UnusableReply        Kraken answered with something that is not what it says it is
        │   ├── ReplyTooLarge    the answer is larger than any of Kraken's, as it comes or unpacked
        │   └── RedirectRefused  the answer sends us to another address than the one that was asked
        └── StoreError           the lake, the catalog or QuestDB is not in a state that can be worked on
            ├── CatalogLost      the catalog is not the one that the lake was written with, or no database
            ├── DamagedFile      a file of the lake is not the one that was written
            └── DiskFull         there is no room to write

A message says what was tried, on which pair, interval and window, and what to do. Whoever retries asks
for the class (`PassingError`), never for the text.
"""

from unicodedata import category

STOPPED = "stopped; run the same command to go on"
STOPPED_CODE = 130
"""The exit code of a program that Ctrl-C ended."""


def plain(text: str) -> str:
    r"""A text that every terminal, log and database takes: what cannot be printed is spelled out, as in \x00 and \n.

    Names of files, archives and the exchange hold anything: escape sequences, NUL, bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or category(each) == "Zs" else repr(each)[1:-1] for each in text)


class PipelineError(Exception):
    """Anything that went wrong and was foreseen; its message is `plain`, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class PassingError(PipelineError):
    """May pass by itself: the same attempt can succeed later."""


class Busy(PassingError):
    """Another process holds a lock for longer than this one was willing to wait."""


class StoreUnavailable(PassingError):
    """A server that holds a store does not answer, or went away in the middle; what was done before is durable."""


class ExchangeUnavailable(PassingError):
    """Kraken gave no answer; nothing follows from it about its data."""


class Throttled(ExchangeUnavailable):
    """Kraken asks for fewer requests.

    Attributes:
        wait_until: When it may be asked again, in seconds since the epoch; None where it does not say.
    """

    def __init__(self, message: str, wait_until: float | None = None) -> None:
        super().__init__(message)
        self.wait_until = wait_until


class Maintenance(ExchangeUnavailable):
    """Kraken's status says that it is being worked on."""


class AnswerTooSlow(ExchangeUnavailable):
    """An answer took longer than a request may in all, however steadily it came."""


class CircuitOpen(ExchangeUnavailable):
    """Kraken failed so often in a row that it is left alone for a while.

    Attributes:
        retry_at: When one process will try again, in seconds since the epoch.
    """

    def __init__(self, message: str, retry_at: float) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class LastingError(PipelineError):
    """Fails in the same way until a person changes something."""


class InvalidSettings(LastingError):
    """A setting in the environment is wrong; the message names the variable."""


class InvalidRequest(LastingError):
    """What a run was asked to do is wrong or impossible; the message names the value and what is allowed."""


class UnreadableArchive(LastingError):
    """A file that cannot be read as what its name says it is."""


class SourceChanged(UnreadableArchive):
    """An archive file was replaced or written to since it was found: what was read of it is no evidence."""


class ExchangeRefused(LastingError):
    """Kraken answered that what was asked for does not exist, is wrong or is not allowed."""


class UnusableReply(LastingError):
    """Kraken's reply is well-formed and not what such a reply is: it is no evidence of anything."""


class ReplyTooLarge(UnusableReply):
    """An answer that is larger than any of Kraken's; it was not read to its end, nor unpacked."""


class RedirectRefused(UnusableReply):
    """An answer that sends us to another address than the one that was asked; nobody goes there."""


class StoreError(LastingError):
    """The lake, the catalog or QuestDB is not in a state that can be worked on."""


class CatalogLost(StoreError):
    """The catalog is empty beside a lake that is not, older than the lake, or no database; nothing is claimed by it."""


class DamagedFile(StoreError):
    """A file of the lake or of the ledger is not the one that was written; nothing that it holds is answered.

    Attributes:
        paths: Which files, relative to the home.
    """

    def __init__(self, message: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class DiskFull(StoreError):
    """There is no room to write; what was done before is durable, and the same command goes on from there."""
