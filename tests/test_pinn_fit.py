"""Training of PINNs on problems with closed forms: methods, stages, resume, sensitivities, slabs."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci import nn, pde, pinn, train
from jaxsci.linear import CG
from jaxsci.pde import Box, Data, Dirichlet, Initial, high, low
from jaxsci.pinn import Stage
from jaxsci.solvers import GaussNewton, SelfScaledBFGS, SelfScaledBroyden

KEY = jax.random.key(0)
BOX = Box({"x": (0.0, 1.0), "t": (0.0, 1.0)})
SINE = [Initial("u", lambda p: jnp.sin(jnp.pi * p.x)), Dirichlet("u", low("x")), Dirichlet("u", high("x"))]
KAPPA = 0.1
GRID = np.stack(np.meshgrid(np.linspace(0, 1, 13), np.linspace(0, 1, 11)), -1).reshape(-1, 2)


def heat(points, kappa=KAPPA):
    x, t = np.asarray(points).T
    return np.sin(np.pi * x) * np.exp(-kappa * np.pi**2 * t)


class Decay(pde.Equation):
    """u_t = −a u: exp(−a t)."""

    rate: jax.Array = eqx.field(converter=jnp.asarray)
    coordinates = ("t",)
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t + self.rate * d.u


def decay(conditions=(Initial("u", 1.0),), **options):
    network = nn.MLP(1, 1, width=6, depth=1, key=KEY)
    return pinn.PINN(Decay(0.5), Box({"t": (0.0, 1.0)}), conditions, network, **options)


TIMES = np.linspace(0.0, 1.0, 21)[:, None]
KNOWN = (TIMES, np.exp(-0.5 * TIMES))


def fit(model, stages, **options):
    arguments = {"key": KEY, "points": 20, "boundary_points": 4, "progress": False}
    return pinn.fit(model, stages, **arguments | options)


@pytest.fixture(scope="module")
def cooled():
    """The heat equation by Gauss–Newton."""
    model = pinn.PINN(pde.Heat(KAPPA), BOX, SINE, nn.MLP(2, 1, width=12, depth=1, key=KEY))
    reference = (GRID, heat(GRID)[:, None])
    return fit(model, [Stage(GaussNewton(), 200)], points=200, reference=reference, evaluate_every=50)


def test_gauss_newton_reaches_the_closed_form(cooled):
    found = jax.jit(jax.vmap(lambda p: cooled.model(p)))(jnp.asarray(GRID))[:, 0]
    error = np.linalg.norm(found - heat(GRID)) / np.linalg.norm(heat(GRID))
    np.testing.assert_allclose(cooled.error, error, rtol=1e-10)
    assert error < 1e-5
    assert cooled.status is train.Status.finished
    assert cooled.loss == cooled.history["loss"][-1] and cooled.loss < 1e-9
    assert list(cooled.history) == ["stage", "loss", "damping", "gain"]
    assert all(len(column) == cooled.step for column in cooled.history.values())
    # The method never lets the loss rise.
    assert np.all(np.diff(cooled.history["loss"]) <= 1e-18)
    evaluations = cooled.evaluations
    np.testing.assert_allclose(evaluations["equation"][-1], cooled.loss, rtol=1e-10)
    np.testing.assert_array_equal(evaluations["step"], [0, 50, 100, 150, 200])
    assert evaluations["error"][-1] < 1e-3 * evaluations["error"][0]
    assert f"step {cooled.step}, loss" in str(cooled)


METHODS = {
    "GaussNewton": (GaussNewton(), 30),
    "sketched": (GaussNewton(sketch=60), 40),
    "without matrices": (GaussNewton(linear_solver=CG(rtol=1e-6)), 60),
    "SelfScaledBroyden": (SelfScaledBroyden(rtol=1e-9), 150),
    "SelfScaledBFGS": (SelfScaledBFGS(rtol=1e-9), 150),
    "adam": (optax.adam(optax.cosine_decay_schedule(2e-2, 10000)), 10000),
    "soap": (train.soap(optax.exponential_decay(3e-3, 3000, 1e-3)), 3000),
    "L-BFGS of optax": (optax.lbfgs(), 200),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_method_reaches_1e_5(name):
    """Adam, which goes on swinging, 1e-4."""
    method, steps = METHODS[name]
    points = 70 if name == "sketched" else 20
    result = fit(decay(), [Stage(method, steps)], reference=KNOWN, evaluate_every=1000, points=points)
    assert result.error < (1e-4 if name == "adam" else 1e-5), result
    assert result.status is train.Status.finished


def test_single_then_double_precision():
    stages = [Stage(GaussNewton(), 10, dtype=jnp.float32), Stage(GaussNewton(), 15, dtype=jnp.float64)]
    result = fit(decay(), stages, reference=KNOWN)
    kinds = result.history["stage"]
    assert set(kinds) == {0.0, 1.0}
    first, second = (result.history["loss"][kinds == i][-1] for i in (0.0, 1.0))
    assert second < 0.1 * first and result.error < 1e-5
    assert {x.dtype for x in jax.tree.leaves(eqx.filter(result.model.network, eqx.is_inexact_array))} == {
        jnp.dtype("float64")
    }
    # A model in single precision, and its points, stay in it.
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, decay())
    result = fit(single, [Stage(GaussNewton(), 10)], reference=KNOWN)
    assert result.model(jnp.zeros(1, jnp.float32)).dtype == jnp.float32
    assert result.points["equation"][0].dtype == jnp.float32 and result.error < 1e-3


WEIGHTS = {
    "Fixed": train.Fixed({"equation": 2.0, "Initial u": 10.0}),
    "GradientNorm": train.GradientNorm(every=5),
    "NeuralTangent": train.NeuralTangent(every=5),
    "ReLoBRaLo": train.ReLoBRaLo(),
    "ResidualAttention": train.ResidualAttention(decay=0.9, rate=0.1),
    "SelfAdaptive": train.SelfAdaptive(),
    "Causal": train.Causal((0.1, 1.0), 4),
    "Product": train.Product(train.GradientNorm(every=5), train.Causal(1.0, 4)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name):
    model = decay((), soft=[Initial("u", 1.0)])
    rule = WEIGHTS[name]
    stages = [Stage(optax.adam(3e-2), 100, weights=rule)]
    if name in ("GradientNorm", "ResidualAttention"):  # between chunks, and for each point
        stages.append(Stage(GaussNewton(), 10, weights=rule, every=5))
    result = fit(model, stages, reference=KNOWN, evaluate_every=100)
    assert result.status is train.Status.finished
    assert np.isfinite(result.history["loss"]).all() and result.step >= 100
    assert result.error < (0.2 if len(stages) == 1 else 1e-3) * result.evaluations["error"][0]


def test_fixed_weights_are_in_the_loss():
    """Before the first step: ½ (2 mean r² of the equation + 10 mean r² of the start)."""
    model = decay((), soft=[Initial("u", 1.0)])
    result = fit(model, [Stage(optax.sgd(1e-9), 1, weights=WEIGHTS["Fixed"])])
    of = lambda name: result.evaluations[name][0]
    np.testing.assert_allclose(result.loss, 2 * of("equation") + 10 * of("Initial u"), rtol=1e-12)


@pytest.mark.parametrize("rule", [train.ConFIG(), train.MGDA(), train.PCGrad(), train.Sum()], ids=str)
def test_directions(rule):
    model = decay((), soft=[Initial("u", 1.0)])
    result = fit(model, [Stage(optax.adam(1e-2), 300, direction=rule)], reference=KNOWN)
    assert result.error < 0.05 and result.loss < 1e-2 * result.history["loss"][0]


def test_batches_and_new_points():
    stages = [
        Stage(optax.adam(1e-2), 100, batch=8),
        Stage(GaussNewton(), 20, resample=pde.RAD(), every=5),
        Stage(SelfScaledBroyden(), 20, resample=pde.R3(), every=10),
    ]
    result = fit(decay(), stages, reference=KNOWN)
    assert result.error < 1e-4
    points = np.asarray(result.points["equation"][0])
    fixed = fit(decay(), [Stage(GaussNewton(), 1)]).points["equation"][0]
    assert points.shape == fixed.shape and not np.isin(points, np.asarray(fixed)).all()
    assert np.all((points >= 0) & (points <= 1))


def test_pseudo_time_stepping():
    """It ends where r = 0 all the same: at a fixed point u = u_prev."""
    stage = Stage(optax.adam(1e-2), 1500, pseudo_time=pinn.PseudoTime(every=5, largest=10.0))
    result = fit(decay(), [stage], reference=KNOWN, evaluate_every=500)
    assert result.error < 1e-2
    # The row is r + w (u − u_prev): at the first step u is u_prev.
    plain = fit(decay(), [Stage(optax.adam(1e-2), 1)])
    assert result.history["loss"][0] == pytest.approx(plain.loss, rel=1e-12)


def test_curriculum():
    """A stage with its own equation, then that of the model."""
    easy = Stage(GaussNewton(), 10, equation=Decay(0.1))
    result = fit(decay(), [easy, Stage(GaussNewton(), 20)], reference=KNOWN)
    assert result.model.equation.rate == 0.5 and result.error < 1e-5
    kinds, loss = result.history["stage"], result.history["loss"]
    assert loss[kinds == 0][-1] < 1e-6 < loss[kinds == 1][0]


STAGES = [
    Stage(optax.adam(1e-2), 40, batch=8, weights=train.ReLoBRaLo()),
    Stage(GaussNewton(), 12, resample=pde.RAD(), every=4),
]


def test_resume_is_bitwise(tmp_path):
    """Stopped by a callback in the first stage, then in the second, and called again."""
    model = decay((), soft=[Initial("u", 1.0)])
    options = {"reference": KNOWN, "evaluate_every": 10}
    whole = fit(model, STAGES, **options)
    options |= {"directory": tmp_path, "checkpoint_every": 15}
    for stop in (17, 45):
        part = fit(model, STAGES, callbacks=[lambda now, stop=stop: now.step >= stop], **options)
        assert part.status is train.Status.stopped and stop <= part.step < whole.step
    rest = fit(model, STAGES, **options)
    assert rest.step == whole.step
    for name in whole.history:
        np.testing.assert_array_equal(rest.history[name], whole.history[name])
    for name in set(whole.evaluations) - {"seconds"}:
        np.testing.assert_array_equal(rest.evaluations[name], whole.evaluations[name])
    arrays = lambda result: jax.tree.leaves(eqx.filter((result.model, result.points), eqx.is_array))
    for a, b in zip(arrays(rest), arrays(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    # What is finished does not start again; a log of it all is there.
    again = fit(model, STAGES, **options)
    np.testing.assert_array_equal(again.history["loss"], whole.history["loss"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(line["event"] == "start" for line in lines) == 4
    with pytest.raises(train.CheckpointError, match="there are 1 stages now"):
        fit(model, STAGES[:1], **options)


def test_callbacks_and_time():
    seen = []
    result = fit(decay(), [Stage(optax.adam(1e-3), 50)], callbacks=[seen.append], evaluate_every=25)
    assert seen[-1].step == result.step == 50 and seen[-1].stage == 0
    assert seen[-1].figures["loss"] == result.loss
    assert jnp.isfinite(seen[0].model(jnp.zeros(1))).all()
    short = fit(decay(), [Stage(optax.adam(1e-3), 10**6)], seconds=0.0)
    assert short.status is train.Status.stopped and short.step == 0 and "seconds" in short.message


class Breaks(pde.Equation):
    """u_t + u = 0, with a logarithm that has no value from some time on."""

    coordinates = ("t",)
    fields = ("u",)

    def residual(self, d, point):
        return d.u_t + jnp.log(d.u - 0.2)


def test_not_a_number_stops_with_the_last_finite_model():
    network = nn.MLP(1, 1, width=6, depth=1, key=KEY)
    model = pinn.PINN(Breaks(), Box({"t": (0.0, 1.0)}), [Initial("u", 1.0)], network)
    result = fit(model, [Stage(optax.sgd(2.0), 200)])
    assert result.status is train.Status.nonfinite and result.step < 200
    assert "last finite one" in result.message
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(eqx.filter(result.model, eqx.is_array)))


def test_converged_methods_say_so():
    result = fit(decay(), [Stage(GaussNewton(rtol=1e-2), 500)])
    assert result.step < 500 and "converged" in result.message


def test_inverse_problem_recovers_a_coefficient():
    points = BOX.interior(12, pde.Sobol(), jax.random.key(5))
    data = Data("u", points, jnp.asarray(heat(points)))
    model = pinn.PINN(pde.Heat(0.5), BOX, [*SINE, data], nn.MLP(2, 1, width=8, depth=1, key=KEY))
    unknown = lambda m: (m.network, m.equation.diffusivity)
    result = fit(model, [Stage(GaussNewton(), 60)], points=150, unknown=unknown)
    assert abs(result.model.equation.diffusivity - KAPPA) < 1e-4 * KAPPA
    assert float(model.equation.diffusivity) == 0.5


POINTS = jnp.array([[0.5, 0.5], [0.2, 0.9], [0.7, 0.1]])


def test_sensitivity_to_a_coefficient(cooled):
    """du/dκ = −π² t u, in both modes; the value is unchanged."""

    def u(kappa):
        changed = cooled.model.with_equation(pde.Heat(kappa))
        return jax.vmap(pinn.attach(changed, cooled.points))(POINTS)[:, 0]

    expected = -(np.pi**2) * np.asarray(POINTS)[:, 1] * heat(POINTS)
    forward = jax.jit(jax.jacfwd(u))(jnp.array(KAPPA))
    np.testing.assert_allclose(forward, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(jax.jit(jax.jacrev(u))(jnp.array(KAPPA)), forward, rtol=1e-7, atol=1e-9)
    kept = jax.vmap(cooled.model)(POINTS)[:, 0]
    np.testing.assert_allclose(jax.jit(u)(KAPPA), kept, rtol=1e-13)


class Cubic(eqx.Module):
    """Linear in its parameters: training ends at the minimum."""

    weights: jax.Array

    def __call__(self, x):
        return self.weights @ x[0] ** jnp.arange(4)


def test_sensitivity_to_data():
    """Against training again with other data. Data and equation contradict each other, so that both count."""
    at = jnp.array([[0.3], [0.6], [1.0]])

    def solve(values):
        conditions = [Initial("u", 1.0), Data("u", at, values)]
        model = pinn.PINN(Decay(0.5), Box({"t": (0.0, 1.0)}), conditions, Cubic(jnp.zeros(4)))
        return fit(model, [Stage(GaussNewton(rtol=1e-13), 30)])

    values, step = jnp.array([0.9, 0.8, 0.5]), jnp.array([0.1, -0.2, 0.05])
    base, where = solve(values), jnp.array([0.8])

    def u(values):
        changed = eqx.tree_at(lambda m: m.soft[0].values, base.model, values)
        return pinn.attach(changed, base.points)(where)[0]

    difference = solve(values + step).model(where)[0] - base.model(where)[0]
    slope = jax.jit(jax.grad(u))(values)
    assert abs(difference) > 1e-3
    np.testing.assert_allclose(slope @ step, difference, rtol=1e-6)
    _, forward = jax.jvp(jax.jit(u), (values,), (step,))
    np.testing.assert_allclose(forward, difference, rtol=1e-6)


def test_slabs_of_time(tmp_path):
    """u_tt = −u from (1, 0): cos t. A slab begins with value and rate of the one before."""

    class Spring(pde.Equation):
        coordinates = ("t",)
        fields = ("u",)

        def residual(self, d, point):
            return d.u_tt + d.u

    times = jnp.array([[0.4], [1.6]])
    conditions = [Initial("u", 1.0), Initial("u", 0.0, rate=True), Data("u", times, jnp.cos(times[:, 0]))]
    make = lambda domain, conditions, key: pinn.PINN(
        Spring(), domain, conditions, nn.MLP(1, 1, width=6, depth=1, key=key)
    )

    t = jnp.linspace(0, 2, 21)[:, None]
    result = pinn.march(
        make, Box({"t": (0.0, 2.0)}), conditions, (0.0, 1.0, 2.0), [Stage(GaussNewton(), 25)],
        key=KEY, points=20, progress=False, directory=tmp_path, reference=(t, jnp.cos(t)),
    )  # fmt: skip
    model = jax.jit(jax.vmap(lambda p: result.model(p)))
    np.testing.assert_allclose(model(t), np.cos(t), atol=1e-5)
    assert [len(slab.points["Data u data"][0]) for slab in result.slabs] == [1, 1]
    first, second = result.model.models
    seam = jnp.array([1.0])
    jet = jax.jit(lambda p: [jax.jvp(m, (p,), (jnp.ones(1),)) for m in (first, second)])(seam)
    np.testing.assert_allclose(*jet, atol=1e-12)
    assert max(slab.error for slab in result.slabs) < 1e-4
    assert result.seconds == sum(slab.seconds for slab in result.slabs) and result.compile_seconds > 0
    assert str(result).count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slab_0", "slab_1"]
