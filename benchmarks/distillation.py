"""Ten images that teach a classifier: the implicit rule against unrolled gradient descent.

The inner problem is multiclass logistic regression on ten learned images x, one of each class,

    w*(x) = argmin over w of −mean log softmax(x w)ᵢᵢ + ½ · 0.1 ‖w‖²,

the outer one the loss of w*(x) on real images, reduced over x by Adam; float64. Data: the digits of
scikit-learn, 1437 images of 8×8 pixels for training and 360 for testing (in place of MNIST, for want of
which the losses are not those of the paper).

After Blondel et al., arXiv 2105.15183, §4.2: implicit differentiation four times faster than unrolling, at
the same loss. Here one solver, gradient descent to the same tolerance, is differentiated in both ways, by
this package and by JAXopt; the rule also takes the solution of Newton's method.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import optimistix as optx
from jaxtyping import Array, Float, Int

import jaxsci as jsci
from jaxsci import linear

from ._harness import Better, Row, measure

X64 = True
CLASSES = 10
TRAINED = 1437


@dataclasses.dataclass(frozen=True)
class Sizes:
    steps: int = 300  # of Adam
    tolerance: float = 1e-8
    max_steps: int = 1000  # of gradient descent
    repeats: int = 9


FULL = Sizes()
QUICK = Sizes(steps=100, repeats=3)
TINY = Sizes(steps=2, tolerance=1e-4, max_steps=200, repeats=1)


class Images(NamedTuple):
    x: Float[Array, "m p"]
    label: Int[Array, " m"]


def run(quick: bool) -> Iterator[Row]:
    """Every figure; `quick` takes fewer steps and draws no picture."""
    sizes, (train, test) = QUICK if quick else FULL, digits()
    yield from rows_of(sizes, train, test)
    if not quick:
        folder = pathlib.Path("out") / "distillation"
        folder.mkdir(parents=True, exist_ok=True)
        picture(folder / "distillation.png", sizes, train)


def digits() -> tuple[Images, Images]:
    """Training and test images with pixels in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('The digits come with scikit-learn: pip install "jaxsci[bench]"') from error
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    take = lambda part: Images(jnp.asarray(data.data[part] / 16), jnp.asarray(data.target[part]))
    return take(order[:TRAINED]), take(order[TRAINED:])


# --- the two problems -------------------------------------------------------------------------------


def inner(w: Float[Array, "p c"], x: Float[Array, "c p"]) -> Float[Array, ""]:
    """The regularized loss on image i with label i."""
    fit = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(x @ w)))
    return fit + 0.5 * 0.1 * jnp.sum(w * w)


def outer(w: Float[Array, "p c"], images: Images) -> Float[Array, ""]:
    """The loss on real images."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(images.x @ w, images.label))


def accuracy(w, images: Images) -> float:
    """The share of images that are told right."""
    return float(jnp.mean(jnp.argmax(images.x @ w, 1) == images.label))


REGRESSION = jsci.Stationary(inner, convex=True)
IMPLICIT = jsci.ImplicitAdjoint(linear.CG())
NEWTON = jsci.solvers.Newton(1e-10, 1e-10, linear_solver=linear.CG(rtol=1e-3, check=1e-2))


def solved(x, solver, adjoint, sizes: Sizes) -> Float[Array, "p c"]:
    """w*(x)."""
    start = jnp.zeros((x.shape[1], CLASSES))
    return jsci.solve(REGRESSION, solver, start, x, adjoint=adjoint, max_steps=sizes.max_steps).value


def by_jaxopt(x, solver) -> Float[Array, "p c"]:
    return solver.run(jnp.zeros((x.shape[1], CLASSES)), x).params


def methods(sizes: Sizes) -> dict[str, Callable]:
    """How w*(x) is found and differentiated."""
    descent = optx.GradientDescent(0.5, rtol=sizes.tolerance, atol=sizes.tolerance)
    given = functools.partial(
        jaxopt.GradientDescent, fun=inner, maxiter=sizes.max_steps, tol=sizes.tolerance, jit=True
    )
    return {
        "implicit": lambda x: solved(x, descent, IMPLICIT, sizes),
        "unrolled": lambda x: solved(x, descent, jsci.UnrolledAdjoint(), sizes),
        "implicit, Newton": lambda x: solved(x, NEWTON, IMPLICIT, sizes),
        "JAXopt, implicit": lambda x: by_jaxopt(x, given(implicit_diff=True)),
        "JAXopt, unrolled": lambda x: by_jaxopt(x, given(implicit_diff=False, unroll=True)),
    }


def distilled(find: Callable, start, train: Images, sizes: Sizes):
    """The images after Adam, and the losses before each step."""
    optimizer = optax.adam(0.05)

    def step(carry, _):
        x, state = carry
        value, gradient = jax.value_and_grad(lambda x: outer(find(x), train))(x)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(x, updates), state), value

    (x, _), losses = jax.lax.scan(step, (start, optimizer.init(start)), None, sizes.steps)
    return x, losses


def start_of(train: Images) -> Float[Array, "c p"]:
    """Noise about gray."""
    return 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (CLASSES, train.x.shape[1]))


# --- the figures ------------------------------------------------------------------------------------


def rows_of(sizes: Sizes, train: Images, test: Images) -> Iterator[Row]:
    start = start_of(train)
    found = {}
    for name, find in methods(sizes).items():
        gradient = jax.value_and_grad(lambda x, find=find: outer(find(x), train))
        found[name] = measure(gradient, start, repeats=sizes.repeats)
    exact = found["implicit, Newton"].result[1]
    for name, timing in found.items():
        error = jnp.linalg.norm(timing.result[1] - exact) / jnp.linalg.norm(exact)
        detail = timing.as_detail() | {"relative error of the gradient": error}
        yield Row(f"loss and gradient: {name}", 1e3 * timing.wall_s, "ms", detail=detail)
    ratio = lambda name, other: found[name].cpu_s / found[other].cpu_s
    yield Row("processor time: unrolled over implicit", ratio("unrolled", "implicit"), "x", 4.0,
              Better.HIGHER)  # fmt: skip
    yield Row("processor time: the same in JAXopt", ratio("JAXopt, unrolled", "JAXopt, implicit"), "x")
    h, direction = 1e-5, jnp.cos(jnp.arange(start.size)).reshape(start.shape)
    newton = methods(sizes)["implicit, Newton"]
    fit = jax.jit(newton)
    value = lambda x: outer(fit(x), train)
    slope = (value(start + h * direction) - value(start - h * direction)) / (2 * h)
    error = float(abs(jnp.vdot(exact, direction) / slope - 1))
    yield Row("gradient: error against differences", error, "", 1e-6)

    last = {}
    for name in ("implicit", "unrolled", "implicit, Newton"):
        find = methods(sizes)[name]
        program = jax.jit(lambda x, find=find: distilled(find, x, train, sizes)).lower(start).compile()
        begin, cpu = time.perf_counter(), time.process_time()
        x, losses = jax.block_until_ready(program(start))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        w = fit(x)
        last[name] = float(outer(w, train))
        detail = {
            "steps": sizes.steps, "losses": losses[:: max(1, sizes.steps // 20)], "cpu_s": cpu,
            "loss": last[name], "test loss": outer(w, test), "test accuracy": accuracy(w, test),
        }  # fmt: skip
        yield Row(f"distillation: {name}", seconds, "s", detail=detail)
    yield Row("loss at the end", last["implicit"])
    gap = abs(last["unrolled"] / last["implicit"] - 1)
    yield Row("loss at the end: unrolled against implicit", gap, "", 1e-2)
    means = jnp.stack([jnp.mean(train.x[train.label == c], 0) for c in range(CLASSES)])
    first = jnp.stack([train.x[jnp.argmax(train.label == c)] for c in range(CLASSES)])
    for name, images in (("ten learned images", x), ("mean images", means), ("ten real images", first)):
        yield Row(f"test accuracy: {name}", 100 * accuracy(fit(images), test), "%")


# --- the picture ------------------------------------------------------------------------------------


def picture(path: pathlib.Path, sizes: Sizes, train: Images) -> None:
    """The learned images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    find = methods(sizes)["implicit, Newton"]
    x, _ = jax.jit(lambda x: distilled(find, x, train, sizes))(start_of(train))
    figure, axes = plt.subplots(1, CLASSES, figsize=(8.4, 1.1), layout="constrained")
    largest = float(jnp.max(jnp.abs(x - 0.5)))
    for label, (axis, image) in enumerate(zip(axes, np.asarray(x), strict=True)):
        axis.imshow(image.reshape(8, 8), cmap="gray", vmin=0.5 - largest, vmax=0.5 + largest)
        axis.set_axis_off()
        axis.set_title(str(label), fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
