"""Weights of losses: each method's formula in NumPy, and that no gradient flows into them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci.train import (
    Causal,
    Fixed,
    GradientNorm,
    NeuralTangent,
    Product,
    ReLoBRaLo,
    ResidualAttention,
    SelfAdaptive,
    Terms,
    weighted_loss,
)

X = jnp.linspace(0.0, 1.0, 8)
PARAMS = jnp.array([0.7, -0.4, 0.2])
KEY = jax.random.key(0)


def function(p):
    """Two terms with sizes and gradients of very different scales."""
    return {"equation": 30 * (p[0] * jnp.sin(3 * X) + p[1] * X - 0.1), "data": p[1:] ** 2 - p[0]}


RESIDUALS = function(PARAMS)
TERMS = Terms(function, PARAMS, {"equation": X})


def run(method, steps=1, terms=TERMS, residuals=None):
    """The weights and the state after some steps at the same parameters, compiled."""
    residuals = RESIDUALS if residuals is None else residuals

    def many(residuals):
        def body(carry, step):
            w, state = method.update(carry, residuals, terms, step, jax.random.fold_in(KEY, step))
            return state, w

        state, w = jax.lax.scan(body, method.init(residuals), jnp.arange(steps))
        return jax.tree.map(lambda x: x[-1], w), state

    return jax.jit(many)(residuals)


def test_the_loss_and_fixed_weights():
    weights, _ = run(Fixed({"data": 4.0}))
    wanted = 0.5 * (np.mean(np.square(RESIDUALS["equation"])) + 4 * np.mean(np.square(RESIDUALS["data"])))
    np.testing.assert_allclose(weighted_loss(weights, RESIDUALS), wanted, rtol=1e-12)
    per_point = {"equation": jnp.arange(8.0), "data": jnp.array(1.0)}
    slopes = jax.grad(weighted_loss, argnums=1)(per_point, RESIDUALS)
    np.testing.assert_allclose(slopes["equation"], np.arange(8.0) * RESIDUALS["equation"] / 8, rtol=1e-12)


def jacobians():
    return jax.jacrev(function)(PARAMS)


def test_gradient_norms_become_equal():
    sizes = {k: np.linalg.norm(RESIDUALS[k] @ jacobians()[k]) / RESIDUALS[k].size for k in RESIDUALS}
    weights, _ = run(GradientNorm(decay=0.0, every=1))
    for k in sizes:
        np.testing.assert_allclose(weights[k] * sizes[k], sum(sizes.values()), rtol=1e-10)
    # A moving average, renewed at steps 0, 3, 6 only.
    weights, _ = run(GradientNorm(decay=0.9, every=3), 7)
    wanted = {k: 0.9**3 + (1 - 0.9**3) * sum(sizes.values()) / sizes[k] for k in sizes}
    for k in sizes:
        np.testing.assert_allclose(weights[k], wanted[k], rtol=1e-10)


def test_traces_of_tangent_kernels_become_equal():
    traces = {k: np.sum(np.square(jacobians()[k])) / RESIDUALS[k].size for k in RESIDUALS}
    weights, _ = run(NeuralTangent(decay=0.0, every=1, probes=4000))
    for k in traces:
        np.testing.assert_allclose(weights[k] * traces[k], sum(traces.values()), rtol=0.1)
    # Jᵀz is exact for one point: no other sign can interfere.
    one = Terms(lambda p: {"a": 3 * p[:1], "b": p[1:2]}, PARAMS)
    weights, _ = run(NeuralTangent(0.0, 1, 1), terms=one, residuals=one.function(PARAMS))
    np.testing.assert_allclose([weights["a"], weights["b"]], [10 / 9, 10.0], rtol=1e-12)


def test_relobralo():
    method = ReLoBRaLo(decay=0.8, saved=1.0, temperature=0.5)
    losses = [{"a": 4.0, "b": 1.0}, {"a": 2.0, "b": 0.9}]
    residuals = [{k: jnp.full(3, v**0.5) for k, v in each.items()} for each in losses]
    state = method.init(residuals[0])
    weights, state = method.update(state, residuals[1], None, 0, KEY)
    ratios = np.exp(np.array([0.5, 0.9]) / 0.5)
    wanted = 0.8 + 0.2 * 2 * ratios / ratios.sum()
    np.testing.assert_allclose([weights["a"], weights["b"]], wanted, rtol=1e-12)
    # Forgetting looks back to the first step.
    forgetful = ReLoBRaLo(decay=0.8, saved=0.0, temperature=0.5)
    later, _ = forgetful.update(state, residuals[1], None, 1, KEY)
    first, last = 2 * ratios / ratios.sum(), np.ones(2)
    np.testing.assert_allclose([later["a"], later["b"]], 0.8 * first + 0.2 * last, rtol=1e-12)


def test_attention_to_residuals():
    weights, state = run(ResidualAttention(decay=0.9, rate=0.1, names=("equation",)), 5)
    share = np.abs(RESIDUALS["equation"]) / np.max(np.abs(RESIDUALS["equation"]))
    lam = 0.1 * share * sum(0.9**k for k in range(5))
    np.testing.assert_allclose(weights["equation"], lam**2, rtol=1e-12)
    assert weights["data"].shape == () and weights["data"] == 1 and set(state) == {"equation"}


def test_self_adaptive_weights_climb_the_loss():
    weights, _ = run(SelfAdaptive(optax.sgd(0.1)))
    for k, r in RESIDUALS.items():
        loss = lambda lam, r=r: 0.5 * jnp.mean(lam**2 * r**2)
        np.testing.assert_allclose(weights[k], (1 + 0.1 * jax.grad(loss)(jnp.ones(r.size))) ** 2, rtol=1e-12)


def test_causal_weights():
    times = jnp.array([0.9, 0.1, 0.3, 0.35, 0.6, 1.0, 0.0, 0.7])
    r = jnp.arange(1.0, 9.0) / 10
    terms = Terms(function, PARAMS, {"equation": times})
    residuals = {"equation": r, "data": jnp.ones(2)}
    weights, _ = run(Causal(2.0, 4), terms=terms, residuals=residuals)
    chunk = np.minimum((np.asarray(times) * 4).astype(int), 3)
    losses = np.array([np.mean(np.square(r)[chunk == k]) for k in range(4)])
    wanted = np.exp(-2.0 * np.array([losses[:k].sum() for k in range(4)]))
    np.testing.assert_allclose(weights["equation"], wanted[chunk], rtol=1e-12)
    assert weights["data"] == 1 and np.all(np.diff(wanted) < 0)
    # Once a problem is solved at one ε, the next is used, and the last stays.
    _, index = run(Causal((1e-3, 1e-2, 1.0), 4), 1, terms, residuals)
    assert index == 1
    _, index = run(Causal((1e-3, 1e-2, 1.0), 4), 9, terms, jax.tree.map(jnp.zeros_like, residuals))
    assert index == 2
    # The span is given: all points are in the last chunk.
    weights, _ = run(Causal(2.0, 4, span=(-10.0, 1.0)), 1, terms, residuals)
    np.testing.assert_allclose(weights["equation"], 1.0)


def test_product_multiplies_terms_and_points():
    both, _ = run(Product(Fixed({"data": 3.0, "equation": 2.0}), ResidualAttention(0.9, 0.1)), 2)
    alone, _ = run(ResidualAttention(0.9, 0.1), 2)
    np.testing.assert_allclose(both["equation"], 2 * alone["equation"])
    np.testing.assert_allclose(both["data"], 3 * alone["data"])


METHODS = {
    "fixed": Fixed(),
    "gradient": GradientNorm(every=1),
    "tangent": NeuralTangent(every=1, probes=1),
    "relobralo": ReLoBRaLo(),
    "attention": ResidualAttention(),
    "adaptive": SelfAdaptive(),
    "causal": Causal(1.0, 4),
}


def test_no_gradient_flows_and_precision_stays():
    """All methods in one program, in float32."""
    everything = Product(*METHODS.values())
    p32 = PARAMS.astype(jnp.float32)
    narrow = lambda p: jax.tree.map(lambda r: r.astype(jnp.float32), function(p))
    terms = lambda p: Terms(narrow, p, {"equation": X.astype(jnp.float32)})
    state = everything.init(narrow(p32))

    def total(p):
        weights, _ = everything.update(state, narrow(p), terms(p), 0, KEY)
        return sum(jnp.sum(w) for w in weights.values()), weights

    slope, weights = jax.jit(jax.grad(total, has_aux=True))(p32)
    np.testing.assert_array_equal(slope, 0.0)
    assert all(w.dtype == jnp.float32 for w in weights.values())
    assert all(np.all(np.isfinite(w)) for w in weights.values())


MISTAKES = [
    (lambda: Fixed({"a": -1.0}), ValueError, "`weights`"),
    (lambda: Fixed({"a": 1.0}).init(RESIDUALS), ValueError, "`weights` names"),
    (lambda: Product(), TypeError, "`factors`"),
    (lambda: GradientNorm(decay=1.0), ValueError, "`decay`"),
    (lambda: GradientNorm(every=0), ValueError, "`every`"),
    (lambda: run(GradientNorm(), terms=None), TypeError, "`terms`"),
    (lambda: NeuralTangent(probes=0), ValueError, "`probes`"),
    (lambda: ReLoBRaLo(saved=2.0), ValueError, "`saved`"),
    (lambda: ReLoBRaLo(temperature=0.0), ValueError, "`temperature`"),
    (lambda: ResidualAttention(rate=-1.0), ValueError, "`rate`"),
    (lambda: ResidualAttention(names="data"), TypeError, "`names`"),
    (lambda: ResidualAttention(names=("x",)).init(RESIDUALS), ValueError, "`names` names"),
    (lambda: SelfAdaptive(optimizer=0.1), TypeError, "`optimizer`"),
    (lambda: SelfAdaptive(initial=0.0), ValueError, "`initial`"),
    (lambda: Causal(()), ValueError, "`eps`"),
    (lambda: Causal(-1.0), ValueError, "`eps`"),
    (lambda: Causal(1.0, 0), ValueError, "`chunks`"),
    (lambda: Causal(1.0, span=(1.0, 0.0)), ValueError, "`span`"),
    (lambda: run(Causal(1.0), terms=Terms(function, PARAMS)), TypeError, "`times`"),
    (lambda: run(Causal(1.0), terms=Terms(function, PARAMS, {"data": X})), ValueError, "`times` of 'data'"),
    (lambda: weighted_loss({"a": 1.0}, RESIDUALS), ValueError, "`weights`"),
]


@pytest.mark.parametrize(("call", "error", "match"), MISTAKES)
def test_mistakes_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
