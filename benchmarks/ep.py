"""Equilibrium propagation against the implicit rule: angle, error of the nudges, homeostasis.

Layered networks of sigmoids with forward and feedback weights of their own, at a given angle to each
other; float64. First, gradients of untrained networks (20-32-32-10, the last layer read by a softmax):
the cosine of the estimate β → 0 with the exact gradient, and the error of N nudges on the circle |β|
against that limit. Then networks (20-48-48-48 and a readout) that learn a teacher's ten classes by
equilibrium propagation from weights at 90°, with and without the penalty on the asymmetry of the
Jacobian. `prototype` in the details is the figure of an earlier program on one network of that size,
whose weights are not known here.
"""

import dataclasses
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import jaxsci as jsci
from benchmarks._harness import Better, Row
from jaxsci import linear

X64 = True
SMALL = (20, 32, 32, 10)
LARGE = (20, 48, 48, 48)
CLASSES = 10
PROTOTYPE = {1: 4.5e-3, 2: 4.4e-3, 4: 3.0e-5, 6: 2.0e-7}


@dataclasses.dataclass(frozen=True)
class Sizes:
    networks: int  # untrained ones
    angles: tuple[int, ...]
    steps: int  # of training
    batch: int
    relaxations: int


FULL = Sizes(networks=16, angles=(0, 15, 30, 45, 60, 90), steps=600, batch=64, relaxations=300)
QUICK = Sizes(networks=4, angles=(0, 90), steps=300, batch=32, relaxations=100)


def run(quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    yield from _angles(sizes)
    yield from _nudges(sizes)
    yield from _homeostasis(sizes)


# --- the network ------------------------------------------------------------------------------------
# θ = (forward, feedback, biases): forward[i] maps layer i to i + 1, feedback[i] layer i + 2 to i + 1.


def _weights(key, widths, angle: Float[Array, ""]):
    def pair(key, n, m):
        one, two = jax.random.normal(key, (2, m, n)) / n**0.5
        two = two - one * jnp.vdot(one, two) / jnp.vdot(one, one)
        two = two * jnp.linalg.norm(one) / jnp.linalg.norm(two)
        return one, (jnp.cos(angle) * one + jnp.sin(angle) * two).T

    keys = jax.random.split(key, len(widths) - 1)
    pairs = [pair(k, n, m) for k, n, m in zip(keys, widths[:-1], widths[1:], strict=True)]
    biases = tuple(jnp.zeros(m) for m in widths[1:])
    return tuple(w for w, _ in pairs), tuple(b for _, b in pairs[1:]), biases


def _pre_activations(a, args):
    (forward, feedback, biases), x = args
    below = (x, *a[:-1])
    up = [w @ b + c for w, b, c in zip(forward, below, biases, strict=True)]
    return (*(u + b @ above for u, b, above in zip(up, feedback, a[1:], strict=False)), up[-1])


def _sigmoids(u):
    return jax.tree.map(jax.nn.sigmoid, u)


NETWORK = jsci.PreActivation(_pre_activations, _sigmoids)


def _rest(theta):
    return jax.tree.map(lambda b: jnp.full_like(b, 0.5), theta[2])


def _relaxed(theta, x, count):
    """a after `count` relaxations; without derivative."""
    theta = jax.lax.stop_gradient(theta)
    return jax.lax.fori_loop(0, count, lambda _, a: NETWORK.fixed_point(a, (theta, x)), _rest(theta))


def _cross_entropy(logits, label):
    # Not jax.nn.logsumexp, which takes a maximum: the nudges make the logits complex.
    return jnp.log(jnp.sum(jnp.exp(logits))) - jnp.sum(logits * label)


def _flat(tree) -> Array:
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def _cosine(a, b) -> Array:
    a, b = _flat(a), _flat(b)
    return jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)


# The series relaxes the linearized network, and refuses (NaN) what has not settled.
SERIES = linear.Neumann(200, check=1e-8)
EXACT = jsci.ImplicitAdjoint(SERIES)
LIMIT = jsci.EquilibriumPropagation(SERIES)


# --- untrained networks -----------------------------------------------------------------------------


def _sample(key):
    one, two = jax.random.split(key)
    return jax.random.normal(one, (SMALL[0],)), jax.nn.one_hot(
        jax.random.randint(two, (), 0, CLASSES), CLASSES
    )


def _gradient(theta, x, label, adjoint, relaxations):
    def loss(theta):
        a = jsci.attach(NETWORK, _relaxed(theta, x, relaxations), (theta, x), adjoint=adjoint)
        return _cross_entropy(a[-1], label)

    return jax.grad(loss)(theta)


def _angles(sizes: Sizes) -> Iterator[Row]:
    def one(key, angle):
        k1, k2 = jax.random.split(key)
        theta, (x, label) = _weights(k1, SMALL, angle), _sample(k2)
        exact, limit = (_gradient(theta, x, label, a, sizes.relaxations) for a in (EXACT, LIMIT))
        a = _relaxed(theta, x, sizes.relaxations)
        return _cosine(limit, exact), jsci.symmetric_share(NETWORK, a, (theta, x))

    many = jax.jit(jax.vmap(one, (0, None)))
    keys = jax.random.split(jax.random.key(0), sizes.networks)
    before = {0: 1.0, 15: 0.9966, 30: 0.9859, 45: 0.9682, 60: 0.9454, 90: 0.8936}
    for angle in sizes.angles:
        cosine, share = many(keys, jnp.deg2rad(angle))
        detail = {
            "networks": sizes.networks,
            "spread": jnp.std(cosine),
            "least": jnp.min(cosine),
            "symmetric share of the Jacobian": jnp.mean(share),
            "prototype": before[angle],
        }
        if angle == 0:
            worst = float(jnp.max(jnp.abs(1 - cosine)))
            yield Row("symmetric weights: |1 - cosine|", worst, "", 1e-9, detail=detail)
        else:
            target = 0.95 if angle == 90 else None
            yield Row(f"cosine with the exact gradient, {angle} degrees", float(jnp.mean(cosine)), "", target,
                      detail=detail)  # fmt: skip


def _nudges(sizes: Sizes) -> Iterator[Row]:
    """Relative error against the limit β → 0, which is not the exact gradient at 90°."""
    solver = jsci.solvers.Newton(rtol=1e-12, atol=1e-12)
    k1, k2 = jax.random.split(jax.random.key(1))
    x, label = _sample(k2)
    loss = lambda a, args: _cross_entropy(a[-1], label)
    for points in (1, 2, 4, 6):

        def nudged(theta, beta, points=points):
            args = (theta, x)
            start = _relaxed(theta, x, sizes.relaxations)
            _, (found, _) = jsci.equilibrium_propagation(
                NETWORK, loss, solver, start, args, beta=beta, points=points, throw=False
            )
            limit = _gradient(theta, x, label, LIMIT, sizes.relaxations)
            return jnp.linalg.norm(_flat(found) - _flat(limit)) / jnp.linalg.norm(_flat(limit))

        nudged = jax.jit(jax.vmap(nudged, (None, 0)))
        betas = jnp.array([0.05, 0.1])
        for angle in (0, 90):
            errors = nudged(_weights(k1, SMALL, jnp.deg2rad(angle)), betas)
            order = float(jnp.log2(errors[1] / errors[0]))
            detail = {"beta": betas, "errors": errors, "prototype": PROTOTYPE[points]}
            name = f"{points} nudges, {angle} degrees"
            # One nudge has the bias of its loss's curvature, whose size is that of the network.
            target = PROTOTYPE[points] if points > 1 else None
            yield Row(f"{name}: error at beta = 0.05", float(errors[0]), "", target, detail=detail)
            yield Row(f"{name}: order in beta", order, "", points - 0.3, Better.HIGHER, detail)


# --- trained networks -------------------------------------------------------------------------------


def _data(key, count):
    k1, k2, k3 = jax.random.split(key, 3)
    x = jax.random.normal(k1, (count, LARGE[0]))
    hidden = jnp.tanh(x @ jax.random.normal(k2, (LARGE[0], 32)) / LARGE[0] ** 0.5 * 2)
    return x, jnp.argmax(hidden @ jax.random.normal(k3, (32, CLASSES)), axis=-1)


def _homeostasis(sizes: Sizes) -> Iterator[Row]:
    count = 2048
    x, labels = _data(jax.random.key(2), count + 512)
    key = jax.random.key(3)
    start = (
        _weights(key, LARGE, jnp.pi / 2),
        jax.random.normal(key, (CLASSES, LARGE[-1])) / LARGE[-1] ** 0.5,
    )
    optimizer = optax.adam(2e-3)

    def loss(model, x, label, adjoint, relaxations):
        theta, readout = model
        a = jsci.attach(NETWORK, _relaxed(theta, x, relaxations), (theta, x), adjoint=adjoint)
        return _cross_entropy(readout @ a[-1], jax.nn.one_hot(label, CLASSES))

    mean = lambda model, x, labels, adjoint, relaxations=60: jnp.mean(
        jax.vmap(lambda x, label: loss(model, x, label, adjoint, relaxations))(x, labels)
    )

    def asymmetry(model, x, key):
        theta, _ = model
        one = lambda x, key: jsci.jacobian_asymmetry(
            NETWORK, _relaxed(theta, x, 60), (theta, x), key=key, probes=1
        )
        return jnp.mean(jax.vmap(one)(x, jax.random.split(key, len(x))))

    # As many relaxations of the nudged network as a training step can afford, settled or not.
    cheap = jsci.EquilibriumPropagation(linear.Neumann(30, check=float("inf")))

    def step(carry, key, weight):
        model, state = carry
        k1, k2 = jax.random.split(key)
        i = jax.random.randint(k1, (sizes.batch,), 0, count)
        total = lambda m: mean(m, x[i], labels[i], cheap) + weight * asymmetry(m, x[i], k2)
        value, gradient = jax.value_and_grad(total)(model)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(model, updates), state), value

    def figures(model):
        seen = x[count:], labels[count:]
        few = seen[0][:64], seen[1][:64]
        # Not by the series: after training some inputs settle slowly.
        exact = (jsci.EquilibriumPropagation(linear.GMRES()), jsci.ImplicitAdjoint(linear.GMRES()))
        estimates = [jax.grad(lambda m, a=a: mean(m, *few, a, sizes.relaxations))(model) for a in exact]

        def unsettled(x):
            args = (model[0], x)
            return jnp.max(jnp.abs(_flat(NETWORK(_relaxed(*args, sizes.relaxations), args))))

        logits = jax.vmap(lambda x: model[1] @ _relaxed(model[0], x, 60)[-1])(seen[0])
        correct = jnp.mean(jnp.argmax(logits, -1) == seen[1])
        # The readout gets its gradient directly: the same in both.
        cosine = _cosine(estimates[0][0], estimates[1][0])
        return cosine, asymmetry(model, few[0], key), correct, jnp.max(jax.vmap(unsettled)(few[0]))

    def train(weight):
        keys = jax.random.split(jax.random.key(4), sizes.steps)
        (model, _), values = jax.lax.scan(
            lambda c, k: step(c, k, weight), (start, optimizer.init(start)), keys
        )
        return values[-1], *figures(model)

    program = jax.jit(train).lower(jnp.array(0.0)).compile()
    for weight, name, target, better, before in (
        (0.0, "without homeostasis", 0.85, Better.LOWER, 0.712),
        (1.0, "with homeostasis", 0.95, Better.HIGHER, 0.994),
    ):
        begin = time.perf_counter()
        value, cosine, skew, correct, left = jax.block_until_ready(program(jnp.array(weight)))
        detail = {
            "seconds": time.perf_counter() - begin,
            "steps": sizes.steps,
            "last loss": value,
            "Jacobian asymmetry": skew,
            "test accuracy": correct,
            "largest residual of the equilibria": left,
            "prototype": before,
        }
        yield Row(f"cosine after training, {name}", float(cosine), "", target, better, detail)
