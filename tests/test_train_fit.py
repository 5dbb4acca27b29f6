"""The training loop: what it computes, records and refuses."""

import io
import json
import logging
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxsci import train


class Line(eqx.Module):
    """slope · x + offset, with leaves that no optimizer should see."""

    slope: jax.Array
    offset: jax.Array
    grid: jax.Array
    label: str
    activation: object

    def __call__(self, x):
        return self.activation(self.slope * x + self.offset)


def make_line(dtype=jnp.float64):
    grid = jnp.arange(3)
    return Line(jnp.asarray(0.0, dtype), jnp.asarray(0.0, dtype), grid, "line", lambda x: x)


X = np.linspace(-1.0, 1.0, 12)
DATA = {"x": X, "y": 2.0 * X + 1.0}


def squared(model, batch, key):
    error = jax.vmap(model)(batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error)), "n": batch["x"].size}


def fit(steps, model=None, optimizer=None, **options):
    model = make_line() if model is None else model
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    arguments = {"data": DATA, "key": jax.random.key(0), "progress": False, **options}
    loss = arguments.pop("loss", squared)
    return train.fit(model, loss, optimizer, arguments.pop("data"), steps=steps, **arguments)


def test_gradient_descent_by_hand():
    """On a quadratic, the iterates are p ← p − η (A p − b): a closed form in NumPy."""
    result = fit(40, evaluate_every=10)
    design = np.stack([X, np.ones(12)], 1)
    parameters, losses = np.zeros(2), []
    for _ in range(40):
        error = design @ parameters - DATA["y"]
        losses.append(np.mean(error**2))
        parameters = parameters - 0.1 * 2.0 * design.T @ error / 12
    found = np.array([result.model.slope, result.model.offset])
    np.testing.assert_allclose(found, parameters, rtol=1e-12)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-12)
    windows = np.reshape(losses, (4, 10)).mean(1)
    np.testing.assert_array_equal(result.evaluations["step"], [10, 20, 30, 40])
    np.testing.assert_allclose(result.evaluations["training_loss"], windows, rtol=1e-12)
    np.testing.assert_array_equal(result.history["n"], np.full(40, 12))
    assert result.status is train.Status.finished
    assert (result.step, result.best_step, result.skipped_steps) == (40, 40, 0)
    assert result.best_value == pytest.approx(windows[-1], rel=1e-12)
    assert result.compile_seconds > 0.0
    assert result.seconds_per_step > 0.0
    assert (result.model.label, result.model.grid.dtype) == ("line", jnp.arange(3).dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_precision_comes_from_the_inputs(dtype):
    data = jax.tree.map(lambda x: x.astype(dtype), DATA)
    result = fit(3, model=make_line(dtype), data=data, optimizer=optax.adam(0.1))
    assert result.model.slope.dtype == dtype
    assert result.history["loss"].dtype == dtype


def test_one_compilation_for_any_chunks(caplog):
    """Chunks of different lengths, cut short by evaluations and checkpoints, share one program."""
    model, lengths = make_line(), []
    previous = [0]

    def note(report):
        lengths.append(report.step - previous[0])
        previous[0] = report.step

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        fit(500, model=model, batch_size=5, evaluate_every=70, callbacks=[note])
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA" in r.getMessage()]
    assert len([message for message in compiled if "jit(chunk)" in message]) == 1
    assert len(set(lengths)) >= 3
    assert sum(lengths) == 500


def test_chunks_do_not_change_the_result():
    runs = [fit(23, batch_size=5, chunk=length, evaluate_every=9) for length in (1, 7, 100)]
    for run in runs[1:]:
        assert run.model.slope == runs[0].model.slope
        np.testing.assert_array_equal(run.history["loss"], runs[0].history["loss"])


def test_epochs_are_shuffled_without_replacement():
    """Each sample is a power of two, so the sum over a batch tells which samples it held."""

    def loss(model, batch, key):
        return model.slope * 0.0, {"members": jnp.sum(batch)}

    powers = 2 ** np.arange(10)
    result = fit(9, loss=loss, data=powers, batch_size=3, chunk=4)
    members = [[bool(int(m) >> i & 1) for i in range(10)] for m in result.history["members"]]
    assert all(sum(member) == 3 for member in members)
    left_out = []
    for epoch in range(3):
        count = np.sum(members[3 * epoch : 3 * epoch + 3], axis=0)
        assert sorted(count) == [0] + [1] * 9
        left_out.append(int(np.argmin(count)))
    assert len(set(map(tuple, members))) > 3


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey], ids=["new", "old"])
def test_loss_draws_its_own_points(make_key):
    def loss(model, batch, key):
        assert batch is None
        point = jax.random.uniform(key)
        return (model(point) - 3.0) ** 2, {"point": point}

    result = fit(20, loss=loss, data=None, key=make_key(3), chunk=6)
    _, loss_key = jax.random.split(make_key(3))
    points = [jax.random.uniform(jax.random.fold_in(loss_key, i)) for i in range(20)]
    np.testing.assert_array_equal(result.history["point"], points)


def test_evaluate_and_best(tmp_path):
    """The best model is the one at the smallest of the named values, not the last."""
    values = iter([5.0, 3.0, float("nan"), 1.0, 4.0, 2.0])
    slopes = []

    def evaluate(model):
        slopes.append(float(model.slope))
        return {"error": next(values), "slope": slopes[-1]}

    result = fit(23, evaluate=evaluate, evaluate_every=5, best="error", log=tmp_path / "log")
    np.testing.assert_array_equal(result.evaluations["step"], [0, 5, 10, 15, 20, 23])
    np.testing.assert_array_equal(result.evaluations["slope"], slopes)
    assert (result.best_step, result.best_value) == (15, 1.0)
    assert float(result.best.slope) == slopes[3] != float(result.model.slope) == slopes[5]
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [0, 5, 10, 15, 20, 23]
    assert events[0]["event"] == "start"
    assert events[-1] == {"event": "end", "step": 23, "status": "finished"}
    chunks = [e for e in events if e["event"] == "chunk"]
    assert chunks[-1]["step"] == 23
    assert set(chunks[0]) == {
        *("event", "step", "seconds", "seconds_per_step", "loss", "skipped_steps", "metrics")
    }
    assert set(chunks[0]["metrics"]) == {"largest", "n"}
    assert any(e["event"] == "evaluation" and e["error"] is None for e in events)


def test_learning_rate_is_logged(tmp_path):
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    fit(4, optimizer=optax.inject_hyperparams(optax.sgd)(schedule), log=tmp_path / "log", chunk=2)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    rates = [event["learning_rate"] for event in events if event["event"] == "chunk"]
    np.testing.assert_allclose(rates, [0.09, 0.07], rtol=1e-6)


def test_trainable_selects_what_moves():
    model = make_line()
    selection = jax.tree.map(lambda leaf: leaf is model.offset, model)
    result = fit(5, model=model, trainable=selection)
    assert result.model.slope == 0.0
    assert result.model.offset != 0.0


def test_lbfgs_gets_what_it_needs():
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=5)
    result = fit(12, optimizer=optax.lbfgs(memory_size=2, linesearch=search))
    assert result.history["loss"][-1] < 1e-12


def test_callbacks_see_and_stop():
    reports = []

    def stop_at_six(report):
        reports.append(report)
        return report.step >= 6

    result = fit(100, chunk=3, callbacks=[stop_at_six])
    assert result.status is train.Status.stopped
    assert [report.step for report in reports] == [3, 6]
    assert reports[0].loss == pytest.approx(result.history["loss"][:3].mean())
    assert reports[1].model.slope == result.model.slope
    assert reports[1].steps == 100
    # What a callback keeps stays usable: no buffer is given away to the next chunk.
    assert np.isfinite(float(reports[0].model.slope))


def test_no_steps():
    result = fit(0, evaluate=lambda model: {"error": 1.0})
    assert (result.step, result.status) == (0, train.Status.finished)
    assert result.history["loss"].shape == (0,)
    assert result.compile_seconds == 0.0
    assert np.isnan(result.seconds_per_step)
    assert "step 0" in str(result)


def test_sharded_data_gives_a_replicated_model(devices):
    mesh = devices(4)
    data = jax.device_put(DATA, NamedSharding(mesh, PartitionSpec("devices")))
    result = fit(12, data=data, chunk=5, optimizer=optax.adam(0.1))
    alone = fit(12, chunk=5, optimizer=optax.adam(0.1))
    assert len(result.model.slope.sharding.device_set) == 4
    assert float(result.model.slope) == pytest.approx(float(alone.model.slope), rel=1e-12)


def test_works_as_one_program_for_accelerators():
    """The chunk lowers for every platform: no callback, nothing that only a CPU can do."""
    from jaxsci.train import _check, _chunk

    model = make_line(jnp.float32)
    data = {name: jnp.asarray(x, jnp.float32) for name, x in DATA.items()}
    optimizer = optax.adam(1e-3)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    frozen, static = eqx.partition(rest, eqx.is_array)
    key = jax.random.key(0)
    rows = _check.check_loss(squared, model, data, 5, key)
    chunk = _chunk.make_chunk(squared, optimizer, static, rows, 5, 8)
    arguments = (parameters, optimizer.init(parameters), frozen, data, jax.random.key_data(key))

    def with_key_data(parameters, state, frozen, data, key_data, start, count):
        key = jax.random.wrap_key_data(key_data)
        return chunk(parameters, state, frozen, data, key, start, count)

    export = jax.export.export(jax.jit(with_key_data), platforms=("cpu", "cuda", "tpu"))
    text = export(*arguments, np.int32(0), np.int32(3)).mlir_module()
    assert "callback" not in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Closed(io.StringIO):
    """A stream whose reader has gone."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


def test_progress_bar(monkeypatch):
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain, Closed(True), Closed(False), None):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", None)
        bar = train._report.Progress(20, 0, True)
        bar.update(10, 0.5, 0, None)
        bar.update(20, 0.25, 3, 0.125)
        bar.close()
    monkeypatch.undo()
    assert "20/20" in terminal.getvalue()
    assert "loss 2.500e-01, best 1.250e-01, skipped 3" in terminal.getvalue()
    assert plain.getvalue().startswith("step 20/20")
    assert plain.getvalue().endswith(": loss 2.500e-01, best 1.250e-01, skipped 3\n")


def not_finite():
    return eqx.tree_at(lambda m: m.offset, make_line(), jnp.asarray(jnp.nan))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, ValueError, "`steps` = -1"),
        ({"steps": 2.0}, TypeError, "`steps` = 2.0"),
        ({"steps": True}, ValueError, "`steps` = True"),
        ({"optimizer": 0.1}, TypeError, "`optimizer` is float"),
        ({"key": 0}, TypeError, r"`key` is 0: .*jax.random.key\(0\)"),
        ({"key": jax.random.split(jax.random.key(0))}, TypeError, "`key` is key<fry> of shape"),
        ({"batch_size": 13}, ValueError, "`batch_size` = 13 is more than the 12 samples"),
        ({"batch_size": 0}, ValueError, "`batch_size` = 0"),
        ({"batch_size": 2, "data": None}, ValueError, "no `data`"),
        ({"data": {"x": X, "y": X[1:]}}, ValueError, r"leading axes differ.*12.*11"),
        ({"data": {"x": X[:0], "y": X[:0]}}, ValueError, "`data` is empty"),
        ({"data": {}}, ValueError, "`data` holds no array"),
        ({"data": {"x": X, "y": 1.0}}, ValueError, r"`data`\['y'\] is a scalar"),
        ({"data": {"x": np.array(["a"])}}, TypeError, "dtype <U1"),
        ({"evaluate_every": 0}, ValueError, "`evaluate_every` = 0"),
        ({"checkpoint_every": 0}, ValueError, "`checkpoint_every` = 0"),
        ({"chunk": 0}, ValueError, "`chunk` = 0"),
        ({"keep": 0}, ValueError, "`keep` = 0"),
        ({"max_skipped": float("nan")}, ValueError, "`max_skipped` = nan"),
        ({"best": "error"}, ValueError, "`best` = 'error' names a value of `evaluate`"),
        ({"model": not_finite()}, ValueError, "initial values of model.offset are not finite"),
        ({"trainable": lambda leaf: False}, ValueError, "nothing to train"),
        ({"trainable": eqx.is_array}, TypeError, "selects model.grid"),
        ({"directory": __file__}, ValueError, "not a folder that can be written to"),
        ({"directory": "/proc/jaxsci"}, ValueError, "not a folder that can be written to"),
        ({"loss": lambda m, b, k: m.slope}, TypeError, "returned float64"),
        ({"loss": lambda m, b, k: (m.slope, m.slope)}, TypeError, "expected `loss"),
        ({"loss": lambda m, b, k: (b["x"], {})}, ValueError, r"returned float64\[12\] as its"),
        ({"loss": lambda m, b, k: (m.slope * 1j, {})}, ValueError, "complex128"),
        ({"loss": lambda m, b, k: (m.slope, {"a": b["x"]})}, ValueError, "metric 'a'"),
        ({"loss": lambda m, b, k: (m.slope, {"loss": 1.0})}, ValueError, "'loss' is taken"),
        ({"evaluate": lambda m: 1.0}, TypeError, "`evaluate` returned float"),
        ({"evaluate": lambda m: {"a": "b"}}, TypeError, "returned 'b' for 'a'"),
        ({"evaluate": lambda m: {"a": 1.0}, "best": "b"}, ValueError, r"not among .*\['a'\]"),
        ({"evaluate": lambda m: {"step": 1.0}}, ValueError, "'step' is taken"),
    ],
)
def test_wrong_arguments_are_explained_before_compiling(options, error, message, monkeypatch):
    def compiling(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr("jaxsci.train._loop.compile_chunk", compiling)
    with pytest.raises(error, match=message):
        fit(**{"steps": 5, **options})
