"""The state of training, on the host, and the compiled program of a stage."""

import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import pde
from .._solution import RESULTS
from ..train._checkpoint import CheckpointError, pack, unpack
from ..train._run import columns
from ._driver import make_driver
from ._model import EquationTerm
from ._terms import Objective
from ._unknown import cast, precision, split
from ._weighing import Weighing

CAPACITY = 1024
FIGURES = ("loss", "damping", "gain")


class StageRun:
    """One stage: its points, its program, its state."""

    def __init__(self, index, stage, model, unknown, counts, sampler, key, reference):
        self.index, self.stage, self.key = index, stage, key
        self.unknown, rest = split(model, unknown)
        self.dtype = precision(self.unknown)
        terms = model.terms()
        self.sampler, self.counts = sampler, counts
        self.inputs = cast(
            {
                term.name: term.draw(model, counts[not isinstance(term, EquationTerm)], sampler, fold)
                for term, fold in zip(
                    terms, jax.random.split(jax.random.fold_in(key, 0), len(terms)), strict=True
                )
            },
            self.dtype,
        )
        self.objective = Objective(terms, model, self.inputs, rest, stage.chunk)
        self.driver = make_driver(stage, self.objective)
        names = model.equation.coordinates
        self.weighing = Weighing(stage.weights, self.objective, names.index("t") if "t" in names else None)
        self.reference = None if reference is None else cast(reference, self.dtype)
        self.taken, self.done, self.state, self.weights = 0, False, None, None
        self.evaluated_at = -1
        self.compiled: Any = None
        self.refreshed: Any = None
        self.exchanged: Any = None

    def begin(self, run) -> None:
        """Starts, or goes on from a checkpoint of this stage; and compiles."""
        started = time.perf_counter()
        steps_key = jax.random.fold_in(self.key, 1)
        driver, weighing = self.driver, self.weighing

        @jax.jit
        def first(unknown, inputs):
            memory = weighing.start(unknown, inputs)
            weights, later = weighing(unknown, inputs, memory, jnp.array(0), steps_key)
            # A method that is given weights in each step begins with those of step 0.
            memory = memory if driver.weighs_each_step else later
            return driver.start(unknown, inputs, weights), weights, memory

        def refreshed(unknown, state, inputs, memory, step):
            key = jax.random.fold_in(steps_key, step)
            weights, memory = weighing(unknown, inputs, memory, step, key)
            return driver.refresh(unknown, state, inputs, weights), weights, memory

        def chunk(unknown, state, weights, memory, inputs, start, count):
            def advance(carry):
                i, unknown, state, weights, memory, history, _ = carry
                draw, weigh, turn = jax.random.split(jax.random.fold_in(steps_key, start + i), 3)
                batch = driver.batch(inputs, draw)
                now = weights
                if driver.weighs_each_step:
                    now, memory = weighing(unknown, batch, memory, start + i, weigh)
                unknown, state, figures, done = driver.step(unknown, state, batch, now, turn)
                row = jnp.stack([jnp.asarray(figures.get(n, jnp.nan), self.dtype) for n in FIGURES])
                return i + 1, unknown, state, weights, memory, history.at[i].set(row), done

            zero = jnp.zeros_like(count)
            history = jnp.full((CAPACITY, len(FIGURES)), jnp.nan, self.dtype)
            carry = (zero, unknown, state, weights, memory, history, jnp.array(False))
            i, *out, done = jax.lax.while_loop(lambda c: ~c[-1] & (c[0] < count), advance, carry)
            return *out, i, done

        self.state, self.weights, self.memory = first(self.unknown, self.inputs)
        run.restore(self)
        if not self.over:
            ready = lambda fn, *like: jax.jit(fn).lower(*like).compile()
            zero, rule = np.int32(0), self.stage.resample
            state = (self.unknown, self.state, self.weights, self.memory, self.inputs)
            self.compiled = ready(chunk, *state, zero, zero)
            if rule is not None or self.exchanges_weights:
                self.refreshed = ready(refreshed, *state[:2], self.inputs, self.memory, zero)
            if rule is not None:
                points = self.inputs["equation"][0]
                pool = jax.ShapeDtypeStruct((rule.pool(len(points)), points.shape[1]), points.dtype)
                self.exchanged = ready(self._exchanged, self.unknown, points, pool, steps_key)
        run.compile_seconds += time.perf_counter() - started

    @property
    def over(self) -> bool:
        """Whether all steps are taken, or the method has nothing left to do and no new points to expect."""
        return (self.done and self.stage.resample is None) or self.taken >= self.stage.steps

    def until_event(self, evaluate_every: int) -> int:
        """Steps until the next evaluation, exchange of points, or the end."""
        limits = [self.stage.steps - self.taken, CAPACITY, evaluate_every - self.taken % evaluate_every]
        if self.stage.resample is not None or self.exchanges_weights:
            limits.append(self.stage.every - self.taken % self.stage.every)
        return min(limits)

    @property
    def exchanges_weights(self) -> bool:
        """Whether weights change between chunks only."""
        return self.stage.weights is not None and not self.driver.weighs_each_step

    def advance(self, count: int):
        """At most `count` steps; the figures of each."""
        due = self.taken > 0 and (self.done or self.taken % self.stage.every == 0)
        if due and self.stage.resample is not None:
            self._exchange()
        if due and (self.stage.resample is not None or self.exchanges_weights):
            self.state, self.weights, self.memory = self.refreshed(
                self.unknown, self.state, self.inputs, self.memory, np.int32(self.taken)
            )
        state = (self.unknown, self.state, self.weights, self.memory, self.inputs)
        out = jax.block_until_ready(self.compiled(*state, np.int32(self.taken), np.int32(count)))
        self.unknown, self.state, self.weights, self.memory, history, taken, done = out
        self.taken += int(taken)
        self.done = bool(done)
        return np.asarray(history)[: int(taken)]

    def _exchange(self) -> None:
        rule, points = self.stage.resample, self.inputs["equation"][0]
        draw, turn = jax.random.split(jax.random.fold_in(jax.random.fold_in(self.key, 2), self.taken))
        model = self.objective.model(self.unknown)
        candidates = model.domain.interior(rule.pool(len(points)), pde.Uniform(), draw).astype(self.dtype)
        points = self.exchanged(self.unknown, points, candidates, turn)
        self.inputs = self.inputs | {"equation": (points,)}

    def _exchanged(self, unknown, points, candidates, key):
        model = self.objective.model(unknown)
        score = lambda p: jnp.sum(jnp.abs(jax.vmap(model.residual)(p)), axis=1)
        return self.stage.resample(points, score, candidates, key)

    def model(self):
        """The model now."""
        return self.objective.model(self.unknown)

    def due(self, every: int) -> bool:
        """Whether an evaluation is due."""
        return self.evaluated_at != self.taken and (self.taken % every == 0 or self.over)

    def evaluate(self) -> dict[str, float]:
        """½ mean r² of each term, and the error."""
        self.evaluated_at = self.taken
        found = {k: float(v) for k, v in _sizes(self.objective, self.unknown, self.inputs).items()}
        if self.reference is not None:
            found["error"] = float(_error(self.objective, self.unknown, *self.reference))
        return found

    def ending(self) -> str:
        """How the method says that it ended."""
        result = self.driver.ending(self.state)
        if result is None or not self.done:
            return ""
        return RESULTS[result] or "The method has converged."  # pyright: ignore


@eqx.filter_jit
def _sizes(objective, unknown, inputs):
    return {name: 0.5 * jnp.mean(r**2) for name, r in objective.residuals(unknown, inputs).items()}


@eqx.filter_jit
def _error(objective, unknown, points, values):
    found = jax.lax.map(objective.model(unknown), points, batch_size=4096)
    return jnp.linalg.norm(found - values) / jnp.linalg.norm(values)


class Run:
    """What all stages share: counts, histories, checkpoints."""

    def __init__(self, checkpoints, found, stages: int):
        self.checkpoints = checkpoints
        self.found = found
        self.step = 0
        self.seconds = 0.0
        self.compile_seconds = 0.0
        self.last_error: float | None = None
        self._rows: list[np.ndarray] = []
        self._evaluations: list[dict[str, float]] = []
        self._saved = -1
        if found is not None:
            path, arrays, meta = found
            if meta.get("kind") != "pinn":
                raise CheckpointError(f"{path} is no checkpoint of `pinn.fit`: use another `directory`.")
            if meta["stage"] >= stages:
                raise CheckpointError(
                    f"{path} was written in stage {meta['stage']} (from 0), and there are {stages} stages "
                    "now: give the same stages, `resume=False` to start over, or another `directory`."
                )
            self.step, self.seconds = meta["step"], meta["seconds"]
            self._rows = [arrays["history"]]
            names = meta["evaluations"]
            table = [arrays[f"evaluations/{name}"] for name in names]
            self._evaluations = [
                {n: float(v) for n, v in zip(names, row, strict=True) if not math.isnan(v)}
                for row in zip(*table, strict=True)
            ]
            if self._evaluations:
                self.last_error = self._evaluations[-1].get("error")

    @property
    def first(self) -> int:
        """The index of the stage to begin with: what those before it found is in the checkpoint."""
        return 0 if self.found is None else self.found[2]["stage"]

    def restore(self, stage: StageRun) -> None:
        """Brings a stage to where the checkpoint left it, if it is of this stage."""
        if self.found is None or self.found[2]["stage"] != stage.index:
            return
        path, arrays, meta = self.found
        like = (stage.unknown, stage.state, stage.weights, stage.memory, stage.inputs)
        restored = unpack("stage", like, arrays, path)
        stage.unknown, stage.state, stage.weights, stage.memory, stage.inputs = restored
        stage.taken, stage.done, stage.evaluated_at = meta["taken"], meta["done"], meta["evaluated_at"]
        self._saved = self.step

    def advance(self, stage: StageRun, count: int):
        """The last step's figures, the seconds, and the number of steps taken."""
        started = time.perf_counter()
        rows = stage.advance(count)
        spent = time.perf_counter() - started
        self.step += len(rows)
        self.seconds += spent
        index = np.full((len(rows), 1), stage.index, np.float64)
        self._rows.append(np.concatenate([index, rows.astype(np.float64)], axis=1))
        last = rows[-1] if len(rows) else np.full(len(FIGURES), np.nan)
        return dict(zip(FIGURES, map(float, last), strict=True)), spent, len(rows)

    def evaluate(self, stage: StageRun) -> dict[str, float]:
        """Records an evaluation."""
        found = {"step": float(self.step), "seconds": self.seconds, **stage.evaluate()}
        self._evaluations.append(found)
        self.last_error = found.get("error")
        return found

    def history(self) -> dict[str, np.ndarray]:
        """By name, one value a step."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 1 + len(FIGURES)))
        return dict(zip(("stage", *FIGURES), rows.T, strict=True))

    def evaluated(self) -> dict[str, np.ndarray]:
        """By name, one value an evaluation."""
        return columns(self._evaluations)

    def save(self, stage: StageRun) -> None:
        """Writes a checkpoint, unless this step is saved."""
        if self.checkpoints is None or self._saved == self.step:
            return
        state = (stage.unknown, stage.state, stage.weights, stage.memory, stage.inputs)
        table = self.evaluated()
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 1 + len(FIGURES)))
        arrays = {**pack("stage", state), "history": rows}
        arrays |= {f"evaluations/{name}": column for name, column in table.items()}
        meta = {
            "kind": "pinn",
            "stage": stage.index,
            "taken": stage.taken,
            "done": stage.done,
            "evaluated_at": stage.evaluated_at,
            "step": self.step,
            "seconds": self.seconds,
            "evaluations": [*table],
        }
        if self.checkpoints.save(self.step, arrays, meta):
            self._saved = self.step
