"""Other estimators of dy*/dθ, in the place of `ImplicitAdjoint`. None defines a derivative of its own:
each is the implicit rule with another operator or another linear solver, or the program of the solver."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, PyTree

from . import _tree
from ._adjoint import AbstractAdjoint, ImplicitAdjoint
from ._residual import AbstractResidual
from .linear import AbstractLinearSolver, Neumann, Operator
from .linear._solver import check_linear_solver
from .residuals import FixedPoint, PreActivation, Root


class OneStepAdjoint(AbstractAdjoint):
    """Derivatives of one more step of the iteration: dy = ∂T/∂θ · dθ, with T the residual's `fixed_point`.

    The implicit rule with I − ∂T/∂y taken for I: no linear solve and no product with a Jacobian. With
    ‖∂T/∂y‖ = c < 1 the relative error of dy is at most c/(1 − c), and its angle to the true one is
    acute; exact where ∂T/∂y = 0, as for a Newton step. The same as `NeumannAdjoint(1)`, unchecked.

    Forward mode, reverse mode and higher orders; each order is approximate in the same sense.

    **Limits:** nothing measures the error: with c near one, or a T that does not contract, it is as
    large as the derivative. For a residual that is no fixed point T = y − F, which is of use only where
    ∂F/∂y is near the identity. In optimistix only for `fixed_point` with a fixed-point solver.

    **Reference:** Fung et al., JFB: Jacobian-Free Backpropagation for Implicit Networks, AAAI 2022;
    Bolte, Pauwels & Vaiter, One-step differentiation of iterative algorithms, NeurIPS 2023.
    """

    def attach(self, residual, y, args):
        return ImplicitAdjoint(_Identity()).attach(_Iteration(residual), y, args)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        return _apply_to_iteration(self, primal_fn, inputs)


class NeumannAdjoint(AbstractAdjoint):
    """Derivatives by a truncated Neumann series: dy = Σₖ (∂T/∂y)ᵏ ∂T/∂θ · dθ over k < `terms`.

    T is the residual's `fixed_point`; the full series is (I − ∂T/∂y)⁻¹, the implicit rule. Relative
    error at most cⁿ/(1 − c) for n terms and ‖∂T/∂y‖ = c < 1. Matrix-free: n products with ∂T/∂y, one of
    them for the check. Forward mode, reverse mode and higher orders; each is truncated alike.

    **Arguments:**

    - `terms`: n ≥ 1.
    - `check`: see `jaxsci.linear.Neumann`: the derivative is NaN in every lane in which what the series
      has left, (∂T/∂y)ⁿ b, is larger than `check` times b. `inf` accepts anything.

    **Raises:** `ValueError` if `terms` is no int ≥ 1.

    **Limits:** diverges where an eigenvalue of ∂T/∂y is one or more in size. The check finds that when
    n is large enough for the terms to grow. In optimistix only for `fixed_point` with a fixed-point
    solver.

    **Reference:** Lorraine, Vicol & Duvenaud, Optimizing Millions of Hyperparameters by Implicit
    Differentiation, AISTATS 2020.
    """

    terms: int = eqx.field(static=True)
    check: float = 1.0

    def __check_init__(self):
        Neumann(self.terms)

    def attach(self, residual, y, args):
        series = Neumann(self.terms, self.check)
        return ImplicitAdjoint(series).attach(_Iteration(residual), y, args)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        return _apply_to_iteration(self, primal_fn, inputs)


class UnrolledAdjoint(AbstractAdjoint):
    """Derivatives of the solver's iterations, step by step: of what was computed, not of what it means.

    For `jaxsci.solve` with `jaxsci.solvers.Newton`, any optimistix solver, an optax optimizer (in both
    modes and every order) or a jaxopt solver object (unrolled by jaxopt); and as `adjoint=` of
    optimistix's own functions. The solution depends on y0, as its finitely many iterates do. Newton's
    step lengths count as constants.

    Unrolled from k steps, the error of the derivative is of the order of k times that of the k-th
    iterate for a linearly convergent solver. Time: twice that of the implicit rule's forward pass and
    more; memory: about `checkpoints` + `max_steps`/`checkpoints` iterates.

    **Arguments:**

    - `checkpoints`: number of iterates kept; those in between are computed again. None: √`max_steps`.

    **Raises:** `TypeError` from `jaxsci.attach` (a solution has no iterations) and for solvers whose
    search cannot be unrolled; `ValueError` if `checkpoints` is no int ≥ 1, or in optimistix without
    `max_steps`.

    **Limits:** quantities that a solver computes but does not use in y may have infinite derivatives at
    an exact solution; a solver that stops at a tolerance does not get there.
    """

    checkpoints: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        n = self.checkpoints
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise ValueError(f"`checkpoints` is {n!r}; expected an int ≥ 1, or None for √max_steps.")

    @property
    def loop(self):
        return self._loop

    def _loop(self, condition: Callable, body: Callable, first, *, max_steps: int | None = None):
        if max_steps is None:
            raise ValueError("`max_steps` is None; to unroll a solver its steps must be bounded. Set it.")
        segments = max(1, round(max_steps**0.5)) if self.checkpoints is None else self.checkpoints
        return _tree.bounded_loop(condition, body, first, max_steps, min(segments, max_steps))

    @property
    def options(self):
        return {"linear_rule": self.linear_rule}

    def linear_rule(self, mv: Callable, x: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
        """x with A x = b, with its derivatives with respect to A and b."""
        return ImplicitAdjoint().attach(Root(lambda x, _: jtu.tree_map(jnp.subtract, mv(x), b)), x, None)

    def attach(self, residual, y, args):
        raise TypeError(
            "UnrolledAdjoint cannot attach derivatives to a given solution: it differentiates the "
            "iterations of the solver, which are not there. Pass it to `jaxsci.solve`, or use "
            "jaxsci.ImplicitAdjoint()."
        )

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        fn, solver, y0, args, options, *rest = inputs
        return primal_fn((fn, solver, y0, args, options | self.options, *rest, self.loop))


class EquilibriumPropagation(AbstractAdjoint):
    """Derivatives by the response of the network itself, without a transposed solve.

    For a = σ(F(a, θ)) (`jaxsci.PreActivation`) with J = ∂F/∂a and D = σ′: nudging F by −β ∂L/∂a moves
    the equilibrium by da/dβ = −D (I − J D)⁻¹ ∂L/∂a, and the estimate of dL/dθ is −(∂F/∂θ)ᵀ da/dβ. The
    exact one has (I − D Jᵀ)⁻¹ D in place of D (I − J D)⁻¹: the two are equal if J = Jᵀ on what the
    loss excites, and J is the Jacobian of F, not of the composed map. This is the limit β → 0, by a
    linear solve; `jaxsci.equilibrium_propagation` nudges in earnest.

    The implicit rule with Jᵀ for J; so forward mode and higher orders exist, with the same bias.

    **Arguments:**

    - `linear_solver`: as of `jaxsci.ImplicitAdjoint`.

    **Raises:** `TypeError` for any residual but `jaxsci.PreActivation`: without the pre-activation the
    estimate would be wrong even for symmetric weights.

    **Limits:** biased by the asymmetry of J; see `jaxsci.jacobian_asymmetry`. Not in optimistix's own
    functions, which do not tell the pre-activation.

    **Reference:** Scellier & Bengio, Equilibrium Propagation, Front. Comput. Neurosci. 2017; Laborieux
    & Zenke, Improving equilibrium propagation without weight symmetry through Jacobian homeostasis,
    ICLR 2024.
    """

    linear_solver: AbstractLinearSolver | None = None

    def __check_init__(self):
        check_linear_solver(self.linear_solver)

    def attach(self, residual, y, args):
        check_pre_activation(residual, "EquilibriumPropagation")
        return ImplicitAdjoint(self.linear_solver).attach(_Swapped(residual), y, args)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        raise TypeError(
            "EquilibriumPropagation needs the network in its pre-activation form, which optimistix's "
            "functions do not hand over. Use `jaxsci.solve` with `jaxsci.PreActivation(fn, activation)`."
        )


def check_pre_activation(residual: Any, user: str) -> None:
    """Raise `TypeError` unless the residual tells its pre-activation."""
    if not isinstance(residual, PreActivation):
        raise TypeError(
            f"`residual` is a {type(residual).__name__}; {user} needs a = σ(F(a, θ)) with σ and F told "
            "apart, since it is ∂F/∂a and not the Jacobian of the composed map whose symmetry counts. "
            "Write the layer as jaxsci.PreActivation(F, activation=σ); for a state that is a gradient, "
            "y = −∇E, σ is the identity: jaxsci.PreActivation(lambda y, a: y − ∇E(y, a))."
        )


class _Identity(AbstractLinearSolver):
    """Takes A for the identity."""

    check: float | None = None

    def prepare(self, operator: Operator):
        return None

    def apply(self, operator, prepared, b, transpose):
        return b, jnp.array(0)

    def product(self, operator, prepared, transpose):
        return lambda x: x


class _Iteration(AbstractResidual):
    """y − T(y, θ), with T the map that a fixed-point solver iterates for `residual`."""

    residual: AbstractResidual

    def __call__(self, y, args):
        new = _tree.shaped_like(y, self.residual.fixed_point(y, args))
        return jtu.tree_map(jnp.subtract, y, new)


class _Swapped(AbstractResidual):
    """A pre-activation residual whose Jacobian has Jᵀ = (∂F/∂a)ᵀ for J."""

    residual: PreActivation

    def __call__(self, y, args):
        return self.residual(y, args)

    def jacobian(self, y, args):
        u, pull = jax.vjp(lambda y: _tree.shaped_like(y, self.residual.fn(y, args)), y)

        def mv(v):
            (back,) = pull(v)
            _, moved = jax.jvp(self.residual.activation, (u,), (back,))
            return jtu.tree_map(jnp.subtract, v, moved)

        return Operator(mv, y)


def _apply_to_iteration(adjoint, primal_fn, inputs):
    fn, solver, _, args, *_ = inputs
    if not isinstance(solver, optx.AbstractFixedPointSolver):
        raise TypeError(
            f"{type(adjoint).__name__} differentiates the map y ← T(y, θ), and optimistix does not tell it "
            f"for a {type(solver).__name__}. Use `optimistix.fixed_point` with a fixed-point solver, or "
            "`jaxsci.solve` with a jaxsci.FixedPoint."
        )
    loop = functools.partial(eqxi.while_loop, kind="lax")
    y, rest = primal_fn((*_tree.stop_gradient(inputs), loop))
    return adjoint.attach(FixedPoint(lambda y, args: fn(y, args)[0]), y, args), _tree.stop_gradient(rest)
