"""The benchmark harness: rows with targets, measurements, stamps, and the command line.

A case is a module `benchmarks/<case>.py` whose docstring's first line says what it compares and
which has `def run(quick: bool) -> Iterable[Row]`. It may set `X64 = True` to run in float64.
"""

import argparse
import contextlib
import dataclasses
import datetime
import enum
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import pkgutil
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import equinox as eqx
import jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = (
    "jaxsci", "jax", "jaxlib", "equinox", "optimistix", "lineax", "diffrax", "optax", "jaxopt",
    "numpy", "scipy",
)  # fmt: skip


class Better(enum.Enum):
    """Which way a figure should go."""

    LOWER = "<="
    HIGHER = ">="


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of a case.

    **Arguments:**

    - `name`: what was measured; unique in its case.
    - `figure`: the number, in `unit` ("" for a ratio or a count).
    - `target`: what the figure must reach; `None` for a row that only informs.
    - `better`: whether the figure must be at most (`LOWER`) or at least (`HIGHER`) the target.
    - `detail`: whatever else belongs in the JSON: sizes, steps, the error beside a time.
    """

    name: str
    figure: float
    unit: str = ""
    target: float | None = None
    better: Better = Better.LOWER
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the target is met (NaN meets none); `None` without a target."""
        if self.target is None:
            return None
        if self.better is Better.LOWER:
            return bool(self.figure <= self.target)
        return bool(self.figure >= self.target)

    def as_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"better": self.better.name.lower(), "holds": self.holds}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What `measure` found. Times in seconds: medians over the repeats, spreads max - min.

    `wall_s` is elapsed time, `cpu_s` the processor time of the whole process (every thread), which
    a busy machine disturbs less. `compile_s` is tracing, lowering and compiling. `memory` holds
    XLA's sizes in bytes for the compiled program (empty for a host function or where the backend
    does not tell); `peak_bytes` is its peak, as far as it is known.
    """

    compile_s: float
    wall_s: float
    wall_spread_s: float
    cpu_s: float
    cpu_spread_s: float
    repeats: int
    memory: Mapping[str, int]
    result: Any = dataclasses.field(repr=False)

    @property
    def peak_bytes(self) -> int | None:
        if not self.memory:
            return None
        held = self.memory["argument"] + self.memory["output"] - self.memory["alias"]
        return max(self.memory["peak"], held + self.memory["temp"])

    def as_detail(self) -> dict[str, Any]:
        """Everything but the result, for a row's `detail`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["result"]
        return fields | {"peak_bytes": self.peak_bytes}


def measure(fn: Callable, *args: Any, repeats: int = 5) -> Measurement:
    """Compiles `fn(*args)` once, then times it.

    Arrays in `fn` (it may be an Equinox module) and in `args` are inputs of the program, so that
    nothing is folded away as a constant; everything else is static. One run warms up, then
    `repeats` runs are timed, each until its results are ready.
    """
    program = compiled(fn, *args)
    return dataclasses.replace(measure_host(program.run, repeats=repeats), **program.as_fields())


def measure_host(fn: Callable, *args: Any, repeats: int = 5) -> Measurement:
    """Times `fn(*args)` as it is: a SciPy call, or a whole script step. One run warms up."""
    return measure_in_turns({"": lambda: fn(*args)}, repeats=repeats)[""]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function with its arguments."""

    run: Callable[[], Any]
    compile_s: float
    memory: Mapping[str, int]

    def as_fields(self) -> dict[str, Any]:
        return {"compile_s": self.compile_s, "memory": self.memory}


def compiled(fn: Callable, *args: Any) -> Program:
    """`fn(*args)`, compiled; see `measure`."""
    dynamic, static = eqx.partition((fn, args), eqx.is_array)

    def program(dynamic):
        fn, args = eqx.combine(dynamic, static)
        return eqx.filter(fn(*args), eqx.is_array)

    start = time.perf_counter()
    binary = jax.jit(program).lower(dynamic).compile()
    return Program(lambda: binary(dynamic), time.perf_counter() - start, memory_of(binary))


def measure_in_turns(runs: Mapping[str, Callable[[], Any]], *, repeats: int = 5) -> dict[str, Measurement]:
    """Times several functions round by round, so that what a machine does besides meets all alike."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    results = {name: jax.block_until_ready(run()) for name, run in runs.items()}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            results[name] = jax.block_until_ready(run())
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
    return {
        name: Measurement(
            compile_s=0.0,
            wall_s=statistics.median(wall[name]),
            wall_spread_s=max(wall[name]) - min(wall[name]),
            cpu_s=statistics.median(cpu[name]),
            cpu_spread_s=max(cpu[name]) - min(cpu[name]),
            repeats=repeats,
            memory={},
            result=results[name],
        )
        for name in runs
    }


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
    """XLA's sizes in bytes, as in `Measurement.memory`."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return {}
    names = ("argument", "output", "temp", "alias", "generated_code")
    sizes = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in names}
    # Backends and versions without this figure: the sum in `peak_bytes` stands alone.
    return sizes | {"peak": int(getattr(analysis, "peak_memory_in_bytes", 0))}


def peak_rss_bytes() -> int:
    """The most memory this process ever held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def stamp(argv: Sequence[str]) -> dict[str, Any]:
    """Where, when and with what a run was made."""
    devices = jax.devices()
    status = _git("status", "--porcelain")
    blas = None
    if importlib.util.find_spec("threadpoolctl") is not None:
        import threadpoolctl

        blas = [
            {k: pool.get(k) for k in ("internal_api", "version", "architecture", "num_threads")}
            for pool in threadpoolctl.threadpool_info()
        ]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": ["python", "-m", "benchmarks", *argv],
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "host": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else None,
            "load_1min": os.getloadavg()[0],
            "blas": blas,
        },
        "environment": {k: os.environ.get(k) for k in ("NPROC", "XLA_FLAGS", "OMP_NUM_THREADS")},
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "precision": {
            "x64": bool(jax.config.jax_enable_x64),
            "matmul": jax.config.jax_default_matmul_precision,
        },
    }


def find_cases() -> dict[str, str]:
    """Case name → module name, for every public module beside this file."""
    package = pathlib.Path(__file__).parent
    return {
        info.name: f"benchmarks.{info.name}"
        for info in pkgutil.iter_modules([str(package)])
        if not info.name.startswith("_")
    }


def _summary(case: ModuleType) -> str:
    return (case.__doc__ or "").strip().partition("\n")[0]


_LINE = "{:<52} {:>12} {:<8} {:>14}  {}"


def _table_line(row: Row) -> str:
    target = "" if row.target is None else f"{row.better.value} {row.target:.4g}"
    holds = {None: "", True: "yes", False: "NO"}[row.holds]
    return _LINE.format(row.name, f"{row.figure:.4g}", row.unit, target, holds).rstrip()


def _rows(name: str, case: ModuleType, quick: bool, only: str | None) -> Iterator[Row]:
    rows: Iterable[Row] = case.run(quick) if only is None else case.run(quick, only)
    seen = set()
    for row in rows:
        if row.name in seen:
            raise ValueError(f"case {name!r} has two rows named {row.name!r}: names must differ")
        seen.add(row.name)
        yield row


def _plain(value: Any) -> Any:
    """What JSON cannot hold, as something it can: array scalars as numbers, the rest as text."""
    if isinstance(value, jax.Array) or type(value).__module__ == "numpy":
        return value.tolist()
    return str(value)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become the strings "nan", "inf", "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _write_json(path: pathlib.Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(json.dumps(report, default=_plain))
    text = json.dumps(_finite(report), indent=2, allow_nan=False)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text + "\n")
    pathlib.Path(file.name).replace(path)


def main(argv: Sequence[str] | None = None, cases: Mapping[str, str] | None = None) -> int:
    """Runs one case, or lists them. Returns the exit status: 1 if `--check` found a miss.

    `cases` maps case names to module names; by default the modules of this package.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    cases = find_cases() if cases is None else cases
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", metavar="CASE", help="a case, or `list`")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer repeats")
    parser.add_argument("--check", action="store_true", help="exit 1 if a row misses its target")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--case", dest="only", metavar="NAME", help="one part of a case, of its CASES")
    options = parser.parse_args(argv)

    if options.case == "list":
        for name, module in cases.items():
            print(f"{name:<24} {_summary(importlib.import_module(module))}".rstrip())
        if not cases:
            print("no cases yet")
        return 0
    if options.case not in cases:
        known = ", ".join(cases) or "none yet"
        parser.error(f"there is no case {options.case!r}; there are: {known}")

    case = importlib.import_module(cases[options.case])
    parts = getattr(case, "CASES", {})
    if options.only is not None and options.only not in parts:
        known = ", ".join(parts) or "none: it runs as a whole"
        parser.error(f"{options.case!r} has no part {options.only!r}; it has {known}")
    if getattr(case, "X64", False):
        jax.config.update("jax_enable_x64", True)
    report = stamp(argv) | {"case": options.case, "quick": options.quick, "complete": False}
    device, versions = report["device"], report["versions"]
    print(f"{options.case}: {_summary(case)}")
    print(
        f"{device['count']} {device['platform']} ({device['kind']}), jax {versions['jax']},"
        f" {'float64' if report['precision']['x64'] else 'float32'}"
    )
    print(_LINE.format("row", "figure", "unit", "target", "holds"), flush=True)

    rows: list[Row] = []
    start = time.perf_counter()
    try:
        for row in _rows(options.case, case, options.quick, options.only):
            rows.append(row)
            print(_table_line(row), flush=True)
        report["complete"] = True
    finally:
        # A case that fails half-way leaves what it had, marked as incomplete.
        if options.json is not None:
            report |= {
                "seconds": time.perf_counter() - start,
                "peak_rss_bytes": peak_rss_bytes(),
                "rows": [row.as_json() for row in rows],
            }
            _write_json(options.json, report)

    missed = [row.name for row in rows if row.holds is False]
    judged = sum(row.holds is not None for row in rows)
    print(
        f"{judged - len(missed)} of {judged} targets hold; {time.perf_counter() - start:.1f} s,"
        f" peak memory of the process {peak_rss_bytes() / 2**20:.0f} MiB"
    )
    if missed:
        print("missed: " + "; ".join(missed))
    if options.check and not judged:
        print("--check: no row has a target")
    return 1 if options.check and (missed or not judged) else 0
