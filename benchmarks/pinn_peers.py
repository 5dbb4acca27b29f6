"""Burgers' equation by jaxsci, DeepXDE and jinns: time of a step on the same problem, time to an error.

Steps: u_t + u u_x = ν u_xx on [−1, 1] × [0, 1], ν = 0.01/π, from −sin πx; the same network of 3 × 20 tanh
neurons with the same initial weights at the same points, in the same precision. With hard conditions all
take u = −sin πx + (1 − x²) t N; with soft ones the mean squares at 200 points of each of three sides are
added. The loss before the first step has to agree, or the figure is NaN. A figure is processor time; wall
time is in the details. Each library runs alone in its process, one after the other; JAX has two threads,
PyTorch one, its fastest.

Time to an error (relative L² on 256 × 101 points): jaxsci's `pinn.fit(model, key=key)`; DeepXDE's
examples/pinn_forward/Burgers.py, 15000 steps of Adam and then L-BFGS, 2540 points, in float32 as it is and in
float64; the notebook of jinns 1.10, natural gradient, 900 points, 3 × 16 neurons, float64. Wall time with
compilation, without the evaluation of errors; a median where there are several seeds.

The peers can be in environments of their own: `pip install deepxde torch jax flax` and `pip install jinns`
(Python ≥ 3.11), with `JAXSCI_DEEPXDE_PYTHON` and `JAXSCI_JINNS_PYTHON` their interpreters; by default, this
one.
"""

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxsci.pde import reference

from ._harness import ROOT, Better, Row

CASES = ("steps", "errors")
THREADS = "2"
ERRORS = (1e-2, 1e-3)
LIBRARIES = {
    "jaxsci": ("jaxsci",),
    "DeepXDE": ("deepxde", "torch", "jax", "flax"),
    "jinns": ("jinns",),
}
# Library, its own settings, and what it calls its least-squares method, if it has one.
CONTENDERS = {
    "jaxsci": ("jaxsci", {}, "Gauss–Newton"),
    "DeepXDE on PyTorch": ("DeepXDE", {"backend": "pytorch"}, None),
    "DeepXDE on JAX": ("DeepXDE", {"backend": "jax"}, None),
    "jinns": ("jinns", {}, "natural gradient"),
}


def _interpreter(library: str) -> str:
    return os.environ.get(f"JAXSCI_{library.upper()}_PYTHON", sys.executable)


def _missing(library: str) -> str | None:
    """How to install a library that is not there."""
    modules = LIBRARIES[library]
    test = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {modules!r})))"
    command = [_interpreter(library), "-c", test]
    there = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    return None if there else f"not installed: pip install {' '.join(modules)}"


def _run(library: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a peer's script prints last."""
    script = ROOT / "benchmarks" / "peers" / f"{library.lower()}_burgers.py"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"NPROC": THREADS, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    if settings["quick"]:
        environment |= {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [_interpreter(library), str(script), json.dumps(settings)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{script.name} with {settings} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _per_step(found: dict[str, Any]) -> dict[str, float]:
    """Median and spread [ms], from blocks of steps or from marks between them; the first two warm up."""
    blocks = found.get("blocks")
    if blocks is None:
        marks = found["marks"][2:]
        blocks = [[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(marks)]
    result = {"blocks": len(blocks), "steps": sum(n for n, _, _ in blocks)}
    for i, clock in ((1, "wall"), (2, "cpu")):
        each = [1e3 * block[i] / block[0] for block in blocks]
        result |= {f"{clock}_ms": statistics.median(each), f"{clock}_spread_ms": max(each) - min(each)}
    return result


def _steps(quick: bool, peers: dict[str, str | None], folder: Path) -> Iterator[Row]:
    for hard in (True,) if quick else (True, False):
        for n in (200,) if quick else (2000, 10000):
            for dtype in ("float64",) if quick or not hard else ("float64", "float32"):
                common = {
                    "task": "steps",
                    "quick": quick, "hard": hard, "points": n, "dtype": dtype,
                    "seconds": 0.1 if quick else 1.5, "file": str(folder / "points.npz"),
                    "cache": str(folder / "cache"),
                }  # fmt: skip
                label = f"{n} points, {dtype}, {'hard' if hard else 'soft'}"
                yield from _compared(label, common, peers, quick)


def _compared(label: str, common: dict[str, Any], peers: dict[str, str | None], quick: bool) -> Iterator[Row]:
    for method in ("adam",) if quick else ("adam", "second"):
        times: dict[str, dict[str, float]] = {}
        loss = None
        for name, (library, own, second) in CONTENDERS.items():
            if peers[library] is not None or (method == "second" and second is None):
                continue
            found = _run(library, common | own | {"method": method})
            times[name] = _per_step(found)
            called = "Adam" if method == "adam" else second
            # jaxsci goes first: it writes points and weights, and its loss is what the others' has to be.
            loss = found["loss"] if loss is None else loss
            agreed = method == "second" or math.isclose(found["loss"], loss, rel_tol=1e-4)
            if not agreed:
                times[name] |= {"cpu_ms": math.nan}
            detail = times[name] | {key: found[key] for key in ("compile_s", "loss")}
            detail |= {"versions": found.get("versions", {}), "load": os.getloadavg()[0]}
            yield Row(f"{label}, {called}: {name}", times[name]["cpu_ms"], "ms", detail=detail)
        ours = times.pop("jaxsci")
        if times:
            fastest = min(times, key=lambda name: times[name]["cpu_ms"])
            comparable = not any(math.isnan(time["cpu_ms"]) for time in times.values())
            ratio = ours["cpu_ms"] / times[fastest]["cpu_ms"] if comparable else math.nan
            wall = ours["wall_ms"] / min(time["wall_ms"] for time in times.values())
            what = "Adam" if method == "adam" else "Gauss–Newton"
            target = 1.0 if method == "adam" and not quick else None
            detail = {"fastest": fastest, "wall ratio": wall}
            yield Row(f"{label}, {what}: beside fastest", ratio, "x", target, detail=detail)


# Name, library, settings, seeds.
RECIPES = (
    ("jaxsci, float64", "jaxsci", {"dtype": "float64", "hard": True, "seconds": 300}, 3),
    ("jaxsci, float32", "jaxsci", {"dtype": "float32", "hard": True, "seconds": 60}, 1),
    ("DeepXDE, float32", "DeepXDE", {"dtype": "float32", "seconds": 600, "count": 15000}, 1),
    ("DeepXDE, float64", "DeepXDE", {"dtype": "float64", "seconds": 600, "count": 15000}, 1),
    ("jinns, float64", "jinns", {"dtype": "float64", "count": 300}, 3),
)


def _until(found: dict[str, Any], error: float) -> float:
    reached = (seconds for _, seconds, e in found["path"] if e <= error)
    return found["compile_s"] + next(reached, math.inf)


def _errors(quick: bool, peers: dict[str, str | None], folder: Path) -> Iterator[Row]:
    x, t = np.linspace(-1, 1, 16 if quick else 256), np.linspace(0, 1, 11 if quick else 101)
    grid = np.stack(np.meshgrid(x, t, indexing="ij"), axis=-1).reshape(-1, 2)
    source = reference.burgers()
    file = folder / "grid.npz"
    np.savez(file, grid=grid, exact=np.asarray(source(grid)))
    medians: dict[str, dict[float, float]] = {}
    for name, library, own, seeds in RECIPES:
        if peers[library] is not None or (quick and name != "jaxsci, float64"):
            continue
        common = {
            "task": "recipe",
            "quick": quick,
            "hard": False,
            "backend": "pytorch",
            "file": str(file),
            "enough": 1e-4,
        }
        common |= {"cache": str(folder / "cache")}
        runs = [
            _run(library, common | own | {"seed": seed} | ({"seconds": 1} if quick else {}))
            for seed in range(1 if quick else seeds)
        ]
        last = [run["path"][-1] for run in runs]
        detail = {
            "seeds": len(runs), "steps": [p[0] for p in last], "seconds": [p[1] for p in last],
            "errors at the end": [p[2] for p in last], "compile_s": [run["compile_s"] for run in runs],
            "error of the reference": source.error, "load": os.getloadavg()[0],
            "path of seed 0": runs[0]["path"][:: max(1, len(runs[0]["path"]) // 60)],
        }  # fmt: skip
        medians[name] = {}
        for error in ERRORS:
            each = [_until(run, error) for run in runs]
            medians[name][error] = statistics.median(each)
            row = f"{name}: seconds to {error:.0e}"
            yield Row(row, medians[name][error], "s", detail=detail | {"each": each})
        yield Row(f"{name}: error at the end", statistics.median(p[2] for p in last))
    others = {name: found for name, found in medians.items() if not name.startswith("jaxsci")}
    for error in ERRORS if others else ():
        fastest = min(others, key=lambda name: others[name][error])
        ours = medians["jaxsci, float64"][error]
        target = 10.0 if error == 1e-3 and not quick else None
        detail = {name: found[error] / ours for name, found in others.items()} | {"fastest": fastest}
        row = f"time of the fastest peer to {error:.0e} beside ours"
        yield Row(row, others[fastest][error] / ours, "x", target, Better.HIGHER, detail)


def run(quick: bool, only: str | None = None) -> Iterator[Row]:
    peers = {library: _missing(library) for library in LIBRARIES}
    for library, reason in peers.items():
        if reason is not None:
            yield Row(f"{library}: {reason}", math.nan)
    with tempfile.TemporaryDirectory() as folder:
        for name, part in zip(CASES, (_steps, _errors), strict=True):
            if only is None or only == name:
                yield from part(quick, peers, Path(folder))
