"""Training in stages, each one compiled program."""

import dataclasses
import os
import pathlib
import signal
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import pde
from ..train import Status
from ..train._check import check_count, check_directory, check_key, check_one_process
from ..train._checkpoint import Checkpoints
from ..train._report import Log, Progress
from ..train._signals import Interrupted, Signals
from ..train._weights import Terms
from ._model import AbstractPINN, Choose
from ._result import Trained
from ._run import Run, StageRun
from ._stage import Stage, default_stages
from ._terms import Objective
from ._unknown import cast, moved, network_of, precision, split

_CHUNK_SECONDS = 1.0
_NONFINITE = (
    "The loss, its gradient or the step was not finite. The model is the last finite one. Use float64, lower "
    "the learning rate, clip gradients (`optax.clip_by_global_norm`), or look where the residual has no "
    "derivative."
)


@dataclasses.dataclass(frozen=True)
class Progressed:
    """What a callback of [`jaxsci.pinn.fit`][] is given after each compiled chunk.

    - `step`: steps so far; `stage`: the index of the stage.
    - `figures`: the last step's `"loss"` and what else the method tells.
    - `error`: at the last evaluation; NaN without a reference.
    - `model`: the model now.
    """

    step: int
    stage: int
    figures: dict[str, float]
    error: float
    model: AbstractPINN


def fit(
    model: AbstractPINN,
    stages: Iterable[Stage] | None = None,
    *,
    key: PRNGKeyArray,
    points: int = 2000,
    boundary_points: int = 200,
    sampler: pde.AbstractSampler | None = None,
    unknown: Choose = network_of,
    reference: tuple[Float[Array, "n d"], Float[Array, "n fields"]] | None = None,
    evaluate_every: int = 50,
    seconds: float | None = None,
    directory: str | os.PathLike[str] | None = None,
    resume: bool = True,
    checkpoint_every: int = 500,
    progress: bool = True,
    log: str | os.PathLike[str] | None = None,
    callbacks: Iterable[Callable[[Progressed], bool | None]] = (),
) -> Trained:
    """Makes the residual of a PINN small: min ½ Σ_terms mean(w r²), by one method after the other.

    Steps run in compiled calls of about a second; each stage is compiled once. The same call with the same
    key gives the same numbers, interrupted and resumed or not.

    **Arguments:**

    - `model`: a [`jaxsci.pinn.PINN`][].
    - `stages`: a list of [`jaxsci.pinn.Stage`][]; None: 500 steps of `jaxsci.solvers.GaussNewton`, the
      best choice for networks of some thousand parameters in float64, with points that follow the residual
      (`pde.RAD()` every 25 steps).
    - `key`: of points and batches.
    - `points`: points of the equation; `boundary_points`: of each soft condition.
    - `sampler`: how they are spread; `pde.Sobol()` by default.
    - `unknown`: (model) ↦ the parts to be found, a pytree of its nodes. The network by default;
      `lambda m: (m.network, m.equation.viscosity)` for an inverse problem.
    - `reference`: points (n, d) and values there (n, fields), to print an error; not used in training.
    - `evaluate_every`: steps between evaluations of the terms and of the error.
    - `seconds`: stop after so many seconds of steps, over all stages and resumed runs [s].
    - `directory`: for checkpoints and `log.jsonl`; None: nothing is written.
    - `resume`: go on from the newest checkpoint there.
    - `checkpoint_every`: steps between checkpoints. One is written at the end, too.
    - `progress`: whether to show a bar on stderr.
    - `log`: a JSONL file; None: `directory/log.jsonl`.
    - `callbacks`: each is given a [`jaxsci.pinn.Progressed`][] after each call; training stops if one
      returns True.

    **Returns:** a [`jaxsci.pinn.Trained`][]: the model, points, histories and status. After Ctrl-C it holds
    what was reached, saved if there is a `directory`, with `Status.interrupted`.

    **Raises:** `TypeError` or `ValueError` for wrong arguments, before anything is compiled;
    `jaxsci.train.CheckpointError` for a checkpoint of something else.

    **Limits:** one process. A small loss is not a small error where a problem is ill-posed or points are too
    few: evaluate the residual at other points, or compare with a reference of `jaxsci.pde.reference`.
    """
    if not isinstance(model, AbstractPINN):
        raise TypeError(f"`model` is {model!r}; expected a jaxsci.pinn.PINN.")
    stages = default_stages(model.domain) if stages is None else tuple(stages)
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(f"`stages` is {stages!r}; expected a list of jaxsci.pinn.Stage.")
    for stage in stages:
        _check_stage(stage, model, unknown)
    for name, value in (("points", points), ("boundary_points", boundary_points)):
        check_count(name, value, 1)
    check_count("evaluate_every", evaluate_every, 1)
    check_count("checkpoint_every", checkpoint_every, 1)
    check_key(key)
    check_one_process()
    reference = _checked_reference(reference, model)
    folder = check_directory(directory)
    checkpoints = None
    if folder is not None:
        log = folder / "log.jsonl" if log is None else log
        checkpoints = Checkpoints(folder / "checkpoints", 2)
        if not resume:
            checkpoints.clear()
    found = checkpoints.load() if checkpoints is not None and resume else None
    run = Run(checkpoints, found, len(stages))
    sampler = pde.Sobol() if sampler is None else sampler
    total = sum(stage.steps for stage in stages)
    events = Log(None if log is None else pathlib.Path(log))
    bar = Progress(total, run.step, progress)
    events.write("start", step=run.step, steps=total)
    status, message, current, latest = Status.finished, "", None, model
    try:
        with Signals() as signals:
            for index, stage in list(enumerate(stages))[run.first :]:
                given = model if stage.equation is None else model.with_equation(stage.equation)
                given = moved(latest, cast(given, stage.dtype), unknown)
                counts = (stage.points or points, stage.boundary_points or boundary_points)
                stage_key = jax.random.fold_in(key, index)
                signals.immediate = True
                try:
                    made = StageRun(index, stage, given, unknown, counts, sampler, stage_key, reference)
                    made.begin(run)
                except Interrupted:
                    status = Status.interrupted
                    break
                finally:
                    signals.immediate = False
                current = made
                status, message = _run_stage(
                    current,
                    run,
                    signals,
                    seconds,
                    evaluate_every,
                    checkpoint_every,
                    events,
                    bar,
                    tuple(callbacks),
                )
                latest = current.model()
                if status is not Status.finished:
                    break
    finally:
        bar.close()
    if current is not None and status is not Status.nonfinite:
        run.save(current)
        if current.evaluated_at != current.taken:
            # No part of what is saved: a run that is not stopped does not evaluate here.
            events.write("evaluation", stage=current.index, **run.evaluate(current))
    events.write("end", step=run.step, status=status.name, message=message)
    return Trained(
        model=latest,
        points={} if current is None else current.inputs,
        history=run.history(),
        evaluations=run.evaluated(),
        step=run.step,
        status=status,
        message=message or status.value,
        seconds=run.seconds,
        compile_seconds=run.compile_seconds,
    )


def _run_stage(stage, run, signals, seconds, evaluate_every, checkpoint_every, log, bar, callbacks):
    """Chunks of steps until the stage is over. Returns a status and how the method says it ended."""
    count = 1
    while True:
        if stage.due(evaluate_every):
            evaluation = run.evaluate(stage)
            log.write("evaluation", stage=stage.index, **evaluation)
        if stage.taken and run.step % checkpoint_every == 0:
            run.save(stage)
        if signals.received is not None:
            return (Status.interrupted if signals.received == signal.SIGINT else Status.terminated), ""
        if seconds is not None and run.seconds >= seconds:
            return Status.stopped, f"{seconds} seconds are over."
        if stage.over:
            return Status.finished, stage.ending()
        limit = min(stage.until_event(evaluate_every), checkpoint_every - run.step % checkpoint_every)
        figures, spent, taken = run.advance(stage, min(count, limit))
        log.write("chunk", step=run.step, stage=stage.index, seconds=run.seconds, **figures)
        bar.update(run.step, figures["loss"], 0, run.last_error, "error")
        if taken:
            count = int(np.clip(_CHUNK_SECONDS * taken / max(spent, 1e-9), 1, 8 * count))
        if not np.isfinite(figures["loss"]):
            return Status.nonfinite, _NONFINITE
        error = float("nan") if run.last_error is None else run.last_error
        report = Progressed(run.step, stage.index, figures, error, stage.model())
        stops = [callback(report) is True for callback in callbacks]
        if any(stops):
            return Status.stopped, ""


def _check_stage(stage: Stage, model: AbstractPINN, unknown) -> None:
    """What can be known of a stage before anything is compiled."""
    given = model if stage.equation is None else model.with_equation(stage.equation)
    found, _ = split(moved(model, given, unknown), unknown)
    dtype = precision(found) if stage.dtype is None else jnp.dtype(stage.dtype)
    _check_tolerance(stage, dtype)
    if stage.weights is not None:
        _check_weights(stage.weights, given)
    fields, equations = len(model.equation.fields), pde.count(given.equation)
    if stage.pseudo_time is not None and equations != fields:
        raise ValueError(
            f"`pseudo_time` needs one equation for each field; {type(given.equation).__name__} has "
            f"{equations} for {fields} fields."
        )


def _check_tolerance(stage: Stage, dtype) -> None:
    """Refuse a relative tolerance below rounding."""
    if stage.optax or stage.method.rtol is None or isinstance(stage.method.rtol, jax.core.Tracer):
        return
    method, rtol, eps = type(stage.method).__name__, float(stage.method.rtol), float(jnp.finfo(dtype).eps)
    if 0 < rtol < eps and stage.method.atol == 0:
        raise ValueError(
            f"`rtol` of {method} is {rtol:g} in a stage of {dtype}, which rounds at {eps:.1g}: it is never "
            f"reached. Train in float64, by Stage({method}(rtol={rtol:g}), …, dtype=jnp.float64) after a "
            f"stage of {dtype} or in its place, or give `rtol` ≥ {eps:.1g}."
        )


def _check_weights(rule, model: AbstractPINN) -> None:
    """What a rule asks of the terms: it is traced for a point of each, without the network."""
    terms, coordinates = model.terms(), model.equation.coordinates
    points = {t.name: t.draw(model, 1, pde.Uniform(), jax.random.key(0)) for t in terms}
    residuals = {name: jnp.zeros(1) for name in Objective(terms, model, points, None).names}
    given = Terms(lambda _: residuals, jnp.zeros(1), residuals if "t" in coordinates else None)
    update = lambda key: rule.update(rule.init(residuals), residuals, given, jnp.array(0), key)
    jax.eval_shape(update, jax.random.key(0))


def _checked_reference(reference, model):
    if reference is None:
        return None
    points, values = (jnp.asarray(x) for x in reference)
    expected = (len(points), len(model.equation.fields))
    if points.ndim != 2 or points.shape[1] != len(model.equation.coordinates) or values.shape != expected:
        raise ValueError(
            f"`reference` has points of shape {points.shape} and values of shape {values.shape}; expected "
            f"(n, {len(model.equation.coordinates)}) and (n, {expected[1]})."
        )
    return points, values
