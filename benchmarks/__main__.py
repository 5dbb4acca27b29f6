"""The command line of the benchmarks."""

import os
import sys

# Cases whose rows are CPU times of programs of a few milliseconds: on one core, since threads that wait for
# work use time as well.
PINNED = {"implicit", "linear", "linear_direct"}

if PINNED.intersection(sys.argv) and "sched_setaffinity" in vars(os):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
else:
    # Before JAX starts: batched LAPACK calls side by side can wait for each other for ever in a small
    # thread pool of XLA's CPU client.
    os.environ.setdefault("NPROC", "8")

if "gradients" in sys.argv:
    # One cell in seven runs on four simulated devices, and all are programs of a few operations whose
    # time is that of their compilation.
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # its problems are arrays made at import
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

from ._harness import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
