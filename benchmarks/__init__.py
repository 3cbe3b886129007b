"""How fast, and in how much memory: every figure a ratio against the bare library doing the same work in the same run.

`python -m benchmarks` makes the input, measures and prints one table. `figures` says what is measured and what is
required, `archives` makes the input, `sides` does the work of either side in a process of its own, `measure` starts
these processes.
"""
