"""Physics-informed networks on fifteen problems: errors beside the published ones, on two cores.

For each case the relative L² error on a grid that no training point was chosen for, median and worst of
three seeds, in float64 and float32; the seconds of steps (compilation apart), and the memory of the process.
The largest of the fields' errors counts. Then Burgers' viscosity from data (`inverse`), and the derivative of
a trained network by it (`sensitivity`). `--case NAME` runs one of them.
"""

import statistics
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ._harness import Row, peak_rss_bytes
from ._pinn_cases import CASES as NETWORKS, Case
from ._pinn_parameters import inverse, sensitivity

X64 = True
SEEDS = 3
CASES = (*NETWORKS, "inverse", "sensitivity")


def _error(model, case: Case, points: np.ndarray, exact: np.ndarray) -> float:
    # Evaluated in float64, whatever the network's precision.
    found = np.asarray(jax.jit(lambda p: jax.lax.map(model, p, batch_size=4096))(jnp.asarray(points)))
    columns = lambda x: x[:, case.fields]
    gap = np.linalg.norm(columns(found) - columns(exact), axis=0)
    return float(np.max(gap / np.linalg.norm(columns(exact), axis=0)))


def _one(name: str, case: Case, quick: bool) -> Iterator[Row]:
    points = case.grid()
    if quick:
        points = points[:: max(1, len(points) // 500)]
    source = case.reference()
    exact = source(points)
    for dtype in (jnp.float64,) if quick else (jnp.float64, jnp.float32):
        errors, seconds, compiling = [], [], []
        for seed in range(1 if quick else SEEDS if dtype == jnp.float64 else 1):
            found = case.train(jax.random.key(seed), dtype, quick)
            errors.append(_error(found.model, case, points, exact))
            seconds.append(found.seconds)
            compiling.append(found.compile_seconds)
        label = f"{name}, {jnp.dtype(dtype).name}"
        judged = dtype == jnp.float64 and not quick
        detail = {
            "errors": errors,
            "seconds": seconds,
            "compile seconds": compiling,
            "published": case.published,
            "error of the reference": source.error,
            "peak MiB of the process": peak_rss_bytes() / 2**20,
        }
        yield Row(
            f"{label}: error, median",
            statistics.median(errors),
            "",
            case.target if judged else None,
            detail=detail,
        )
        yield Row(f"{label}: error, worst", max(errors), "")
        limit = 60 * case.minutes if judged else None
        yield Row(f"{label}: seconds", statistics.median(seconds), "s", limit)
        yield Row(f"{label}: seconds of compiling", statistics.median(compiling), "s")
    yield Row(f"{name}: error of the reference", source.error, "", case.target / 10)


def run(quick: bool, only: str | None = None) -> Iterator[Row]:
    for name, case in NETWORKS.items():
        if only is None or only == name:
            yield from _one(name, case, quick)
    if only in (None, "inverse"):
        yield from inverse(quick, SEEDS)
    if only in (None, "sensitivity"):
        yield from sensitivity(quick)
