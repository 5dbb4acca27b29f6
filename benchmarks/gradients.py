"""Right, loud or silently wrong: derivatives of a solve, beside Optimistix and JAXopt.

A cell is one condition, one transformation and one mode of differentiation, or one hazard. It is

- right: the error relative to the largest entry of the exact derivative is at most 1e-4 (float32: 1e-3);
- loud: there is no answer, and the library says so by an exception or NaN;
- refused: there is an answer, and the library raises an exception or gives NaN;
- WRONG: a finite number that is not the answer, without a word.
"""

import contextlib
import dataclasses
import enum
import functools
import io
import logging
import math
import pathlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ._conditions import LIBRARIES, POINT, Condition, conditions, derivatives
from ._harness import Better, Row
from ._hazards import HAZARDS, LIBRARIES as SOLVES, Hazard

X64 = True

SHIFTS = jnp.array([[0.0, 0.0], [0.05, -0.02], [-0.1, 0.04], [0.02, 0.03]])
DIRECTION = jnp.array([0.3, -1.0])


class Verdict(enum.Enum):
    RIGHT = "right"
    LOUD = "loud"
    REFUSED = "refused"
    WRONG = "WRONG"


@dataclasses.dataclass(frozen=True)
class Cell:
    library: str
    condition: str
    transform: str
    mode: str
    verdict: Verdict
    error: float
    message: str = ""


# --- the table: condition × transformation × mode -------------------------------------------------

MODES = {
    "grad": lambda f: jax.grad(lambda a: jnp.sum(jnp.sin(f(a)))),
    "jvp": lambda f: lambda a: jax.jvp(f, (a,), (DIRECTION,))[1],
    "fwd-fwd": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "rev-rev": lambda f: jax.jacrev(jax.jacrev(f)),
    "fwd-rev": lambda f: jax.jacfwd(jax.jacrev(f)),
    "rev-fwd": lambda f: jax.jacrev(jax.jacfwd(f)),
}


def _over_mesh(f):
    mesh = jax.make_mesh((4,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("lanes")

    def apply(a):
        lanes = lambda shifts: jax.vmap(lambda s: f(a + s))(shifts)
        return jax.shard_map(lanes, mesh=mesh, in_specs=spec, out_specs=spec)(SHIFTS).sum(0)

    return apply


def _by_scan(f):
    zero = lambda a: jnp.zeros_like(jax.eval_shape(f, a))
    return lambda a: jax.lax.scan(lambda c, s: (c + f(a + s), None), zero(a), SHIFTS)[0]


def _by_cond(f):
    other = lambda a: jnp.zeros_like(jax.eval_shape(f, a)) + a[0]
    return lambda a: jax.lax.cond(a[0] > 0, f, other, a)


TRANSFORMS = {
    "plain": lambda f: f,
    "jit": lambda f: f,
    "vmap": lambda f: lambda a: jax.vmap(lambda s: f(a + s))(SHIFTS).sum(0),
    "scan": _by_scan,
    "cond": _by_cond,
    "checkpoint": jax.checkpoint,
    "shard_map": _over_mesh,
}
SUMMED = ("vmap", "scan", "shard_map")


def _expected(condition: Condition, summed: bool) -> dict[str, np.ndarray]:
    points = POINT + SHIFTS if summed else POINT[None]
    y, first, second = (x.sum(0) for x in derivatives(condition, points))
    return dict.fromkeys(MODES, second) | {"grad": np.cos(y) @ first, "jvp": first @ np.asarray(DIRECTION)}


def _quietly(fn: Callable):
    """fn(), without the reports that libraries print before they raise."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jax.block_until_ready(fn())


def _attempt(fn: Callable):
    """(the result, None) or (None, what was raised)."""
    try:
        return _quietly(fn), None
    except Exception as error:  # whatever a library raises is what this benchmark is about
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0][:160]}"


def _judge(value, expected, tolerance: float) -> tuple[Verdict, float]:
    value, expected = np.asarray(value), np.asarray(expected)
    known = np.isfinite(expected)
    scale = np.max(np.abs(expected[known]), initial=0)
    error = np.max(np.abs(value[known] - expected[known]), initial=0) / (scale if scale > 0 else 1)
    # A loss (the first axis) without a derivative has to say so.
    lost = lambda x: ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    if (lost(expected) & ~lost(value)).any():
        return Verdict.WRONG, math.inf
    if not math.isfinite(error):
        return Verdict.REFUSED, math.nan
    return (Verdict.RIGHT if error <= tolerance else Verdict.WRONG), float(error)


def _table(condition: Condition, transform: str, library: str) -> Iterator[Cell]:
    f = TRANSFORMS[transform](condition.ways[library])
    run = (lambda g: g(POINT)) if transform == "plain" else (lambda g: jax.jit(g)(POINT))
    # All modes in one program where the library can do all; it is the quicker way.
    together, _ = _attempt(lambda: run(lambda a: {name: mode(f)(a) for name, mode in MODES.items()}))
    for name, mode in MODES.items():
        if together is not None:
            value, message = together[name], None
        else:
            value, message = _attempt(lambda mode=mode: run(mode(f)))
        if message is not None:
            yield Cell(library, condition.name, transform, name, Verdict.REFUSED, math.nan, message)
        else:
            verdict, error = _judge(value, _expected_of(condition, transform in SUMMED)[name], 1e-4)
            yield Cell(library, condition.name, transform, name, verdict, error)


@functools.cache
def _expected_by_name(name: str, summed: bool):
    (condition,) = (c for c in conditions() if c.name == name)
    return _expected(condition, summed)


def _expected_of(condition: Condition, summed: bool):
    return _expected_by_name(condition.name, summed)


# --- the hazards ------------------------------------------------------------------------------------


def _hazard(hazard: Hazard, kind: str, library: str) -> Iterator[Cell]:
    loss = hazard.loss(SOLVES[library], kind)
    point = POINT.astype(hazard.dtype)
    direction = DIRECTION.astype(hazard.dtype)
    # A lane of its own for every loss, where there are several.
    modes = {
        "grad": lambda f: jax.jacrev(f)(point),
        "jvp": lambda f: jax.jvp(f, (point,), (direction,))[1],
    }
    for name, mode in modes.items():
        value, message = _attempt(lambda mode=mode: jax.jit(lambda: mode(loss))())
        place = (library, kind, hazard.name, name)
        if hazard.expected is None:
            silent = message is None and np.isfinite(np.asarray(value)).all()
            verdict = Verdict.WRONG if silent else Verdict.LOUD
            yield Cell(*place, verdict, math.nan, message or "")
        elif message is not None:
            yield Cell(*place, Verdict.REFUSED, math.nan, message)
        else:
            exact = {"grad": jax.jacfwd(hazard.expected)(POINT)}
            exact["jvp"] = exact["grad"] @ DIRECTION
            yield Cell(*place, *_judge(value, exact[name], hazard.tolerance))


# --- report ---------------------------------------------------------------------------------------

_SIGN = {Verdict.RIGHT: "", Verdict.LOUD: "loud", Verdict.REFUSED: "refused", Verdict.WRONG: "WRONG"}


def _entry(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.error:.0e}" if cell.verdict is Verdict.RIGHT else _SIGN[cell.verdict]


def matrix(cells: list[Cell]) -> str:
    """The cells as a table in Markdown: a row for each condition and transformation or hazard, and for
    each mode the libraries' entries: the relative error where right."""
    found = {(c.condition, c.transform, c.mode, c.library): c for c in cells}
    out = []
    for modes in (tuple(MODES), ("grad", "jvp")):
        places = dict.fromkeys(
            (c.condition, c.transform)
            for c in cells
            if (c.transform in TRANSFORMS) == (modes != ("grad", "jvp"))
        )
        if not places:
            continue
        heads = [f"{m} {name}" for m in modes for name in LIBRARIES]
        what = "transformation" if len(modes) > 2 else "hazard"
        out += [f"| condition | {what} | " + " | ".join(heads) + " |", "|---|---" + "|---" * len(heads) + "|"]
        for place in places:
            entries = [_entry(found.get((*place, m, name))) for m in modes for name in LIBRARIES]
            out.append(f"| {place[0]} | {place[1]} | " + " | ".join(entries) + " |")
        out.append("")
    return "\n".join(out)


def _cells(quick: bool) -> Iterator[Cell]:
    chosen = [c for c in conditions() if not quick or c.name in ("root", "KKT, inequality")]
    transforms = ("jit", "scan") if quick else tuple(TRANSFORMS)
    for condition in chosen:
        for transform in transforms:
            for library, way in condition.ways.items():
                if way is not None:
                    yield from _table(condition, transform, library)
    for hazard in HAZARDS:
        for kind in hazard.kinds:
            if not quick or kind == "root":
                for library in SOLVES:
                    yield from _hazard(hazard, kind, library)


def run(quick: bool) -> Iterator[Row]:
    logging.getLogger("jax").setLevel(logging.CRITICAL)  # reports of callbacks that raise, as intended
    cells: list[Cell] = []
    place = None
    for cell in _cells(quick):
        cells.append(cell)
        if place != (cell.condition, cell.transform):
            place = (cell.condition, cell.transform)
            print(f"{len(cells):5d} cells: {', '.join(place)}", file=sys.stderr, flush=True)
    text = matrix(cells)
    print(text)
    folder = pathlib.Path("out") / "gradients"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.md").write_text(text, encoding="utf-8")
    for library in LIBRARIES:
        own = [c for c in cells if c.library == library]
        count = Counter(c.verdict for c in own)
        ours = library == "jaxsci"
        as_json = [dataclasses.asdict(c) | {"verdict": c.verdict.value} for c in own]
        enough = 300.0 if ours and not quick else None
        yield Row(f"{library}: cells", len(own), "", enough, Better.HIGHER, detail={"cells": as_json})
        yield Row(f"{library}: right", count[Verdict.RIGHT])
        yield Row(f"{library}: loud, no answer exists", count[Verdict.LOUD])
        yield Row(f"{library}: refused, an answer exists", count[Verdict.REFUSED], "", 0.0 if ours else None)
        yield Row(f"{library}: silently wrong", count[Verdict.WRONG], "", 0.0 if ours else None)
        errors = [c.error for c in own if c.verdict is Verdict.RIGHT and c.transform != "float32"]
        yield Row(f"{library}: largest error of a right cell", max(errors, default=math.nan))
