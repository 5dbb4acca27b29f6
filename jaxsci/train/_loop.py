import signal
import time

from . import _check
from ._chunk import compile_chunk
from ._report import FitReport
from ._result import Status
from ._signals import Interrupted, Signals

CAPACITY = 4096
_CHUNK_SECONDS = 1.0
_CHECKPOINT_SECONDS = 60.0
_JUDGED_STEPS = 10


class Loop:
    """What happens between compiled chunks."""

    def __init__(
        self, *, run, fixed, chunk, model_at, evaluate, best_name, checkpoints, log, bar, steps,
        evaluate_every, checkpoint_every, max_skipped, chunk_limit, callbacks,
    ):  # fmt: skip
        self.run = run
        self.fixed = fixed
        self.chunk = chunk
        self.model_at = model_at
        self.evaluate = evaluate
        self.best_name = best_name
        self.checkpoints = checkpoints
        self.log = log
        self.bar = bar
        self.steps = steps
        self.evaluate_every = evaluate_every
        self.checkpoint_every = checkpoint_every
        self.max_skipped = max_skipped
        self.chunk_limit = chunk_limit
        self.callbacks = callbacks
        self.compiled = None
        self.compile_seconds = 0.0
        self.per_step = []
        self.count = 0

    def run_to_end(self):
        run = self.run
        try:
            with Signals() as signals:
                while (status := self.cycle(signals)) is None:
                    pass
                # Parameters are finite after a failure too, but may have grown beyond use: it must
                # not push out older checkpoints.
                if status is not Status.nonfinite:
                    run.save(self.checkpoints)
        except Exception as error:
            # A chunk that raises leaves the state that it started from.
            run.save(self.checkpoints)
            error.add_note(
                f"Training ended by this after step {run.step}"
                + (", which is saved." if self.checkpoints is not None else ".")
            )
            raise
        finally:
            self.bar.close()
        return status

    def cycle(self, signals):
        """Evaluation, checkpoint and one chunk; a status when training is to end."""
        run = self.run
        signals.immediate = True
        try:
            self.prepare()
        except Interrupted:
            # Noted in `signals`; what was under way is done again on resume.
            pass
        finally:
            signals.immediate = False
        if self.checkpoint_every is None:
            due = run.seconds_unsaved() > _CHECKPOINT_SECONDS
        else:
            due = run.step % self.checkpoint_every == 0
        if due:
            run.save(self.checkpoints)
        if signals.received is not None:
            by_user = signals.received == signal.SIGINT
            return Status.interrupted if by_user else Status.terminated
        if run.step >= self.steps:
            return Status.finished
        report = self.take_chunk()
        if self.failing():
            return Status.nonfinite
        stops = [callback(report) is True for callback in self.callbacks]
        return Status.stopped if any(stops) else None

    def prepare(self):
        """What is due before a chunk: evaluation, and once the compilation."""
        run = self.run
        due = run.step % self.evaluate_every == 0 and run.evaluated_step != run.step
        if due and (run.step > 0 or self.evaluate is not None):
            evaluation = self.evaluated()
            run.best = run.best_with(evaluation, self.best_name)
            run.evaluations.append(evaluation)
        if self.compiled is None and run.step < self.steps:
            started = time.perf_counter()
            state = (run.parameters, run.optimizer_state)
            self.compiled = compile_chunk(self.chunk, state, self.fixed)
            self.compile_seconds = time.perf_counter() - started

    def evaluated(self):
        run = self.run
        values = {}
        if self.evaluate is not None:
            returned = self.evaluate(self.model_at(run.parameters))
            values = _check.check_evaluation(returned, self.best_name)
        evaluation = run.evaluation(values)
        self.log.write("evaluation", **evaluation)
        return evaluation

    def final_evaluation(self, status):
        """The best and all evaluations, with one at the end if that is no regular place.

        It is no part of the state that is saved: a longer run would not have evaluated there.
        """
        run = self.run
        if status is not Status.finished or run.evaluated_step == run.step or run.step == 0:
            return run.best, run.evaluations
        evaluation = self.evaluated()
        return run.best_with(evaluation, self.best_name), [*run.evaluations, evaluation]

    def take_chunk(self):
        run = self.run
        limits = [self.steps - run.step, self.evaluate_every - run.step % self.evaluate_every]
        if self.checkpoint_every is not None:
            limits.append(self.checkpoint_every - run.step % self.checkpoint_every)
        self.count = min(*limits, self.chunk_limit or self.adapted())
        seconds = run.advance(self.compiled, self.fixed, self.count)
        self.per_step.append(seconds / self.count)
        metrics, skipped = run.means(self.count)
        loss = metrics.pop("loss")
        self.log.write(
            "chunk",
            step=run.step,
            seconds=run.seconds,
            seconds_per_step=self.per_step[-1],
            loss=loss,
            skipped_steps=skipped,
            metrics=metrics,
            **run.learning_state(),
        )
        self.bar.update(run.step, loss, skipped, run.best.value)
        model = self.model_at(run.parameters)
        return FitReport(run.step, self.steps, loss, metrics, skipped, model)

    def adapted(self):
        """How many steps take about a second, approached from below."""
        if not self.per_step:
            return 1
        fitting = int(_CHUNK_SECONDS / max(self.per_step[-1], 1e-9))
        return max(1, min(fitting, 8 * self.count, CAPACITY))

    def failing(self):
        run = self.run
        if run.step < min(_JUDGED_STEPS, self.steps):
            return False
        judged = min(max(self.count, _JUDGED_STEPS), run.step)
        return run.means(judged)[1] > self.max_skipped * judged
