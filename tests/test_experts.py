"""Mixtures of experts: against the plain constraint, a loop, one device, and closed forms."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci as jsci
from jaxsci import layers, pde

GRID = pde.Grid({"t": pde.Levels(pde.graded(500.0, 6)), "x": pde.Cells(np.linspace(0, 1, 17))})
TYPICAL = pde.DiffusionSorption()
SCHEME = layers.Scheme(
    GRID, layers.SpaceTimeInverse(GRID, TYPICAL, TYPICAL.conditions(), reference={"u": 0.1})
)
LIFT = jnp.full(GRID.shape, 0.3)


def _basis():
    x = (np.arange(16) + 0.5) / 16
    tau = np.linspace(0.1, 1, 7)[:, None]
    return jnp.asarray(
        np.stack([np.cos(i * np.pi * x) * np.cos(j * np.pi * tau) for i in (0, 1) for j in (0, 1)])
    )


BASIS = _basis()
CONSTRAINT = layers.HardConstraint(SCHEME, jsci.solvers.BFGS(rtol=1e-8), ridge=1e-6)


def _apply(layer, basis=BASIS, D=TYPICAL.diffusivity, lift=LIFT):
    equation = pde.DiffusionSorption(D)
    return layer(equation, basis, lift, equation.conditions())


def _loss(layer):
    """A function of basis and D, with the report beside its value and its gradient."""

    def loss(basis, D):
        found = _apply(layer, basis, D)
        return jnp.sum(jnp.sin(3 * found.values)), found

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@functools.cache
def _plain():
    """What the constraint alone gives."""
    return _loss(CONSTRAINT)(BASIS, TYPICAL.diffusivity)


@pytest.mark.parametrize(
    "partition", [layers.Windows({"x": 1}), layers.Boxes({"x": 1}, outside=0.0)], ids=["windows", "boxes"]
)
def test_one_expert_is_the_plain_constraint(partition):
    (_, plain), slopes = _plain()
    mixture = layers.MixtureOfExperts(CONSTRAINT, partition)
    (_, mixed), mixed_slopes = _loss(mixture)(BASIS, TYPICAL.diffusivity)
    np.testing.assert_allclose(mixed.values, plain.values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(mixed.residual_norm.reshape(()), plain.residual_norm, rtol=1e-10)
    np.testing.assert_array_equal(mixed.steps.reshape(()), plain.steps)
    for found, wanted in zip(mixed_slopes, slopes, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-8 * np.max(np.abs(wanted)))


class _Weighted(eqx.Module):
    rows: eqx.Module
    weight: jax.Array

    def __call__(self, r):
        return self.weight * self.rows(r)


def test_boxes_are_a_loop_over_weights():
    partition = layers.Boxes({"x": 4}, outside=0.2)
    found = jax.jit(lambda basis: _apply(layers.MixtureOfExperts(CONSTRAINT, partition), basis))(BASIS)
    assert found.coefficients.shape == (4, 4) and np.all(found.converged)

    @jax.jit
    def alone(weight):
        scheme = layers.Scheme(GRID, _Weighted(SCHEME.rows, weight))
        return _apply(eqx.tree_at(lambda c: c.discretization, CONSTRAINT, scheme))

    for k in range(4):
        own = np.zeros(GRID.row_shape)
        own[:, 4 * k : 4 * k + 4] = 1.0
        own[:, [0, -1]] = 1.0  # every expert sees the rows next to the faces
        one = alone(own + 0.2 * (1 - own))
        np.testing.assert_allclose(found.coefficients[k], one.coefficients, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.residual_norm[k], one.residual_norm, rtol=1e-9)
        assert int(found.steps[k]) == int(one.steps)
        cells = slice(4 * k, 4 * k + 4)
        np.testing.assert_allclose(found.values[:, cells], one.values[:, cells], rtol=0, atol=1e-9)


def test_the_published_form():
    """u = basis · ωₖ; an expert sees its own rows, those next to the faces, and all initial values."""
    scheme = layers.Scheme(GRID, SCHEME.rows, exact_initial=False)
    constraint = eqx.tree_at(lambda c: c.discretization, CONSTRAINT, scheme)
    partition = layers.Boxes({"x": 2})
    found = jax.jit(lambda basis: _apply(layers.MixtureOfExperts(constraint, partition), basis))(BASIS)
    assert np.all(found.converged)
    conditions = TYPICAL.conditions()

    def objective(omega, seen):
        u = jnp.tensordot(omega, BASIS, 1)
        rows = seen * scheme.residual(TYPICAL, u, conditions)
        return 0.5 * jnp.sum(rows**2) + 0.5 * jnp.mean((u[0] - 0.3) ** 2) + 0.5e-6 * omega @ omega

    f = jax.jit(jax.grad(objective))
    for k, cells in enumerate((slice(0, 8), slice(8, 16))):
        seen = np.zeros(GRID.row_shape)
        seen[:, cells] = 1
        seen[:, [0, -1]] = 1
        omega = found.coefficients[k]
        h = 1e-4 * np.linalg.norm(f(jnp.zeros_like(omega), seen))
        assert np.linalg.norm(f(omega, seen)) < h
        np.testing.assert_allclose(found.values[:, cells], jnp.tensordot(omega, BASIS, 1)[:, cells])
    with pytest.raises(ValueError, match="`exact_initial` is False"):
        space = pde.Grid({"x": pde.Cells(np.linspace(0, 1, 17))})
        layers.Scheme(space, layers.MeanSquare(space), exact_initial=False)


SOLVERS = [jsci.solvers.BFGS(rtol=1e-11), jsci.solvers.LevenbergMarquardt(rtol=1e-8)]


# Eight experts on four devices; the left ones, with the front in their box, are harder.
@functools.cache
def _here(solver):
    """The layer on one device, and what it gives."""
    layer = layers.MixtureOfExperts(
        layers.HardConstraint(SCHEME, solver, ridge=1e-3), layers.Boxes({"x": 8}, outside=0.05)
    )
    return layer, _loss(layer)(BASIS, TYPICAL.diffusivity)


def _there(devices, layer):
    return layers.MixtureOfExperts(layer.constraint, layer.partition, mesh=devices(4, names=("experts",)))


@pytest.mark.parametrize("solver", SOLVERS, ids=["bfgs", "lm"])
def test_experts_on_four_devices_are_those_on_one(devices, solver):
    """They are, and nothing is communicated inside the solves."""
    here, ((loss, one), slopes) = _here(solver)
    compiled = _loss(_there(devices, here)).lower(BASIS, TYPICAL.diffusivity).compile()
    (loss_there, many), slopes_there = compiled(BASIS, TYPICAL.diffusivity)
    assert np.all(one.converged) and len(many.coefficients.sharding.device_set) == 4
    np.testing.assert_allclose(loss_there, loss, rtol=1e-12)
    np.testing.assert_allclose(many.values, one.values, rtol=0, atol=1e-12)
    scale = np.max(np.abs(one.coefficients))
    np.testing.assert_allclose(many.coefficients, one.coefficients, rtol=0, atol=1e-12 * scale)
    # The basis and D are shared by all experts: their gradient is a sum over the mesh, once.
    for found, wanted in zip(slopes_there, slopes, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.max(np.abs(wanted)))
    # Every expert stops when it is done, and at the same count wherever it is placed.
    assert len(set(np.asarray(one.steps).tolist())) > 1
    np.testing.assert_array_equal(many.steps, one.steps)
    _check_communication(compiled.as_text())


COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\b")


def _computations(text):
    """Name → lines, of compiled HLO."""
    found, name = {}, None
    for line in text.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if start:
            name = start.group(1)
            found[name] = []
        elif name is not None:
            found[name].append(line)
    return found


def _reached(computations, roots):
    todo, seen = list(roots), set()
    while todo:
        name = todo.pop()
        if name in seen or name not in computations:
            continue
        seen.add(name)
        for line in computations[name]:
            todo += re.findall(r"%([\w.\-]+)", line)
    return seen


def _check_communication(compiled):
    """None in the loops, of the forward and of the gradient's program: they would run in lockstep."""
    computations = _computations(compiled)
    bodies = re.findall(r"(?:body|condition)=%([\w.\-]+)", compiled)
    assert bodies, "the solve is a loop"
    inside = [
        line
        for name in _reached(computations, bodies)
        for line in computations[name]
        if COLLECTIVE.search(line)
    ]
    assert not inside, inside[:3]
    # The search finds them where they are: the gradient is summed over the devices after the solve.
    assert COLLECTIVE.search(compiled)


def test_failed_expert_is_visible_and_leaves_the_others(devices):
    """With few steps only the experts that are done by then converge."""
    here, ((_, one), _) = _here(SOLVERS[0])
    steps = np.asarray(one.steps)
    limit = int(steps.max()) - 1
    for layer in (here, _there(devices, here)):
        few = eqx.tree_at(
            lambda m: m.constraint,
            layer,
            layers.HardConstraint(SCHEME, SOLVERS[0], limit, 1e-3, on_failure=layers.poison),
        )
        found = jax.jit(lambda basis, few=few: _apply(few, basis))(BASIS)
        np.testing.assert_array_equal(found.converged, steps <= limit)
        np.testing.assert_array_equal(np.isnan(found.coefficients).all(axis=1), steps > limit)


@pytest.mark.parametrize("counts", [{"x": 4}, {"t": 2, "x": 3}, {}])
def test_windows_are_a_partition_of_unity(counts):
    partition = layers.Windows(counts)
    phi = partition.windows(GRID)
    assert phi.shape == (partition.experts, *GRID.shape)
    np.testing.assert_allclose(phi.sum(0), 1.0, rtol=0, atol=1e-14)
    assert phi.min() >= 0 and phi.max() <= 1


def test_windows_are_cosines_squared_about_the_middles():
    grid = pde.Grid({"x": pde.Cells(np.linspace(-0.5, 100.5, 102))})  # centers 0, 1, …, 100
    phi = layers.Windows({"x": 4}).windows(grid)
    x = np.arange(101.0)
    middles = (np.arange(4) + 0.5) * 25
    for k in (1, 2):
        distance = np.abs(x - middles[k]) / 25
        wanted = np.where(distance < 1, np.cos(np.pi * distance / 2) ** 2, 0)
        np.testing.assert_allclose(phi[k], wanted, atol=1e-12)
    np.testing.assert_array_equal(phi[0][x < middles[0]], 1.0)
    np.testing.assert_array_equal(phi[3][x > middles[3]], 1.0)


def test_own_and_shared_functions_of_windows():
    own = layers.MixtureOfExperts(CONSTRAINT, layers.Windows({"x": 2}))
    shared = layers.MixtureOfExperts(CONSTRAINT, layers.Windows({"x": 2}, shared=True))
    np.testing.assert_allclose(
        own.windowed(jnp.concatenate([BASIS, BASIS])), shared.windowed(BASIS), rtol=1e-14
    )
    assert shared.windowed(BASIS).shape == (8, *GRID.shape)
    # Σₖ φₖ basis is the basis: with equal coefficients nothing is cut.
    total = shared.windowed(BASIS).reshape(2, 4, *GRID.shape).sum(0)
    np.testing.assert_allclose(total, BASIS, rtol=0, atol=1e-12)


def test_boxes_cover_the_grid_once():
    partition = layers.Boxes({"t": 2, "x": 3})
    for at_rows, shape in ((True, GRID.row_shape), (False, GRID.shape)):
        boxes = partition.indicators(GRID, at_rows=at_rows)
        assert boxes.shape == (6, *shape)
        np.testing.assert_array_equal(boxes.sum(0), np.ones(shape))


def test_boxes_with_full_weight_outside_are_the_single_constraint():
    partition = layers.Boxes({"x": 2}, outside=1.0)
    found = jax.jit(lambda basis: _apply(layers.MixtureOfExperts(CONSTRAINT, partition), basis))(BASIS)
    (_, plain), _ = _plain()
    np.testing.assert_allclose(found.values, plain.values, rtol=0, atol=1e-10)


def test_interface_jump_of_known_fields():
    cells = np.arange(12.0)
    linear = jnp.asarray(np.stack([2 * cells + 1, -cells]))
    np.testing.assert_allclose(layers.interface_jump(linear, 3), 0.0, atol=1e-14)
    step = jnp.asarray(np.stack([0.7 * (cells >= 4), 0.1 * (cells >= 4)]))
    # Interfaces at 4 and 8; only the first has the step.
    wanted = np.sqrt(np.mean([0.7**2, 0, 0.1**2, 0]))
    np.testing.assert_allclose(layers.interface_jump(step, 3), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (
            TypeError,
            "expected a HardConstraint on a `Scheme`",
            lambda mesh: layers.MixtureOfExperts(
                layers.HardConstraint(layers.Collocation(jnp.ones((2, 2)))), layers.Boxes({"x": 2})
            ),
        ),
        (
            ValueError,
            "cuts along 'y'",
            lambda mesh: layers.MixtureOfExperts(CONSTRAINT, layers.Boxes({"y": 2})),
        ),
        (
            ValueError,
            "one joint solve",
            lambda mesh: layers.MixtureOfExperts(CONSTRAINT, layers.Windows({"x": 4}), mesh=mesh),
        ),
        (
            ValueError,
            "`axis` is 'wrong'",
            lambda mesh: layers.MixtureOfExperts(CONSTRAINT, layers.Boxes({"x": 4}), mesh, "wrong"),
        ),
        (
            ValueError,
            "cannot be placed evenly",
            lambda mesh: layers.MixtureOfExperts(CONSTRAINT, layers.Boxes({"x": 3}), mesh=mesh),
        ),
        (ValueError, "`outside` is 2", lambda mesh: layers.Boxes({"x": 2}, outside=2.0)),
        (ValueError, "whole number", lambda mesh: layers.Windows({"x": 0})),
        (ValueError, "whole number", lambda mesh: layers.Boxes({"x": 1.5})),
        (
            ValueError,
            "4 functions for 3 experts",
            lambda mesh: _apply(layers.MixtureOfExperts(CONSTRAINT, layers.Windows({"x": 3}))),
        ),
    ],
)
def test_mistakes_are_named(error, match, call, devices):
    with pytest.raises(error, match=match):
        call(devices(4, names=("experts",)))
