"""PINN: the rows of its loss, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci import nn, pde, pinn, train
from jaxsci._tree import ravel, unravel
from jaxsci.pde import Box, Data, Dirichlet, Initial, Neumann, Part, Periodic, Robin, high, low
from jaxsci.pinn._terms import Objective
from jaxsci.pinn._unknown import network_of, split
from jaxsci.solvers import GaussNewton, Newton, SelfScaledBroyden

KEY = jax.random.key(0)
DOMAIN = Box({"x": (0.0, 2.0), "t": (0.0, 1.0)})


class Two(pde.Equation):
    """u_t = u_xx − v, v = u_x."""

    coordinates = ("x", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        return d.u_t - d.u_xx + d.v, d.v - d.u_x


def network(inputs=2, outputs=1):
    return nn.MLP(inputs, outputs, width=8, depth=1, key=KEY)


def objective(model, n=6, unknown=network_of):
    """The objective, the points of it, and the unknowns."""
    terms = model.terms()
    inputs = {t.name: t.draw(model, n, pde.Sobol(), KEY) for t in terms}
    found, rest = split(model, unknown)
    return Objective(terms, model, inputs, rest), inputs, found


@pytest.fixture(scope="module")
def soft():
    """Every soft condition at once, none hard; the second field has data."""
    points = jnp.array([[0.3, 0.2], [1.1, 0.9], [1.7, 0.5]])
    conditions = [
        Robin("u", low("x"), a=lambda p: 1 + p.t, b=2.0, value=lambda p: jnp.cos(p.t)),
        Neumann("u", high("x"), lambda p: p.t**2),
        Neumann("v", low("x"), 0.5),
        Data("v", points, jnp.array([1.0, -1.0, 0.5]), "probe"),
    ]
    start = [Initial("u", lambda p: p.x**2), Initial("v", 1.5), Initial("v", lambda p: p.x, rate=True)]
    model = pinn.PINN(Two(), DOMAIN, conditions, network(2, 2), soft=start)
    assert model.hard == ()
    return model, *objective(model)


def test_soft_rows_are_what_they_say(soft):
    model, loss, inputs, unknown = soft
    rows = eqx.filter_jit(loss.residuals)(unknown, inputs)
    # The whole first derivative, by a way that the rows do not take.
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda p: model(p))))
    value = jax.jit(jax.vmap(lambda p: model(p)))
    p = inputs["Robin u low x"][0]
    t = p[:, 1]
    robin = (1 + t) * value(p)[:, 0] + 2.0 * -jacobian(p)[:, 0, 0] - jnp.cos(t)
    np.testing.assert_allclose(rows["Robin u low x"], robin, atol=1e-12)
    p = inputs["Neumann u high x"][0]
    np.testing.assert_allclose(rows["Neumann u high x"], jacobian(p)[:, 0, 0] - p[:, 1] ** 2, atol=1e-12)
    p = inputs["Neumann v low x"][0]
    np.testing.assert_allclose(rows["Neumann v low x"], -jacobian(p)[:, 1, 0] - 0.5, atol=1e-12)
    p = inputs["Initial u"][0]
    assert np.all(p[:, 1] == 0)
    np.testing.assert_allclose(rows["Initial u"], value(p)[:, 0] - p[:, 0] ** 2, atol=1e-12)
    np.testing.assert_allclose(rows["Initial v"], value(inputs["Initial v"][0])[:, 1] - 1.5, atol=1e-12)
    p = inputs["Initial v rate"][0]
    np.testing.assert_allclose(rows["Initial v rate"], jacobian(p)[:, 1, 1] - p[:, 0], atol=1e-12)
    p, measured = inputs["Data v probe"]
    np.testing.assert_allclose(rows["Data v probe"], value(p)[:, 1] - measured, atol=1e-12)
    # The equations, by nested derivatives.
    p = inputs["equation"][0]
    hessian = jax.jit(jax.vmap(jax.hessian(lambda p: model(p))))(p)
    v, j = value(p)[:, 1], jacobian(p)
    np.testing.assert_allclose(rows["equation[0]"], j[:, 0, 1] - hessian[:, 0, 0, 0] + v, atol=1e-12)
    np.testing.assert_allclose(rows["equation[1]"], v - j[:, 0, 0], atol=1e-12)
    assert set(rows) == set(loss.names) and len(loss.names) == 9
    assert loss.owned("equation") == ("equation[0]", "equation[1]")


def test_rows_of_a_soft_periodic_condition():
    model = pinn.PINN(pde.Heat(1.0), DOMAIN, [], network(), soft=[Periodic("u", "x")])
    loss, inputs, unknown = objective(model, 4)
    rows = eqx.filter_jit(loss.residuals)(unknown, inputs)
    (p,) = inputs["Periodic u x"]
    assert np.all(p[:, 0] == 0)
    q = p.at[:, 0].set(2.0)
    ends = jax.jit(
        lambda p: jnp.concatenate([jax.vmap(model)(p)[:, 0], jax.vmap(jax.jacrev(model))(p)[:, 0, 0]])
    )
    both = np.concatenate([rows["Periodic u x[0]"], rows["Periodic u x[1]"]])
    np.testing.assert_allclose(both, ends(p) - ends(q), atol=1e-12)


def test_rows_are_scaled_to_means(soft):
    """½‖rows‖² = ½ Σ mean(w r²), with a weight for a term or for each point."""
    _, loss, inputs, unknown = soft
    found = eqx.filter_jit(loss.residuals)(unknown, inputs)
    weights = {name: jnp.asarray(1.0 + i) for i, name in enumerate(loss.names)}
    weights["equation[0]"] = jnp.linspace(0.5, 2.0, 6)
    rows = eqx.filter_jit(loss.rows)(unknown, inputs, weights)
    expected = train.weighted_loss(weights, found)
    np.testing.assert_allclose(0.5 * rows @ rows, expected, rtol=1e-12)


def test_linearized_is_the_jacobian_of_the_rows(soft):
    _, loss, inputs, unknown = soft
    weights = {name: jnp.asarray(1.0 + i) for i, name in enumerate(loss.names)}
    weights["equation[1]"] = jnp.linspace(0.5, 2.0, 6)
    rows = lambda v: loss.rows(unravel(v, unknown), inputs, weights)
    r, jacobian = jax.jit(lambda u: loss.linearized(u, inputs, weights))(unknown)
    np.testing.assert_allclose(r, jax.jit(rows)(ravel(unknown)), atol=1e-12)
    np.testing.assert_allclose(jacobian, jax.jit(jax.jacfwd(rows))(ravel(unknown)), atol=1e-10)


def test_coefficients_are_unknowns_on_request():
    model = pinn.PINN(pde.Heat(0.3), DOMAIN, [Initial("u", lambda p: p.x)], network())
    loss, inputs, unknown = objective(model, 5, lambda m: (m.network, m.equation.diffusivity))
    assert ravel(unknown).size == ravel(objective(model, 5)[2]).size + 1
    weights = {name: jnp.ones(()) for name in loss.names}
    rows = lambda k: loss.rows(eqx.tree_at(lambda u: u.equation.diffusivity, unknown, k), inputs, weights)
    u_xx = jax.jit(jax.vmap(jax.hessian(lambda p: model(p)[0])))(inputs["equation"][0])[:, 0, 0]
    np.testing.assert_allclose(jax.jit(jax.jacfwd(rows))(jnp.array(0.3)), -u_xx / np.sqrt(5), atol=1e-12)


def test_a_pinn_is_a_module():
    """Residual, derivatives, another equation; saved and loaded."""
    model = pinn.PINN(pde.Heat(0.3), DOMAIN, [Initial("u", lambda p: p.x)], network())
    p = jnp.array([0.7, 0.4])
    hessian, slope = jax.jit(lambda p: (jax.hessian(model)(p)[0], jax.jacfwd(model)(p)[0]))(p)
    np.testing.assert_allclose(model.residual(p), [slope[1] - 0.3 * hessian[0, 0]], atol=1e-12)
    np.testing.assert_allclose(model.derivatives(p).u_xx, hessian[0, 0], atol=1e-12)
    other = model.with_equation(pde.Burgers(0.1))
    expected = slope[1] + model(p)[0] * slope[0] - 0.1 * hessian[0, 0]
    np.testing.assert_allclose(other.residual(p), [expected], atol=1e-12)
    assert model(p).shape == (1,)


def test_saved_and_loaded(tmp_path):
    model = pinn.PINN(pde.Heat(0.3), DOMAIN, [Initial("u", lambda p: p.x)], network())
    train.save_model(tmp_path / "model", model)
    blank = eqx.tree_at(lambda m: m.network, model, nn.MLP(2, 1, width=8, depth=1, key=jax.random.key(9)))
    loaded = train.load_model(tmp_path / "model", blank)
    p = jnp.array([0.7, 0.4])
    assert loaded(p) == model(p) != blank(p)


HEAT = pde.Heat(1.0)
CORNER = [Initial("u", 1.0), Dirichlet("u", low("x"), 0.0)]
NAN = Data("u", jnp.array([[0.5, 0.5]]), jnp.array([jnp.nan]))
OUTSIDE = Data("u", jnp.array([[0.5, 0.5], [3.0, 0.5]]), jnp.zeros(2))
CUBE = Data("u", jnp.zeros((2, 3)), jnp.zeros(2))
INFINITE = Dirichlet("u", low("x"), lambda p: jnp.log(p.t - p.t))


class Vanishing(pde.Equation):
    coordinates = ("x", "t")
    fields = ("u",)

    def residual(self, d, point):
        return d.w_t


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("heat", DOMAIN, [], network()), {}, "`equation` is 'heat'; expected a pde.Equation"),
        ((HEAT, "box", [], network()), {}, "`domain` is 'box'; expected a domain"),
        ((HEAT, Box({"t": (0, 1), "x": (0, 1)}), [], network()), {}, "in the same order"),
        ((HEAT, DOMAIN, [low("x")], network()), {}, "`conditions` holds .*Initial, Dirichlet"),
        ((HEAT, DOMAIN, [Initial("w", 0.0)], network()), {}, r"the field 'w'; the equation has \('u',\)"),
        ((HEAT, DOMAIN, [Dirichlet("u", Part("hole"))], network()), {}, "no part of the domain; its parts"),
        ((HEAT, DOMAIN, [Dirichlet("u", low("y"))], network()), {}, "no part of the domain"),
        ((HEAT, DOMAIN, [Initial("u", 0.0), Initial("u", 1.0)], network()), {}, "Two conditions for 'u'"),
        ((HEAT, DOMAIN, [Periodic("u", "x"), Dirichlet("u", low("x"))], network()), {}, "contradict"),
        ((HEAT, DOMAIN, CORNER, network()), {}, "contradicts another condition .* move one of them to"),
        ((HEAT, DOMAIN, [INFINITE], network()), {}, "is not finite everywhere"),
        ((pde.Wave(1.0), DOMAIN, [Initial("u", 0.0, rate=True)], network()), {}, "not its initial value"),
        ((HEAT, DOMAIN, [NAN], network()), {}, "holds NaN or infinity"),
        ((HEAT, DOMAIN, [OUTSIDE], network()), {}, "1 of 2 `points` of Data 'data' lie outside"),
        ((HEAT, DOMAIN, [CUBE], network()), {}, r"expected \(n, 2\)"),
        ((HEAT, DOMAIN, [], network(3)), {}, r"`network` fails on an input of shape \(2,\)"),
        ((HEAT, DOMAIN, [], network(2, 2)), {}, r"`network` gives shape \(2,\)"),
        ((HEAT, DOMAIN, [Periodic("u", "x")], network()), {}, "are periodic and give two each"),
        ((HEAT, DOMAIN, [], 3), {}, "`network` is 3; expected a callable"),
        ((HEAT, DOMAIN, [], network()), {"even": ("y",)}, "`even` names 'y'"),
        ((HEAT, DOMAIN, [Periodic("u", "x")], network(3)), {"even": ("x",)}, "that is not periodic"),
        ((HEAT, DOMAIN, [Neumann("u", low("x"), 1.0)], network()), {"even": ("x",)}, "only ∂ₙu = 0 holds"),
        ((HEAT, DOMAIN, [Dirichlet("u", low("x"))], network()), {"even": ("x",)}, "only ∂ₙu = 0 holds"),
    ],
)
def test_refused_problems(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pinn.PINN(*arguments, **options)


def test_an_unknown_derivative_is_refused():
    model = pinn.PINN(Vanishing(), DOMAIN, [], network())
    with pytest.raises(ValueError, match="no derivative 'w_t'"):
        pinn.fit(model, key=KEY, progress=False)


def test_refused_calls():
    model = pinn.PINN(HEAT, DOMAIN, [], network())
    with pytest.raises(ValueError, match=r"`point` has shape \(5, 2\).*vmap"):
        model(jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match="coordinates"):
        model.with_equation(pde.Poisson(lambda p: p.x))
    with pytest.raises(TypeError, match="expected a pde.Equation"):
        model.with_equation(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "adam"}, "`method` is 'adam'; expected an optax optimizer"),
        ({"method": Newton(1e-6, 1e-6)}, "as many equations as unknowns"),
        ({"steps": 0}, "`steps` of a Stage is 0"),
        ({"points": 1.5}, "`points` of a Stage is 1.5"),
        ({"batch": 10}, "`batch` is for optax optimizers; GaussNewton"),
        ({"direction": train.ConFIG()}, "`direction` is for optax"),
        ({"pseudo_time": pinn.PseudoTime()}, "`pseudo_time` is for optax"),
        ({"resample": "RAD"}, r"`resample` of a Stage is 'RAD'; expected one such as pde.RAD\(\)"),
        ({"weights": 2.0}, "`weights` of a Stage is 2.0"),
        ({"weights": train.ResidualAttention(), "resample": pde.RAD()}, "exchanges the points"),
        ({"dtype": jnp.int32}, "expected jnp.float32 or jnp.float64"),
    ],
)
def test_refused_stages(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pinn.Stage(**{"method": GaussNewton(), "steps": 5} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "`every` of PseudoTime is 0"), ({"smallest": 2.0, "largest": 1.0}, "in this order")],
)
def test_refused_pseudo_time(options, message):
    with pytest.raises(ValueError, match=message):
        pinn.PseudoTime(**options)


def never(*_):
    raise AssertionError("a stage was begun")


LATER = pinn.Stage(optax.GradientTransformation(never, never), 5)
BOTH = train.Product(train.Fixed(), train.ResidualAttention(names=("data",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": HEAT}, "`model` is .*expected a jaxsci.pinn.PINN"),
        ({"stages": []}, "expected a list of jaxsci.pinn.Stage"),
        ({"stages": [GaussNewton()]}, "expected a list of jaxsci.pinn.Stage"),
        ({"points": 0}, "`points`"),
        ({"boundary_points": -1}, "`boundary_points`"),
        ({"evaluate_every": 0}, "`evaluate_every`"),
        ({"key": 0}, "`key`"),
        ({"reference": (jnp.zeros((4, 2)), jnp.zeros(4))}, r"`reference` has points of shape \(4, 2\)"),
        ({"unknown": lambda m: m.domain}, "names no floating arrays"),
        ({"stages": [pinn.Stage(SelfScaledBroyden(), 5, equation=pde.Poisson(lambda p: 0.0))]}, "fields"),
        (
            {"stages": [LATER, pinn.Stage(GaussNewton(), 5, weights=train.Fixed({"equatoin": 2.0}))]},
            r"`weights` names \['equatoin'\]; expected some of .*'Data u data'.* Did you mean 'equation'\?",
        ),
        (
            {"stages": [LATER, pinn.Stage(GaussNewton(), 5, weights=BOTH)]},
            r"`names` names \['data'\]; expected some of the terms \['Data u data', 'equation'\]",
        ),
        (
            {"stages": [LATER, pinn.Stage(GaussNewton(rtol=1e-12), 5, dtype=jnp.float32)]},
            r"`rtol` of GaussNewton is 1e-12 in a stage of float32, which rounds at 1e-07: .*=jnp.float64",
        ),
        (
            {"stages": [LATER, pinn.Stage(SelfScaledBroyden(rtol=1e-20), 5)]},
            "`rtol` of SelfScaledBroyden is 1e-20 in a stage of float64",
        ),
    ],
)
def test_refused_training(options, message):
    """What a later stage asks, before the first one is begun."""
    model = pinn.PINN(HEAT, DOMAIN, [Data("u", jnp.full((1, 2), 0.5), jnp.ones(1))], network())
    with pytest.raises((TypeError, ValueError), match=message):
        pinn.fit(**{"model": model, "key": KEY, "progress": False} | options)


def test_causal_weights_want_a_time():
    model = pinn.PINN(pde.Poisson(lambda p: 0.0), pde.Box({"x": (0, 1), "y": (0, 1)}), [], network())
    stages = [LATER, pinn.Stage(GaussNewton(), 5, weights=train.Causal())]
    with pytest.raises(TypeError, match="no `times`"):
        pinn.fit(model, stages, key=KEY, progress=False)


def test_pseudo_time_wants_an_equation_for_each_field():
    class One(pde.Equation):
        coordinates = ("x", "t")
        fields = ("u", "v")

        def residual(self, d, point):
            return d.u - d.v

    model = pinn.PINN(One(), DOMAIN, [], network(2, 2))
    stage = pinn.Stage(optax.adam(1e-3), 5, pseudo_time=pinn.PseudoTime())
    with pytest.raises(ValueError, match="one equation for each field; One has 1 for 2 fields"):
        pinn.fit(model, [stage], key=KEY, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": HEAT}, "expected a jaxsci.pinn.PINN"),
        ({"points": {}}, r"`points` has no \['equation'\]"),
        ({"damping": 0.0}, "`damping` is 0.0; expected a positive number"),
        ({"weights": {"wall": 1.0}}, r"`weights` names \['wall'\]"),
    ],
)
def test_refused_attachments(options, message):
    model = pinn.PINN(HEAT, DOMAIN, [], network())
    with pytest.raises((TypeError, ValueError), match=message):
        pinn.attach(**{"model": model, "points": {"equation": (jnp.ones((3, 2)),)}} | options)


@pytest.mark.parametrize(
    ("domain", "options", "message"),
    [
        (DOMAIN, {"edges": (0.0, 0.5)}, "`edges` is .* from 0.0 to 1.0"),
        (DOMAIN, {"edges": (0.0, 0.6, 0.5, 1.0)}, "expected increasing times"),
        (DOMAIN, {"edges": (0.0, 1.0), "time": "tau"}, "`time` is 'tau'"),
        (pde.Disk(("x", "t"), (0, 0), 1.0), {"edges": (-1.0, 1.0)}, "slabs need a Box"),
    ],
)
def test_refused_slabs(domain, options, message):
    make = lambda domain, conditions, key: pinn.PINN(HEAT, domain, conditions, network())
    with pytest.raises(ValueError, match=message):
        pinn.march(make, domain, [Initial("u", 0.0)], key=KEY, **options)
