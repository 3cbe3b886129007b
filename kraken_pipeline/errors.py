"""Every error that the pipeline raises on purpose.

::

    PipelineError
    ├── PassingError             trying again later can help
    │   └── Busy                 another process holds the lock that is needed
    └── LastingError             the same attempt fails again until a person changes something
        ├── InvalidSettings      an environment variable is wrong
        ├── InvalidRequest       what a run was asked to do is wrong or impossible
        ├── UnreadableArchive    a file is no archive, is damaged, or its name says nothing usable
        └── StoreError           the lake or the catalog is not in a state that can be worked on

A message says what was tried, on which pair, interval and window, and what to do. Whoever retries asks
for the class (`PassingError`), never for the text.
"""


class PipelineError(Exception):
    """Anything that went wrong and was foreseen."""


class PassingError(PipelineError):
    """May pass by itself: the same attempt can succeed later."""


class Busy(PassingError):
    """Another process holds a lock for longer than this one was willing to wait."""


class LastingError(PipelineError):
    """Fails in the same way until a person changes something."""


class InvalidSettings(LastingError):
    """A setting in the environment is wrong; the message names the variable."""


class InvalidRequest(LastingError):
    """What a run was asked to do is wrong or impossible; the message names the value and what is allowed."""


class UnreadableArchive(LastingError):
    """A file that cannot be read as what its name says it is."""


class StoreError(LastingError):
    """The lake or the catalog is not in a state that can be worked on."""
