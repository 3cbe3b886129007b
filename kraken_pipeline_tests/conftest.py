"""What all tests share: how long Hypothesis searches."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples in every run, so that a failure is one in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", deadline=None, max_examples=40, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=int(os.environ.get("N","1000")))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
