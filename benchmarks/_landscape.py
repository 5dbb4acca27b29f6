"""The loss about a network: its sharpness, and its surface along the sharpest directions."""

import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as spl
from jax.flatten_util import ravel_pytree

from jaxsci import pde, pinn


def loss_of(model: pinn.AbstractPINN, count: int) -> tuple[Callable, Any]:
    """½ mean r² as a function of the flat parameters, and these."""
    points = model.domain.interior(count, pde.Sobol(), jax.random.key(0))
    chosen, rest = eqx.partition(model.network, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(chosen)

    def loss(w):
        changed = eqx.tree_at(lambda m: m.network, model, eqx.combine(unravel(w), rest))
        return 0.5 * jnp.mean(jnp.sum(jax.vmap(changed.residual)(points) ** 2, axis=1))

    return jax.jit(loss), flat


def sharpest(loss: Callable, flat: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of the Hessian, and their vectors, by Lanczos on products with it."""
    product = jax.jit(lambda v: jax.jvp(jax.grad(loss), (flat,), (v,))[1])
    size = (flat.size, flat.size)
    hessian = spl.LinearOperator(size, lambda v: np.asarray(product(jnp.ravel(v))), dtype=float)
    values, vectors = spl.eigsh(hessian, k=count, which="LA", tol=1e-3)
    return values[::-1], vectors[:, ::-1]


def surface(loss: Callable, flat: Any, vectors: np.ndarray, count: int) -> np.ndarray:
    """The loss on the plane of two unit vectors, from −1 to 1 along both."""
    steps, (one, two) = jnp.linspace(-1, 1, count), jnp.asarray(vectors.T)
    row = lambda a: jax.vmap(lambda b: loss(flat + a * one + b * two))(steps)
    return np.asarray(jax.lax.map(row, steps))


def draw(pictures: dict[tuple[str, float], np.ndarray], folder: pathlib.Path) -> None:
    """Surfaces by network and velocity."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    speeds = sorted({c for _, c in pictures})
    size = (2.8 * len(speeds), 5.6)
    figure, axes = plt.subplots(2, len(speeds), figsize=size, layout="constrained", sharex=True, sharey=True)
    for row, name in zip(axes, ("PINN", "LPINN"), strict=True):
        for ax, c in zip(row, speeds, strict=True):
            extent = (-1, 1, -1, 1)
            image = ax.imshow(np.log10(pictures[name, c] + 1e-16).T, origin="lower", extent=extent)
            ax.set_title(f"{name}, c = {c:g}")
            figure.colorbar(image, ax=ax, label="log₁₀ loss")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "landscape.png", dpi=100)
    plt.close(figure)
