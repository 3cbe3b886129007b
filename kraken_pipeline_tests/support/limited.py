"""`python -m kraken_pipeline_tests.support.limited BYTES ARGUMENTS`: the command line with a limit on files' sizes."""

from __future__ import annotations

import resource
import signal
import sys

from kraken_pipeline.__main__ import main

if __name__ == "__main__":
    size = int(sys.argv.pop(1))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    main()
