"""The command line of the benchmarks."""

import os

# Before JAX starts: batched LAPACK calls side by side can wait for each other for ever in a small
# thread pool of XLA's CPU client.
os.environ.setdefault("NPROC", "8")

from ._harness import main

if __name__ == "__main__":
    raise SystemExit(main())
