"""The command line of the benchmarks."""

from ._harness import main

if __name__ == "__main__":
    raise SystemExit(main())
