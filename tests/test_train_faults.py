"""The training loop under faults: NaN, interruption, damaged and foreign checkpoints."""

import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxsci import _store, train
from jaxsci.train import CheckpointError, Status

X = np.linspace(-1.0, 1.0, 12)[:, None]


def make_model(width=3):
    return eqx.nn.MLP(1, 1, width, 1, jnp.tanh, key=jax.random.key(1))


def squared(model, batch, key):
    """A noisy fit of sin 3x: the key of the step counts."""
    noise = 0.01 * jax.random.uniform(key, batch.shape)
    return jnp.mean((jax.vmap(model)(batch) - jnp.sin(3.0 * batch) - noise) ** 2), {}


def fit(steps, directory=None, **options):
    arguments = {
        "model": make_model(),
        "loss": squared,
        "optimizer": optax.sgd(0.05, momentum=0.9),
        "data": X,
        "key": jax.random.key(0),
        "batch_size": 5,
        "evaluate_every": 10,
        "progress": False,
        "directory": directory,
        **options,
    }
    return train.fit(steps=steps, **arguments)


def bits(result):
    leaves = jax.tree.leaves(eqx.filter((result.model, result.best), eqx.is_array))
    tables = [*result.history.values(), *result.evaluations.values()]
    return [np.asarray(leaf).tobytes() for leaf in (*leaves, *tables)] + [
        (result.step, result.best_step, result.best_value)
    ]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Most runs here are the same program: compile it once."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path_factory.mktemp("cache")), 0.1), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def whole():
    """60 steps without interruption."""
    return fit(60)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """30 steps, saved at 20 and 30."""
    directory = tmp_path_factory.mktemp("run")
    fit(30, directory, checkpoint_every=10)
    return directory


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def steps_in(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


# Checkpoints and resume


def test_thirty_and_thirty_are_sixty(run, whole):
    assert steps_in(run) == ["step_00000020", "step_00000030"]
    resumed = fit(60, run)
    assert bits(resumed) == bits(whole)
    assert len(resumed.history["loss"]) == 60
    assert steps_in(run) == ["step_00000030", "step_00000060"]


def test_finished_run_returns_at_once(run, monkeypatch):
    monkeypatch.setattr("jaxsci.train._loop.compile_chunk", None)
    result = fit(30, run)
    assert (result.step, result.status, result.compile_seconds) == (30, Status.finished, 0.0)
    assert len(result.evaluations["step"]) == 3


def test_off_the_grid_end_is_evaluated_and_not_kept(tmp_path, whole):
    first = fit(34, tmp_path)
    assert list(first.evaluations["step"]) == [10, 20, 30, 34]
    assert bits(fit(60, tmp_path)) == bits(whole)


def test_starting_over(run, whole):
    result = fit(20, run, resume=False)
    assert result.step == 20
    assert steps_in(run) == ["step_00000020"]
    np.testing.assert_array_equal(result.history["loss"], whole.history["loss"][:20])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_damaged_checkpoint_steps_back(run, whole, share):
    newest = run / "checkpoints" / "step_00000030" / "arrays.npz"
    newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
    with pytest.warns(UserWarning, match=r"(?s)Going on from .*step_00000020;.*step_00000030/arr"):
        resumed = fit(60 if share == 0.5 else 20, run, keep=1)
    assert steps_in(run)[0].startswith("step_000000")
    assert any("step_00000030.damaged-" in name for name in steps_in(run))
    if share == 0.5:
        assert bits(resumed) == bits(whole)


@pytest.mark.parametrize("file", ["arrays.npz", "manifest.json"])
def test_flipped_bit_is_never_loaded(run, file):
    path = run / "checkpoints" / "step_00000030" / file
    content = path.read_bytes()
    checkpoints = train._checkpoint.Checkpoints(run / "checkpoints", 2)
    for position in random.Random(0).sample(range(8 * len(content)), 30):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.warns(UserWarning, match="step_00000030"):
            loaded, _, meta = checkpoints.load()
        assert (loaded.name, meta["step"]) == ("step_00000020", 20)
        (damaged,) = (run / "checkpoints").glob("*.damaged-*")
        damaged.rename(path.parent)
    path.write_bytes(content)
    assert checkpoints.load()[2]["step"] == 30


def test_no_checkpoint_is_usable(run):
    for path in (run / "checkpoints").iterdir():
        (path / "manifest.json").write_bytes(b"\x80\x04garbage")
    with pytest.raises(CheckpointError, match=r"(?s)No checkpoint .*0030.*0020.*`resume=False`"):
        fit(60, run)


def test_strays_are_swept(run):
    stray = run / "checkpoints" / f"step_00000040.tmp-{'a' * 32}"
    stray.mkdir()
    (stray / "arrays.npz").write_bytes(b"half")
    fit(30, run)
    assert not stray.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": make_model(4)},
            r"parameters\.layers\[0\]\.weight is float64 of shape \(3, 1\) there.*\(4, 1\) here",
        ),
        (
            {"model": jax.tree.map(lambda x: x.astype("f4") if eqx.is_array(x) else x, make_model())},
            r"weight is float64 of shape \(3, 1\) there and float32 of shape",
        ),
        ({"optimizer": optax.sgd(0.05)}, r"optimizer.*there and absent here"),
        ({"optimizer": optax.adam(0.05)}, r"optimizer.* is absent there and"),
        ({"tag": "other"}, "`tag` is None there and 'other' here"),
        ({"batch_size": 4}, "`batch_size` is 5 there and 4 here"),
        ({"data": X[:9]}, r"`data` is .*12.* there and .*9.* here"),
        ({"key": jax.random.key(5)}, r"`key` is \[0, 0\] there and \[0, 5\] here"),
        ({"loss": lambda *a: (squared(*a)[0], {"new": 0.0})}, "another loss.*'new'"),
    ],
    ids=["shape", "dtype", "missing", "extra", "tag", "batch", "data", "key", "loss"],
)
def test_checkpoint_of_something_else(run, options, message):
    with pytest.raises(CheckpointError, match=message):
        fit(60, run, **options)


def test_full_disk_is_a_warning(run):
    """A limit on the size of files stands for a full disk: both are an OSError on writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (run / "log.jsonl").stat().st_size + 100

    def fill(report):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    try:
        with pytest.warns(UserWarning) as warned:
            result = fit(40, run, callbacks=[fill])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    messages = [str(warning.message) for warning in warned]
    assert any("No checkpoint of step 40" in text and "Free space" in text for text in messages)
    assert sum("The log" in text for text in messages) == 1
    assert (result.step, result.status) == (40, Status.finished)
    assert steps_in(run) == ["step_00000020", "step_00000030"]
    assert fit(30, run).step == 30


def test_removed_directory_is_made_again(run):
    fit(40, run, callbacks=[lambda report: shutil.rmtree(run, ignore_errors=True)])
    assert steps_in(run) == ["step_00000040"]


def test_random_optimizer_resumes(tmp_path):
    """An optimizer that keeps a random key in its state; the other one is of the older style."""

    def update(updates, key, parameters=None):
        key, draw = jax.random.split(key)
        size = -0.05 * jax.random.uniform(draw)
        return jax.tree.map(lambda update: size * update, updates), key

    optimizer = optax.GradientTransformation(lambda parameters: jax.random.key(2), update)

    def noisy(steps, directory=None):
        return fit(steps, directory, optimizer=optimizer, key=jax.random.PRNGKey(0))

    noisy(10, tmp_path)
    assert bits(noisy(20, tmp_path)) == bits(noisy(20))


def test_exception_saves_the_state(tmp_path, whole):
    def fail(report):
        if report.step >= 17:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        fit(60, tmp_path, callbacks=[fail], chunk=17)
    # Chunks end at evaluations too: 10, 20.
    assert "after step 20, which is saved" in caught.value.__notes__[0]
    assert bits(fit(60, tmp_path)) == bits(whole)


def test_error_inside_a_chunk_loses_nothing(tmp_path):
    def loss(model, batch, key):
        value, _ = squared(model, batch, key)
        value = eqx.error_if(value, value < 0.3, "loss is below 0.3")
        return value, {}

    with pytest.raises(Exception, match="loss is below") as caught:
        fit(500, tmp_path, loss=loss, chunk=3)
    assert "which is saved" in caught.value.__notes__[-1]
    (newest,) = (tmp_path / "checkpoints").iterdir()
    arrays, _ = _store.load(newest)
    assert arrays["history/loss"].min() >= 0.3


# Values that are not finite


def poisoned(at, until):
    """NaN in the loss, and so in its gradient, at the steps from `at` to `until`."""

    def transform():
        def init(parameters):
            return jnp.zeros((), int)

        def update(updates, count, parameters=None):
            return updates, count + 1

        return optax.GradientTransformation(init, update)

    def loss(model, batch, key):
        value, metrics = squared(model, batch, key)
        draw = jax.random.uniform(key)
        return jnp.where((at <= draw) & (draw < until), jnp.nan, value), {"draw": draw, **metrics}

    return loss, transform()


def test_steps_that_are_not_finite_are_skipped(tmp_path):
    loss, counter = poisoned(0.0, 0.2)
    optimizer = optax.chain(counter, optax.sgd(0.05))
    result = fit(40, tmp_path, loss=loss, optimizer=optimizer, chunk=10)
    bad = result.history["draw"] < 0.2
    assert 0 < bad.sum() < 20
    np.testing.assert_array_equal(result.history["skipped"], bad)
    np.testing.assert_array_equal(np.isnan(result.history["loss"]), bad)
    assert result.skipped_steps == bad.sum()
    assert f"{bad.sum()} skipped" in str(result)
    assert result.status is Status.finished
    # The optimizer has not seen the skipped steps either.
    arrays, _ = _store.load(tmp_path / "checkpoints" / "step_00000040")
    assert arrays["optimizer[0]"] == 40 - bad.sum()
    lines = (tmp_path / "log.jsonl").read_text()
    assert f'"skipped_steps": {bad[:10].sum()}' in lines
    assert "NaN" not in lines
    np.testing.assert_allclose(
        result.evaluations["training_loss"][0], np.nanmean(result.history["loss"][:10])
    )


def test_too_many_skipped_steps_stop(tmp_path):
    loss, _ = poisoned(0.0, 1.0)
    model = make_model()
    result = fit(1000, tmp_path, model=model, loss=loss)
    assert result.status is Status.nonfinite
    assert result.step < 100
    assert result.best_step is None
    assert eqx.tree_equal(result.model, model)
    assert eqx.tree_equal(result.best, model)
    assert "Lower the learning rate" in result.message
    assert not (tmp_path / "checkpoints").exists()


def test_nan_in_the_data_is_named():
    data = {"x": X, "y": np.where(X > 0.9, np.nan, X)}

    def loss(model, batch, key):
        return jnp.mean((jax.vmap(model)(batch["x"]) - batch["y"]) ** 2), {}

    result = fit(5, loss=loss, data=data, batch_size=None)
    assert result.status is Status.nonfinite
    assert "`data`['y'] has 1 non-finite values, the first at [11, 0]." in result.message


def test_blow_up_keeps_finite_parameters_and_the_best(tmp_path):
    """A learning rate of 1e60 after 20 good steps: the squares overflow within a few more."""
    schedule = optax.piecewise_constant_schedule(0.05, {20: 1e60})

    def loss(model, batch, key):
        return jnp.mean((model.layers[0].weight * 3.0 - 1.0) ** 4), {}

    result = fit(400, tmp_path, loss=loss, optimizer=optax.sgd(schedule), checkpoint_every=10)
    assert result.status is Status.nonfinite
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(result.model, eqx.is_array)))
    assert result.best_step in (10, 20)
    assert np.isfinite(result.best_value)
    for path in (tmp_path / "checkpoints").iterdir():
        arrays, _ = _store.load(path)
        assert all(np.isfinite(a).all() for name, a in arrays.items() if name[0] in "pob")


def test_learning_rate_that_is_nan_stops():
    result = fit(50, optimizer=optax.sgd(float("nan")))
    assert result.status is Status.nonfinite
    assert eqx.tree_equal(result.model, make_model())


def test_optimizer_state_that_overflows_is_not_kept():
    """Adam's second moment of a gradient of 1e200 is infinite; the step would be zero for ever."""

    def loss(model, batch, key):
        value, metrics = squared(model, batch, key)
        return jnp.where(jax.random.uniform(key) < 0.2, 1e200, 1.0) * value, metrics

    result = fit(40, loss=loss, optimizer=optax.adam(1e-2))
    assert 0 < result.skipped_steps < 20
    assert result.status is Status.finished
    np.testing.assert_array_equal(result.history["skipped"], result.history["loss"] > 1e100)


# Signals


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, Status.interrupted), (signal.SIGTERM, Status.terminated)],
)
def test_signal_finishes_the_chunk_and_saves(tmp_path, whole, number, status):
    before = signal.getsignal(number)

    def send(report):
        if report.step == 13:
            os.kill(os.getpid(), number)

    result = fit(60, tmp_path, callbacks=[send], chunk=3, tag=None)
    assert result.step == 13
    assert result.status is status
    assert steps_in(tmp_path) == ["step_00000013"]
    assert signal.getsignal(number) is before
    assert bits(fit(60, tmp_path)) == bits(whole)


def test_second_interrupt_is_at_once(tmp_path):
    def send(report):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(60, tmp_path, callbacks=[send])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_during_evaluation_is_made_up_for(tmp_path):
    """The evaluation that was cut off is done first on resume: nothing is missing in the end."""
    armed = [False]

    def evaluate(model):
        if armed[0]:
            armed[0] = False
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10.0)
        return {"weight": float(jnp.sum(model.layers[0].weight))}

    expected = fit(20, evaluate=evaluate, best="weight")

    def arm(report):
        armed[0] = report.step == 10

    started = time.monotonic()
    result = fit(20, tmp_path, evaluate=evaluate, best="weight", callbacks=[arm])
    assert time.monotonic() - started < 10.0
    assert (result.status, result.step) == (Status.interrupted, 10)
    assert list(result.evaluations["step"]) == [0]
    assert bits(fit(20, tmp_path, evaluate=evaluate, best="weight")) == bits(expected)


def test_interrupt_during_compilation():
    traces = []

    def loss(model, batch, key):
        traces.append(batch)
        # The first trace checks what the loss returns, the second one is compiled.
        if len(traces) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10.0)
        return squared(model, batch, key)

    result = fit(20, loss=loss)
    assert (result.status, result.step, result.compile_seconds) == (Status.interrupted, 0, 0.0)
    assert len(traces) == 2


def test_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(12)))
    thread.start()
    thread.join()
    assert results[0].status is Status.finished


def test_ignored_signals_stay_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        send = [lambda report: os.kill(os.getpid(), signal.SIGINT)]
        assert fit(12, callbacks=send).status is Status.finished
    finally:
        signal.signal(signal.SIGINT, previous)


SCRIPT = """
import sys
import conftest, test_train_faults

def show(report):
    print(report.step, flush=True)

result = test_train_faults.long_run(10**9, sys.argv[1], callbacks=[show])
sys.exit(130 if result.status is test_train_faults.Status.interrupted else 1)
"""


def long_run(steps, directory=None, **options):
    return fit(steps, directory, evaluate_every=10**6, model=make_model(50), **options)


def test_ctrl_c_in_a_process_then_resume(tmp_path):
    """Stopped in the middle of a chunk, in time, and resumed by another process: the same bits."""
    paths = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[1]]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, "-c", SCRIPT, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        # By then the chunks are long, and the next one is under way when the signal comes.
        while int(process.stdout.readline()) < 5000:
            pass
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        rest = process.stdout.read().split()
        assert process.wait(timeout=20.0) == 130
        assert time.monotonic() - sent < 5.0
    (saved,) = (tmp_path / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    assert [str(step)] == rest[-1:]
    resumed = long_run(step + 50, tmp_path)
    assert (resumed.step, resumed.status) == (step + 50, Status.finished)
    assert bits(resumed) == bits(long_run(step + 50))


# Single models


class Mixed(eqx.Module):
    weights: list
    rate: float
    count: int
    names: np.ndarray
    key: jax.Array
    function: object
    label: str


def make_mixed(value):
    half = jnp.full((2,), value, jnp.bfloat16)
    names = np.full(2, value)
    return Mixed([half, jnp.asarray(value)], value, int(value), names, jax.random.key(2), jnp.sin, "x")


def test_model_round_trip(tmp_path):
    train.save_model(tmp_path / "model", make_mixed(3.0))
    like = eqx.tree_at(lambda m: m.key, make_mixed(0.0), jax.random.key(0))
    loaded = train.load_model(tmp_path / "model", like)
    assert eqx.tree_equal(loaded, make_mixed(3.0))
    assert (type(loaded.rate), type(loaded.count)) == (float, int)


def test_model_errors(tmp_path):
    train.save_model(tmp_path / "model", make_model())
    with pytest.raises(CheckpointError, match=r"model\.layers\[0\]\.weight is float64 of shape"):
        train.load_model(tmp_path / "model", make_model(5))
    with pytest.raises(CheckpointError, match=r"model\.weight is absent there"):
        train.load_model(tmp_path / "model", make_model().layers[0])
    with pytest.raises(CheckpointError, match=r"model\.layers\[0\]\.bias is .* absent here"):
        like = eqx.tree_at(lambda m: m.layers[0].bias, make_model(), None)
        train.load_model(tmp_path / "model", like)
    with pytest.raises(CheckpointError, match="is not a folder"):
        train.load_model(tmp_path / "absent", make_model())
    path = tmp_path / "model" / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="do not match"):
        train.load_model(tmp_path / "model", make_model())
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="Could not write"):
        train.save_model(tmp_path / "file", make_model())
