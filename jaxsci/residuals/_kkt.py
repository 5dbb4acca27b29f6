"""Minima under equality and inequality constraints."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, PyTree

from .. import _tree
from .._residual import AbstractResidual
from ._complementarity import both_small, check_tolerance, fischer_burmeister, limit, smaller
from ._optimum import check_scalar


class KKT(AbstractResidual):
    """min over x of f(x, θ) subject to h(x, θ) = 0 and g(x, θ) ≤ 0, by the Karush–Kuhn–Tucker conditions

        ∇f + (∂h/∂x)ᵀ ν + (∂g/∂x)ᵀ λ = 0,   h = 0,   0 ≤ λ ⟂ −g ≥ 0.

    The unknown is y = (x, ν), with one multiplier for every scalar of h; or y = (x, ν, λ) if an
    inequality is given, with one for every scalar of g, and ν = () if no equality is. `KKT.start` makes
    one. The multipliers are part of the solution and have derivatives.

    Solvers see the last condition as λ − g − √(λ² + g²) = 0 (Fischer and Burmeister), on which Newton's
    method converges. The implicit function theorem linearises g = 0 where λ > −g (active constraints)
    and λ = 0 elsewhere: the same solution and derivatives as λ g = 0, but well conditioned.

    **Arguments:**

    - `objective`: (x, args) ↦ the scalar f.
    - `equality`: (x, args) ↦ h, a pytree of arrays; or None.
    - `inequality`: (x, args) ↦ g, a pytree of arrays; or None.
    - `biactive_tol`: a constraint with |g| and |λ| both at most this (units of g and of λ), or at most
      ten times the residual of these conditions at the given point, has no derivative that could be
      known. None: the square root of the precision.
    - `one_sided`: where that happens, the derivative of the whole solution is NaN; if True, it is the
      one-sided derivative with the constraint held inactive.

    **Raises:** `ValueError` if neither constraint is given, or if y has not the form above.

    **Limits:** the derivative exists where the gradients of h and of the active g are independent, the
    Hessian of the Lagrangian is regular on their null space, and every active g has λ > 0 (linear
    independence, second-order conditions, strict complementarity). A maximum or a saddle point may
    satisfy the conditions too.

    **Reference:** Fiacco, Introduction to Sensitivity and Stability Analysis, 1983; Fischer, A special
    Newton-type optimization method, Optimization 24, 1992.
    """

    function: Callable
    equality: Callable | None
    inequality: Callable | None
    biactive_tol: float | None = eqx.field(static=True)
    one_sided: bool = eqx.field(static=True)

    def __init__(
        self,
        objective: Callable,
        equality: Callable | None = None,
        inequality: Callable | None = None,
        *,
        biactive_tol: float | None = None,
        one_sided: bool = False,
    ):
        if equality is None and inequality is None:
            raise ValueError(
                "`equality` and `inequality` are both None; expected at least one constraint. For a free "
                "minimum use `jaxsci.Stationary(objective)`."
            )
        check_tolerance(biactive_tol)
        self.function = objective
        self.equality = equality
        self.inequality = inequality
        self.biactive_tol = biactive_tol
        self.one_sided = one_sided

    @property
    def tags(self):
        return frozenset({lx.symmetric_tag}) if self.inequality is None else frozenset()

    def start(self, x: PyTree[Array], args: PyTree[Any] = None) -> tuple[PyTree[Array], ...]:
        """(x, 0) or (x, 0, 1): a first guess of the form of y."""
        h, g = jax.eval_shape(lambda x: self._constraints(x, args), x)
        nu = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), h)
        if self.inequality is None:
            return x, nu
        return x, nu, jtu.tree_map(lambda s: jnp.ones(s.shape, s.dtype), g)

    def _constraints(self, x, args):
        """(h, g), with () for a constraint that is not given."""
        h = () if self.equality is None else self.equality(x, args)
        return h, () if self.inequality is None else self.inequality(x, args)

    @property
    def _form(self):
        return "the pair (x, ν)" if self.inequality is None else "the triple (x, ν, λ)"

    def _parts(self, y):
        """(x, ν, λ)."""
        length = 2 if self.inequality is None else 3
        if not isinstance(y, tuple | list) or len(y) != length:
            raise ValueError(
                f"`y` is a pytree of shapes {jtu.tree_map(jnp.shape, y)}; expected {self._form} of "
                "unknowns and multipliers. Make the first guess with `KKT(...).start(x, args)`."
            )
        return (*y, ()) if length == 2 else tuple(y)

    def _lagrange(self, y, args):
        """The gradient of the Lagrangian in x, h, the pairs of λ and −g, and the structure of the pairs."""
        x, nu, lam = self._parts(y)
        values, pull = jax.vjp(lambda x: self._constraints(x, args), x)
        form = lambda tree: jtu.tree_map(jnp.shape, tree)
        for name, what, symbol, of in (
            ("equality", values[0], "ν", nu),
            ("inequality", values[1], "λ", lam),
        ):
            if form(what) != form(of):
                raise ValueError(
                    f"`y` is {self._form}; {symbol} has shapes {form(of)}, but `{name}` returns shapes "
                    f"{form(what)}, and there is one multiplier for each of its scalars. Make the first "
                    "guess with `KKT(...).start(x, args)`."
                )
        (forces,) = pull(_tree.vary_like((nu, lam), values))
        objective = lambda x: check_scalar(self.function(x, args), "KKT", "objective")
        gradient = jtu.tree_map(jnp.add, jax.grad(objective)(x), forces)
        return gradient, values[0], lam, jtu.tree_map(jnp.negative, values[1])

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        gradient, h, lam, slack = self._lagrange(y, args)
        if self.inequality is None:
            return gradient, h
        return gradient, h, jtu.tree_map(fischer_burmeister, lam, slack)

    def root(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self(y, args)

    def optimality(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        gradient, h, lam, slack = self._lagrange(y, args)
        if self.inequality is None:
            return gradient, h
        residual = gradient, h, jtu.tree_map(jnp.minimum, lam, slack)
        zero = limit(self.biactive_tol, y, residual)
        rows = lambda a, b: smaller(a, b, both_small(a, b, zero), self.one_sided)
        return gradient, h, jtu.tree_map(rows, lam, slack)
