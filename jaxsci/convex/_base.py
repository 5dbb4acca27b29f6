"""What a convex set and a convex function are, and arithmetic that is free of scale."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .. import _tree

held = jax.lax.stop_gradient


class AbstractSet(eqx.Module):
    """A closed convex set C, as its Euclidean projection P(v) = argmin over x in C of ½‖x − v‖².

    A projection `(v, args) ↦ x`; `set.prox` is the same as a proximal operator `(v, step, args) ↦ x`.
    v is one sample, a pytree of real floating arrays (batch with `jax.vmap`); the parameters of the set
    are its fields. P is differentiated with respect to both, in forward and reverse mode and to every
    order that exists.

    Where P has a kink, the derivative is that of the piece on which the point itself lies, and a point
    of the closed set belongs to the piece where P is the identity. So the derivative of P(P(v)) is that
    of P(v), and it is an element of the generalized Jacobian (Clarke).

    **Raises:** `TypeError` for a v that is not floating, `ValueError` for shapes that do not fit and
    for a parameter that makes C empty, if its value is known when the program is traced. Where it is
    not, and where an inner solve fails, the result is NaN in that lane of a batch only.
    """

    @abc.abstractmethod
    def __call__(self, v: PyTree[Array], args: PyTree[Any] = None) -> PyTree[Array]:
        """P(v), of the structure of v. `args` is not used."""

    def prox(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        """P(v), whatever `step` is: the proximal operator of the indicator function of C."""
        return self(v, args)

    def contains(self, v: PyTree[Array], tol: Any = None) -> Bool[Array, ""]:
        """Whether max|v − P(v)| ≤ `tol` (unit of v); None: √precision times the size of v and P(v)."""
        return _near(v, self(v), tol)


class AbstractFunction(eqx.Module):
    """A convex function g, as its proximal operator prox(v, t) = argmin over x of ½‖x − v‖² + t g(x).

    v is one sample, a pytree of real floating arrays (batch with `jax.vmap`); t ≥ 0 is a scalar. The
    operator is differentiated with respect to v, to t and to the parameters, which are fields. Where it
    has a kink, the derivative is that of the piece on which more of x is constant.

    **Raises:** `TypeError` for a v that is not floating, `ValueError` for a negative weight or step,
    if its value is known when the program is traced; the result is NaN where it is not.
    """

    @abc.abstractmethod
    def __call__(self, v: PyTree[Array], step: Any = 1.0, args: PyTree[Any] = None) -> PyTree[Array]:
        """prox(v, t), of the structure of v. `args` is not used."""

    @abc.abstractmethod
    def value(self, v: PyTree[Array]) -> Array:
        """g(v), a scalar."""


def _near(v: PyTree[Array], x: PyTree[Array], tol: Any) -> Bool[Array, ""]:
    """Whether v and x are the same up to `tol`."""
    v = floating(v)
    gap = _tree.max_abs(jtu.tree_map(jnp.subtract, v, x))
    if tol is None:
        tol = jnp.finfo(gap.dtype).eps ** 0.5 * jnp.maximum(_tree.max_abs(v), _tree.max_abs(x))
    return gap <= tol


def floating(v: PyTree[Any]) -> PyTree[Array]:
    """v as arrays; `TypeError` unless all are real and floating."""
    v = jtu.tree_map(jnp.asarray, v)
    for path, leaf in jtu.tree_leaves_with_path(v):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"`v`{jtu.keystr(path)} is of dtype {leaf.dtype}; expected real floating arrays. Cast it, "
                "such as v.astype(float); for complex numbers pass the pair of real and imaginary parts."
            )
    if len(jtu.tree_leaves(v)) == 0:
        raise ValueError("`v` holds no arrays; expected a pytree of floating arrays.")
    return v


def matrix(v: Any) -> Array:
    """v as one matrix; `ValueError` if it is none."""
    v = floating(v)
    shapes = [x.shape for x in jtu.tree_leaves(v)]
    if not isinstance(v, jax.Array) or v.ndim != 2:
        raise ValueError(f"`v` has shapes {shapes}; expected one matrix. Batch with `jax.vmap`.")
    return v


def scalar(value: Any, name: str, dtype: Any) -> Array:
    """A parameter as a scalar of the precision of v; `ValueError` if it has another shape."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"`{name}` has shape {jnp.shape(value)}; expected a scalar. For a batch of sets use `jax.vmap` "
            "over the module or over a function that makes it."
        )
    return jnp.asarray(value, dtype)


def size_of(value: Any, name: str, dtype: Any) -> Array:
    """A scalar parameter that must not be negative; NaN if it is."""
    value = scalar(value, name, dtype)
    return jnp.where(value >= 0, value, jnp.nan)


def spread(value: PyTree[Any], name: str, v: PyTree[Array]) -> PyTree[Array]:
    """A parameter given for all of v at once, or as a pytree like v, with the shapes and dtypes of v."""
    if jtu.treedef_is_leaf(jtu.tree_structure(value)):
        value = jtu.tree_map(lambda _: value, v)
    if jtu.tree_structure(value) != jtu.tree_structure(v):
        raise ValueError(
            f"`{name}` has the structure {jtu.tree_structure(value)}, and `v` has "
            f"{jtu.tree_structure(v)}; expected the same, or one array or number for all of `v`."
        )

    def one(x, like):
        try:
            fits = np.broadcast_shapes(jnp.shape(x), like.shape) == like.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"`{name}` has shape {jnp.shape(x)}, and `v` {like.shape}; expected a shape that "
                "broadcasts to that of `v`."
            )
        return jnp.broadcast_to(jnp.asarray(x, like.dtype), like.shape)

    return jtu.tree_map(one, value, v)


def known(value: Any) -> np.ndarray | None:
    """The value of a parameter, if it is known while the program is traced."""
    if value is None or isinstance(value, jax.core.Tracer) or not eqx.is_array_like(value):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(value)


def check_size(value: Any, name: str, owner: str) -> None:
    """Raise `ValueError` if a parameter is known to be negative or NaN somewhere."""
    for leaf in jtu.tree_leaves(value):
        number = known(leaf)
        if number is not None and not np.all(number >= 0):
            raise ValueError(f"`{name}` of {owner} is {value}; expected a number ≥ 0.")


def norm(x: Array) -> Array:
    """‖x‖₂ of an array, free of overflow; its derivative at 0 is 0."""
    size = held(jnp.max(jnp.abs(x), initial=0))
    usable = (size > 0) & jnp.isfinite(size)
    unit = x / jnp.where(usable, size, 1)
    square = jnp.sum(unit * unit)
    return jnp.where(size > 0, size * jnp.sqrt(jnp.where(size > 0, square, 1)), size)


def only(ok: Array, x: PyTree[Array]) -> PyTree[Array]:
    """x where the scalar condition holds, NaN elsewhere."""
    return jtu.tree_map(lambda u: jnp.where(ok, u, jnp.full_like(u, jnp.nan)), x)
