"""The generated data set: accuracy, reproducibility, cache."""

import shutil
import warnings

import jax
import numpy as np
import pytest

from jaxsci import pde
from jaxsci.pde import _cache, datasets
from jaxsci.pde.datasets import Paper, Rich, diffusion_sorption


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """One small data set, and the cache that it lies in. float32 is the default meanwhile."""
    cache = tmp_path_factory.mktemp("cache")
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error")
        data = diffusion_sorption(
            Rich(), train=3, test=2, cells=64, times=pde.graded(500.0, 8), cache=cache,
            progress=False,
        )  # fmt: skip
        assert jax.numpy.ones(()).dtype == np.float32
    return data, cache


def again(cache, **changes):
    arguments = {
        "train": 3, "test": 2, "cells": 64, "times": pde.graded(500.0, 8), "progress": False,
    }  # fmt: skip
    return diffusion_sorption(Rich(), **{**arguments, **changes}, cache=cache)


def no_generation(monkeypatch):
    def fail(*_):
        raise AssertionError("generated again")

    monkeypatch.setattr(datasets, "_generate", fail)


def equal(one, other):
    leaves = jax.tree.leaves((one[:5], other[:5]))
    half = len(leaves) // 2
    return all(map(np.array_equal, leaves[:half], leaves[half:]))


def test_contents(generated):
    data, _ = generated
    assert data.x.shape == (64,) and data.t.shape == (9,) and data.faces.shape == (65,)
    assert data.train.solution is None and data.train.initial.shape == (3, 64)
    assert data.test.solution.shape == (2, 9, 64) and data.test.solution.dtype == np.float64
    assert np.allclose(data.test.solution[:, 0], data.test.initial, rtol=0, atol=1e-14)
    assert np.all(data.test.solution > 0) and np.all(data.test.solution < 1)
    assert data.grid().shape == (9, 64) and data.grid(1).axes["t"].order == 1


def test_refinement_error(generated):
    data, _ = generated
    error = data.meta["refinement_error"]
    assert 1e-7 < error["cells"] < 1e-4 and error["tolerance"] < 1e-6
    assert data.meta["seconds_per_sample"] > 0
    assert set(data.meta["versions"]) == {"jax", "diffrax", "numpy"}


def test_the_discrete_scheme_is_near_the_reference(generated):
    # The reference put into the BDF2 scheme of the coarse grid, in units of u: small after the
    # initial layer, so that both mean one problem (conditions, coefficients, restriction).
    data, _ = generated
    grid, sample = data.grid(), data.test
    equation = pde.DiffusionSorption(sample.diffusivity[0], sample.freundlich[0])

    @jax.jit
    def residual(u):
        d = grid.fields({"u": u}, pde.required(equation), equation.conditions())
        return equation.residual(d, grid.point()) / equation.retardation(d.u)

    change = np.asarray(residual(sample.solution[0]))[4:] * np.diff(data.t)[4:, None]
    assert np.sqrt(np.mean(change**2)) < 5e-3
    wrong = np.asarray(residual(np.ones_like(sample.solution[0]) * 0.1))[4:]
    assert np.sqrt(np.mean((wrong * np.diff(data.t)[4:, None]) ** 2)) > 0.05


def test_second_use_reads_the_cache(generated, monkeypatch):
    data, cache = generated
    no_generation(monkeypatch)
    second = again(cache)
    assert equal(data, second) and second.meta == data.meta
    monkeypatch.setenv("JAXSCI_CACHE", str(cache))
    assert equal(data, again(None))


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"cells": 32}, {"times": pde.graded(500.0, 9)}, {"test": 3}, {"train": 4}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_configuration_is_another_entry(generated, monkeypatch, changes):
    _, cache = generated
    no_generation(monkeypatch)
    with pytest.raises(AssertionError, match="generated again"):
        again(cache, **changes)


def test_a_damaged_cache_is_made_again(generated, monkeypatch, tmp_path):
    data, cache = generated
    (name,) = [path.name for path in cache.iterdir()]
    shutil.copytree(cache / name, tmp_path / name)
    (file,) = tmp_path.glob("*/arrays*.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    arrays, meta = _cache.load(cache / name)
    monkeypatch.setattr(datasets, "_generate", lambda *_: (arrays, meta))
    with pytest.warns(UserWarning, match="Generating cached data again.*sha256"):
        assert equal(data, again(tmp_path))
    no_generation(monkeypatch)
    assert equal(data, again(tmp_path))


def test_a_cache_that_cannot_be_written_is_done_without(generated, monkeypatch, tmp_path):
    data, cache = generated
    (folder,) = cache.iterdir()
    arrays, meta = _cache.load(folder)
    monkeypatch.setattr(datasets, "_generate", lambda *_: (arrays, meta))
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="is not cached.*JAXSCI_CACHE"):
        assert equal(data, again(tmp_path / "file"))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSCI_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert _cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("JAXSCI_CACHE")
    assert _cache.cache_folder() == tmp_path / "shared" / "jaxsci"


def test_presets_are_laws():
    x = np.linspace(0, 1, 200)
    profile, diffusivity, freundlich = Paper().draw(np.random.default_rng(0), 400)
    u = profile(x)
    assert np.all(u == u[:, :1]) and 0.005 <= u.min() < 0.01 and 0.19 < u.max() <= 0.2
    assert np.all(diffusivity == 5e-4) and np.all(freundlich == 3.5e-4)
    profile, diffusivity, freundlich = Rich().draw(np.random.default_rng(0), 400)
    u = profile(x)
    field = -np.log(0.18 / (u - 0.02) - 1)
    assert np.all(u > 0.02) and np.all(u < 0.2)
    assert abs(field.mean()) < 0.2 and abs(field.std() - 1.5) < 0.2
    for values, median in ((diffusivity, 5e-4), (freundlich, 3.5e-4)):
        assert values.min() > median / 2 and values.max() < median * 2
        assert abs(np.log(values / median).mean()) < 0.1
    # The same function on any cells.
    assert np.array_equal(profile(x[::3]), u[:, ::3])


def test_wrong_arguments_are_refused():
    for arguments, message in (
        ({"times": np.array([0.0, 2.0, 1.0])}, "`times`"),
        ({"test": 0}, "`test` is 0"),
        ({"cells": 1}, "`cells` is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            diffusion_sorption(Paper(), **{"train": 1, "test": 1, **arguments})
