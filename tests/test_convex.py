"""Projections and proximal operators: properties, oracles, derivatives, lanes, precision."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsci import convex

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jaxopt

RNG = np.random.default_rng(0)
V = jnp.asarray(RNG.normal(size=8))
M = jnp.asarray(RNG.normal(size=(3, 4)))
S = jnp.asarray(RNG.normal(size=(4, 4)))
A = jnp.asarray(RNG.normal(size=(2, 8)))
B = jnp.array([0.1, -0.2])
G = jnp.asarray(RNG.normal(size=(12, 8)))
H = 0.2 + 0.1 * jnp.arange(12.0) / 12
ROWS, COLS = jnp.array([0.2, 0.3, 0.5]), jnp.array([0.1, 0.4, 0.3, 0.2])
ROTATION = jnp.linalg.qr(S)[0]
REPEATED = ROTATION * jnp.array([2.0, 2.0, -1.0, -1.0]) @ ROTATION.T


def symmetric_part(v):
    values, q = np.linalg.eigh((v + v.T) / 2)
    return (q * np.maximum(values, 0)) @ q.T


def cone(v):
    t, x = v[0], v[1:]
    n = np.linalg.norm(x)
    return 0.5 * (1 + t / n) * np.concatenate([[n], x])


def by_slsqp(v, equal, values, rows, limits):
    """A general solver for {equal x = values, rows x ≤ limits}."""
    equal, values, rows, limits, point = map(np.asarray, (equal, values, rows, limits, v.ravel()))
    constraints = [
        {"type": "ineq", "fun": lambda x: limits - rows @ x, "jac": lambda x: -rows},
        {"type": "eq", "fun": lambda x: equal @ x - values, "jac": lambda x: equal},
    ]
    fun, jac = lambda x: 0.5 * np.sum((x - point) ** 2), lambda x: x - point
    options = {"ftol": 1e-14, "maxiter": 500}
    found = scipy.optimize.minimize(
        fun, 0 * point, jac=jac, constraints=constraints, method="SLSQP", options=options
    )
    return found.x.reshape(v.shape)


def transport_by_slsqp(v):
    sums = np.concatenate([np.kron(np.eye(3), np.ones(4)), np.kron(np.ones(3), np.eye(4))])
    values = np.concatenate([ROWS, COLS])
    return by_slsqp(v, sums[:-1], values[:-1], -np.eye(12), np.zeros(12))


def by_sinkhorn(v):
    x = np.exp(np.asarray(v) / 0.5)
    for _ in range(1000):
        x = x * (np.asarray(ROWS) / x.sum(1))[:, None]
        x = x * (np.asarray(COLS) / x.sum(0))
    return x


P = jaxopt.projection
# name: (set of unit scale as a function of the scale s, point, oracle or None, its tolerance)
SETS = {
    "Box": (lambda s: convex.Box(-0.3 * s, 0.5 * s * jnp.ones(8)), V, lambda v: np.clip(v, -0.3, 0.5), 1e-12),
    "NonNegative": (lambda s: convex.NonNegative(), V, lambda v: np.maximum(v, 0), 1e-12),
    "Simplex": (
        lambda s: convex.Simplex(jnp.array(1.5 * s)),
        V,
        lambda v: P.projection_simplex(v, 1.5),
        1e-12,
    ),
    "L1Ball": (lambda s: convex.L1Ball(jnp.array(1.2 * s)), V, lambda v: P.projection_l1_ball(v, 1.2), 1e-12),
    "L2Ball": (lambda s: convex.L2Ball(jnp.array(1.2 * s)), V, lambda v: P.projection_l2_ball(v, 1.2), 1e-12),
    "LInfBall": (lambda s: convex.LInfBall(jnp.array(0.5 * s)), V, lambda v: np.clip(v, -0.5, 0.5), 1e-12),
    "Hyperplane": (
        lambda s: convex.Hyperplane(A[0], jnp.array(0.4 * s)),
        V,
        lambda v: P.projection_hyperplane(v, (A[0], 0.4)),
        1e-12,
    ),
    "Halfspace": (
        lambda s: convex.Halfspace(A[0], jnp.array(-3.0 * s)),
        V,
        lambda v: P.projection_halfspace(v, (A[0], -3.0)),
        1e-12,
    ),
    "Affine": (lambda s: convex.Affine(A, s * B), V, lambda v: P.projection_affine_set(v, (A, B)), 1e-10),
    "Polyhedron": (
        lambda s: convex.Polyhedron(A, s * B, G, s * H),
        V,
        lambda v: by_slsqp(v, A, B, G, H),
        1e-6,
    ),
    "BoxSection": (
        lambda s: convex.BoxSection(-0.5 * s * jnp.ones(8), 0.4 * s, A[0], jnp.array(0.3 * s)),
        V,
        lambda v: P.projection_box_section(v, (-0.5 * jnp.ones(8), 0.4 * jnp.ones(8), A[0], 0.3)),
        1e-6,
    ),
    "SecondOrderCone": (lambda s: convex.SecondOrderCone(), V, cone, 1e-12),
    "PSDCone": (lambda s: convex.PSDCone(), S, symmetric_part, 1e-12),
    "PSDCone, repeated": (lambda s: convex.PSDCone(), REPEATED, symmetric_part, 1e-12),
    "Isotonic": (
        lambda s: convex.Isotonic(),
        V,
        lambda v: scipy.optimize.isotonic_regression(np.asarray(v)).x,
        1e-12,
    ),
    "Transport": (lambda s: convex.Transport(s * ROWS, s * COLS), M, transport_by_slsqp, 1e-6),
    "KLSimplex": (lambda s: convex.KLSimplex(jnp.array(2.0)), V, lambda v: 2 * jax.nn.softmax(v), 1e-12),
    "KLTransport": (
        lambda s: convex.KLTransport(ROWS, COLS, jnp.array(0.5)),
        M,
        by_sinkhorn,
        1e-12,
    ),
}
NOT_EUCLIDEAN = {"KLSimplex", "KLTransport"}  # nor free of scale

X = jaxopt.prox
STEP = 0.7
# name: (function, point, oracle or None)
PROXES = {
    "L1": (
        convex.L1(jnp.linspace(0.2, 1.0, 8)),
        V,
        lambda v: X.prox_lasso(v, jnp.linspace(0.2, 1.0, 8), STEP),
    ),
    "NonNegativeL1": (
        convex.NonNegativeL1(jnp.array(0.4)),
        V,
        lambda v: X.prox_non_negative_lasso(v, 0.4, STEP),
    ),
    "ElasticNet": (
        convex.ElasticNet(jnp.array(0.5), jnp.array(0.8)),
        V,
        lambda v: X.prox_elastic_net(v, (0.5, 1.6), STEP),
    ),
    "GroupLasso": (convex.GroupLasso(jnp.array(0.9)), V, lambda v: X.prox_group_lasso(v, 0.9, STEP)),
    "SquaredL2": (convex.SquaredL2(jnp.array(0.9)), V, lambda v: X.prox_ridge(v, 0.9, STEP)),
    "NonNegativeSquaredL2": (
        convex.NonNegativeSquaredL2(jnp.array(0.9)),
        V,
        lambda v: X.prox_non_negative_ridge(v, 0.9, STEP),
    ),
    "LInf": (convex.LInf(jnp.array(1.1)), V, None),
    "NuclearNorm": (convex.NuclearNorm(jnp.array(0.9)), M, None),
    "NuclearNorm, repeated": (convex.NuclearNorm(jnp.array(0.9)), 2.0 * jnp.eye(3, 4), None),
    "LogBarrier": (convex.LogBarrier(jnp.array(0.3)), V, None),
    "Huber": (convex.Huber(jnp.array(0.6), jnp.array(0.5)), V, None),
}


def direction(tree, seed):
    rng = np.random.default_rng(seed)
    tree = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape)), tree)
    if isinstance(tree[0], convex.Transport | convex.KLTransport):
        # Their totals stay equal.
        sums = lambda s: (s.row_sums, s.col_sums)
        tree = eqx.tree_at(lambda t: sums(t[0]), tree, [x - jnp.mean(x) for x in sums(tree[0])])
    return tree


def checked(apply, thing, v, others):
    """(x, P(others), P(x)), after the first two derivatives have been compared with differences.

    The differences come from one vmapped program, together with the other points.
    """
    moving, rest = eqx.partition((thing, v), eqx.is_inexact_array)
    push = direction(moving, 1)

    def along(t):
        thing, v = eqx.combine(jax.tree.map(lambda x, d: x + t * d, moving, push), rest)
        return apply(thing, v)

    h = 5e-4
    batch = jax.jit(jax.vmap(lambda t, z: apply(eqx.combine(_moved(moving, push, t), rest)[0], z)))
    times = jnp.concatenate([h * jnp.arange(-2.0, 3.0), jnp.zeros(len(others))])
    points = jnp.concatenate([v + times[:5].reshape(5, *[1] * v.ndim) * push[1], others])
    found = batch(times, points)
    back = batch(0 * times, found)

    @jax.jit
    def derivatives(w):
        first = lambda t: jax.jvp(along, (t,), (jnp.ones(()),))
        (x, slope), (_, curvature) = jax.jvp(first, (jnp.zeros(()),), (jnp.ones(()),))
        pull = jax.vjp(lambda m: apply(*eqx.combine(m, rest)), moving)[1](w)[0]
        dots = [jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (pull, push)), strict=True)]
        return x, slope, curvature, sum(dots) - jnp.vdot(w, slope)

    x, slope, curvature, transposed = derivatives(others[0])
    a, b, c, d, e = found[:5]
    np.testing.assert_allclose(c, x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(slope, (a - 8 * b + 8 * d - e) / (12 * h), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        curvature, (-a + 16 * b - 30 * c + 16 * d - e) / (12 * h**2), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(transposed, 0, atol=1e-10)
    return x, found[5:], back[2]


def _moved(moving, push, t):
    return jax.tree.map(lambda x, d: x + t * d, moving, push)


def others_like(v):
    return jnp.asarray(np.random.default_rng(2).normal(size=(6, *v.shape)))


@pytest.mark.parametrize("name", list(SETS))
def test_sets(name):
    make, v, oracle, tol = SETS[name]
    others = others_like(v)
    x, z, again = checked(lambda s, v: s(v), make(1.0), v, others)
    if oracle is not None:
        np.testing.assert_allclose(x, oracle(v), rtol=0, atol=tol)
    if name not in NOT_EUCLIDEAN:
        dot = lambda a, b: jnp.sum(a * b, axis=tuple(range(1, b.ndim)))
        np.testing.assert_allclose(again, x, rtol=0, atol=1e-12)
        assert np.all(dot(v - x, z - x) <= 1e-12), "the angle at P(v) to a point of the set"
        assert np.all(dot(z - x, z - x) <= dot(others - v, others - v) + 1e-12), "not nonexpansive"
    # float32, of any size; the inputs are rounded, and so is the set.
    single = jax.jit(lambda s, v: s(v))
    for scale in (1.0,) if name in NOT_EUCLIDEAN else (1e8, 1e-8):
        y = single(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (make(scale), scale * v)))
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y / scale, x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", list(PROXES))
def test_functions(name):
    function, v, oracle = PROXES[name]
    others = others_like(v)
    step = jnp.asarray(STEP)
    x, _, _ = checked(lambda pair, v: pair[0](v, pair[1]), (function, step), v, others)
    if oracle is not None:
        np.testing.assert_allclose(x, oracle(v), rtol=0, atol=1e-12)
    cost = jax.jit(jax.vmap(lambda y: 0.5 * jnp.sum((y - v) ** 2) + STEP * function.value(y)))
    near = jnp.concatenate([x + size * others for size in (1.0, 1e-2, 1e-4)])
    least, *costs = cost(jnp.concatenate([x[None], near]))
    assert least <= min(costs) + 1e-14


def test_kinks_have_the_derivative_of_the_set():
    """P(P(v)) has the derivative of P(v), although P(v) is on the border."""
    sets = {
        "Box": (convex.Box(-0.3, 0.5), V),
        "Isotonic": (convex.Isotonic(), V),
        "NonNegative": (convex.NonNegative(), V),
        "PSDCone": (convex.PSDCone(), jnp.diag(jnp.array([1.0, 0.0, -1.0]))),
    }

    @jax.jit
    def both():
        pairs = {}
        for name, (set_, v) in sets.items():
            once = lambda v, s=set_: s(v)
            pairs[name] = jax.jacfwd(once)(v), jax.jacfwd(lambda v, f=once: f(f(v)))(v)
        zero = jnp.zeros(3)
        kinks = [convex.L2Ball(0.0), convex.GroupLasso(1.0), convex.L1Ball(1.0), convex.SecondOrderCone()]
        return pairs, [jax.jacrev(f)(zero) for f in kinks]

    pairs, kinks = both()
    for name, (once, twice) in pairs.items():
        np.testing.assert_allclose(once, twice, atol=1e-12, err_msg=name)
    for found, expected in zip(kinks, (0, 0, 1, 1), strict=True):
        np.testing.assert_array_equal(found, expected * np.eye(3))


def test_birkhoff_ends_in_the_best_permutation():
    """Far from the polytope the projection is the corner that solves the assignment problem."""
    far = 1e3 * S
    function = lambda v: convex.Birkhoff()(v)
    x, pull = jax.jit(lambda v: (lambda x, pull: (x, pull(v)[0]))(*jax.vjp(function, v)))(far)
    _, cols = scipy.optimize.linear_sum_assignment(far, maximize=True)
    np.testing.assert_allclose(x, np.zeros((4, 4)) + (cols[:, None] == np.arange(4)), atol=1e-12)
    np.testing.assert_allclose(pull, 0, atol=1e-9)


def test_what_has_no_answer_is_nan_in_its_lane_only():
    """Traced parameters for which the set is empty, and points that are not finite."""
    g = jnp.stack([jnp.ones(3), -jnp.ones(3)])

    @jax.jit
    @jax.vmap
    def lanes(bad):
        v = jnp.array([0.5, -1.0, 2.0])
        sums = jnp.where(bad, 0.9, 1.0)
        return {
            "Box": convex.Box(jnp.where(bad, 2.0, 0.0), 1.0)(v),
            "Simplex": convex.Simplex(jnp.where(bad, -1.0, 1.0))(v),
            "Simplex, NaN": convex.Simplex()(v.at[1].set(jnp.where(bad, jnp.nan, 0.0))),
            "L1Ball": convex.L1Ball(jnp.where(bad, -1.0, 1.0))(v),
            "L2Ball": convex.L2Ball(jnp.where(bad, -1.0, 1.0))(v),
            "BoxSection": convex.BoxSection(0.0, 1.0, 1.0, jnp.where(bad, 4.0, 2.0))(v),
            "Affine": convex.Affine(jnp.stack([v, jnp.where(bad, 2 * v, v**2)]), jnp.ones(2))(v),
            "Polyhedron": convex.Polyhedron(G=g, h=jnp.stack([1.0, jnp.where(bad, -2.0, 2.0)]))(v),
            "Transport": convex.Transport(jnp.ones(2) * sums, jnp.ones(2))(jnp.eye(2)),
            "KLTransport": convex.KLTransport(jnp.ones(2) * sums, jnp.ones(2))(jnp.eye(2)),
            "L1": convex.L1(1.0)(v, jnp.where(bad, -1.0, 1.0)),
        }

    for name, x in lanes(jnp.array([True, False])).items():
        empty = np.isnan(x[0]) if name != "Simplex, NaN" else np.isnan(x[0]).any(keepdims=True)
        assert empty.all(), (name, x)
        assert np.isfinite(x[1]).all(), (name, x)


def test_polyhedra():
    """Many random ones: the conditions of optimality hold, in vertices with redundant rows as well."""
    keys = jax.random.split(jax.random.key(0), 64)

    @jax.jit
    @jax.vmap
    def one(key):
        k1, k2, k3 = jax.random.split(key, 3)
        g = jax.random.normal(k1, (20, 5))
        g = g.at[1].set(g[0]).at[2].set(g[3] + g[4])
        inner = jax.random.normal(k2, (5,))
        h = g @ inner + jnp.where(jnp.arange(20) < 6, 0.0, 0.3)  # six rows meet in `inner`
        v = inner + 3 * jax.random.normal(k3, (5,))
        x = convex.Polyhedron(G=g, h=h)(v)
        return v, x, g, h

    for v, x, g, h in zip(*map(np.asarray, one(keys)), strict=True):
        assert np.all(g @ x <= h + 1e-10)
        active = g[np.abs(g @ x - h) < 1e-9]
        error = scipy.optimize.nnls(active.T, v - x)[1] if len(active) else np.abs(v - x).max()
        assert error < 1e-9, "v − P(v) is in the cone of the active rows"


def test_pytrees_and_prox():
    tree = {"a": V[:3], "b": (V[3:4].reshape(()), V[4:].reshape(2, 2))}
    flat = lambda t: jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(t)])
    sets = [
        convex.Simplex(),
        convex.L2Ball(0.5),
        convex.Affine(A, B),
        convex.Isotonic(),
        convex.SecondOrderCone(),
    ]

    @jax.jit
    def both():
        pairs = [(flat(s.prox(tree, 0.1)), s(V)) for s in sets]
        box = convex.Box({"a": jnp.zeros(3), "b": (0.0, jnp.zeros(2))}, None)
        contained = [s.contains(s(V)) & ~s.contains(V) for s in sets]
        return [*pairs, (flat(box(tree)), jnp.maximum(V, 0))], contained

    pairs, contained = both()
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-14)
    assert all(contained)
    empty = jnp.zeros(0)
    for thing in (convex.Box(0.0, 1.0), convex.L2Ball(), convex.Isotonic(), convex.L1(), convex.L1Ball()):
        assert thing(empty).shape == (0,)


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (ValueError, "`lower` of Box", lambda: convex.Box(1.0, 0.0)),
        (ValueError, "`radius` of L2Ball", lambda: convex.L2Ball(-1.0)),
        (ValueError, "`radius` has shape", lambda: convex.L1Ball(jnp.ones(8))(V)),
        (ValueError, "`total` of Simplex", lambda: convex.Simplex(-1.0)),
        (ValueError, "`weight` of L1", lambda: convex.L1(-1.0)),
        (ValueError, "`step` of the prox", lambda: convex.L1()(V, -1.0)),
        (ValueError, "`upper` has shape", lambda: convex.Box(0.0, jnp.ones(3))(V)),
        (ValueError, "`a` has the structure", lambda: convex.Hyperplane((1.0, 2.0), 0.0)(V)),
        (ValueError, "`A` is given and `b` is None", lambda: convex.Affine(A, None)),
        (ValueError, "`G` has shape", lambda: convex.Polyhedron(G=G, h=H)(V[:3])),
        (ValueError, "linearly dependent", lambda: convex.Affine(G, H)(V)),
        (ValueError, "total 2.0", lambda: convex.Transport(np.ones(2), np.ones(3))),
        (ValueError, "`row_sums` has shape", lambda: convex.Transport(COLS, ROWS)(M)),
        (ValueError, "`epsilon`", lambda: convex.KLTransport(ROWS, COLS, 0.0)),
        (ValueError, "one matrix", lambda: convex.PSDCone()(V)),
        (ValueError, "square", lambda: convex.PSDCone()(M)),
        (TypeError, "int", lambda: convex.Box(0, 1)(jnp.arange(3))),
        (ValueError, "no entries", lambda: convex.Simplex()(jnp.zeros(0))),
    ],
)
def test_wrong_arguments(error, match, make):
    with pytest.raises(error, match=match):
        make()


def test_inside_shard_map(devices):
    """Loops, and the attached derivatives, on lanes spread over devices."""
    spec = jax.sharding.PartitionSpec("devices")

    def gradient(v):
        def total(v):
            m = v.reshape(2, 4)
            parts = [
                convex.Polyhedron(A, B, G, H)(v),
                convex.BoxSection(-0.5, 0.4, A[0], 0.3)(v),
                convex.Isotonic()(v),
                convex.KLTransport(jnp.ones(2), jnp.ones(4) / 2)(m),
            ]
            return sum(jnp.sum(jnp.cos(x)) for x in parts)

        return jax.grad(total)(v)

    lanes = jnp.stack([V, 2 * V, -V, V + 1])
    whole = jax.jit(jax.vmap(gradient))
    mapped = jax.jit(jax.shard_map(jax.vmap(gradient), mesh=devices(4), in_specs=spec, out_specs=spec))
    found, expected = mapped(lanes), whole(lanes)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, atol=1e-12)
