import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

from . import _check
from ._checkpoint import Checkpoints
from ._chunk import combine, make_chunk, on_one_mesh
from ._loop import CAPACITY, Loop
from ._report import FitReport, Log, Progress
from ._result import FitResult, Status
from ._run import Run, columns


def fit(
    model: eqx.Module,
    loss: Callable[[Any, Any, PRNGKeyArray], tuple[Scalar, dict[str, Scalar]]],
    optimizer: optax.GradientTransformation,
    data: PyTree[Array] | None = None,
    *,
    steps: int,
    key: PRNGKeyArray,
    batch_size: int | None = None,
    trainable: PyTree = eqx.is_inexact_array,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    evaluate_every: int = 100,
    best: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    resume: bool = True,
    checkpoint_every: int | None = None,
    keep: int = 2,
    tag: str | None = None,
    max_skipped: float = 0.5,
    chunk: int | None = None,
    progress: bool = True,
    log: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callable[[FitReport], bool | None]] = (),
) -> FitResult:
    """Trains a model: p ← p + update(∂loss/∂p), `steps` times.

    Many steps run in one compiled XLA call, about a second long, and everything else (evaluation,
    log, checkpoints, Ctrl-C) happens between such calls, at no cost in compilations: there is one.
    The same call with the same key gives the same bits on the same machine, versions and number of
    threads, however often it was interrupted and resumed.

    A step whose loss, gradient, new parameters or optimizer state would not be finite is skipped:
    nothing changes, the step counts, and `"skipped"` in the history says so.

    **Arguments:**

    - `model`: any Equinox module; its inexact arrays are trained.
    - `loss`: `loss(model, batch, key) -> (value, metrics)`; a real scalar to be made small, and a
        dict of scalars to be recorded (it may be empty). JAX code only; `key` differs in each step.
    - `optimizer`: an optax transformation, `optax.lbfgs()` included.
    - `data`: arrays with the samples on the leading axis; None if the loss draws its own points. If
        they are sharded over a mesh, the model is replicated over it.
    - `steps`: how many steps in total; those of resumed runs count.
    - `key`: the source of all randomness. It is folded with the number of the step.
    - `batch_size`: samples in a batch, drawn in shuffled epochs without replacement; what does not
        fill a batch is left out, another part in each epoch. None: `batch` is `data`, whole.
    - `trainable`: which leaves are trained, as in `equinox.partition`: a function of a leaf, or a
        pytree of booleans. Name here what must stay fixed: points, windows, constants.
    - `evaluate`: `evaluate(model) -> dict of floats`, on the host, before the first step, at each
        multiple of `evaluate_every` and at the end.
    - `best`: which of these values is to be smallest in the best model. None: the mean loss over
        the steps between evaluations.
    - `directory`: where checkpoints and `log.jsonl` go. None: nothing is written.
    - `resume`: whether to go on from the newest checkpoint in `directory`, if there is one. False
        starts over and removes the checkpoints there.
    - `checkpoint_every`: steps between checkpoints; None: a minute. One is also written at the end.
    - `keep`: how many checkpoints stay.
    - `tag`: names the problem (equation, data, settings); resuming under another tag is refused.
    - `max_skipped`: above this share of skipped steps in a chunk (of at least 10 steps), training
        stops with `Status.nonfinite`.
    - `chunk`: steps in an XLA call; None: what takes about a second, at most 4096.
    - `progress`: whether to show a bar on stderr.
    - `log`: a JSONL file for one line per chunk and evaluation; None: `directory/log.jsonl`.
    - `callbacks`: each is called with a [`jaxsci.train.FitReport`][] after each chunk; training
        stops when one returns True.

    **Returns:** a [`jaxsci.train.FitResult`][]. After Ctrl-C or SIGTERM it holds what has been
    reached, saved if there is a `directory`, with `Status.interrupted` or `Status.terminated`; the
    exit code (by custom 130 or 143) is the caller's choice. A second Ctrl-C raises at once.

    **Raises:** `ValueError` or `TypeError` for wrong arguments, before anything is compiled;
    `CheckpointError` if checkpoints are unusable or belong to something else. A checkpoint that
    cannot be written (full disk) is a warning. An exception from `loss`, `evaluate` or a callback
    passes through after the state has been saved.

    **Limits:** one process; a running XLA call cannot be interrupted, so Ctrl-C waits for the steps
    under way, and for the compiler. Parameters and optimizer state are held twice, so that a chunk
    that raises loses nothing.
    """
    _check_arguments(
        optimizer, steps, key, evaluate, evaluate_every, best, checkpoint_every, keep,
        max_skipped, chunk,
    )  # fmt: skip
    parameters, rest = eqx.partition(model, trainable)
    _check.check_parameters(parameters)
    data = _check.check_data(data, batch_size)
    folder = _check.check_directory(directory)
    rows = _check.check_loss(loss, model, data, batch_size, key)

    frozen, static = eqx.partition(rest, eqx.is_array)
    parameters, optimizer_state, *fixed = on_one_mesh(
        parameters, optimizer.init(parameters), frozen, data, key
    )
    run = Run(parameters, optimizer_state, rows, _problem(tag, batch_size, data, key))
    checkpoints = None
    if folder is not None:
        log = folder / "log.jsonl" if log is None else log
        checkpoints = Checkpoints(folder / "checkpoints", keep)
        if resume:
            run.restore(checkpoints)
        else:
            checkpoints.clear()
    loop = Loop(
        run=run,
        fixed=tuple(fixed),
        chunk=make_chunk(loss, optimizer, static, rows, batch_size, max(chunk or 1, CAPACITY)),
        model_at=lambda parameters: combine(parameters, fixed[0], static),
        evaluate=evaluate,
        best_name=best or "training_loss",
        checkpoints=checkpoints,
        log=Log(log),
        bar=Progress(steps, run.step, progress),
        steps=steps,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        max_skipped=max_skipped,
        chunk_limit=chunk,
        callbacks=callbacks,
    )
    loop.log.write("start", step=run.step, steps=steps, tag=tag)
    status = loop.run_to_end()
    final, evaluations = loop.final_evaluation(status)
    message = status.value
    if status is Status.nonfinite:
        message += _check.describe_nonfinite(data)
    loop.log.write("end", step=run.step, status=status.name)
    return FitResult(
        model=loop.model_at(run.parameters),
        best=loop.model_at(final.parameters if final.step is not None else run.parameters),
        best_value=final.value,
        best_step=final.step,
        step=run.step,
        status=status,
        message=message,
        history=run.history(),
        evaluations=columns(evaluations),
        seconds_per_step=float(np.median(loop.per_step[1:] or loop.per_step or [np.nan])),
        compile_seconds=loop.compile_seconds,
    )


def _check_arguments(
    optimizer, steps, key, evaluate, evaluate_every, best, checkpoint_every, keep, max_skipped,
    chunk,
):  # fmt: skip
    _check.check_optimizer(optimizer)
    _check.check_count("steps", steps, 0)
    _check.check_key(key)
    _check.check_best(evaluate, best)
    _check.check_count("evaluate_every", evaluate_every, 1)
    _check.check_count("keep", keep, 1)
    _check.check_share("max_skipped", max_skipped)
    for name, value in (("checkpoint_every", checkpoint_every), ("chunk", chunk)):
        if value is not None:
            _check.check_count(name, value, 1)
    _check.check_one_process()


def _problem(tag, batch_size, data, key):
    """What decides the steps beside model and optimizer: a resumed run must agree in it."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return {
        "tag": tag,
        "batch_size": batch_size,
        "data": {name: f"{x.dtype} {x.shape}" for name, x in _check.named(data).items()},
        "key": np.asarray(jax.random.key_data(key) if typed else key).tolist(),
    }
