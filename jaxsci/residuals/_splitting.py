"""Fixed points of an explicit step followed by a projection: non-smooth and constrained minima."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree

from .. import _tree
from .._residual import AbstractResidual
from ._complementarity import without_derivative
from ._optimum import check_scalar


class AbstractSplitting(AbstractResidual):
    """y = T(y, θ) with T = backward ∘ forward: an explicit step, then a proximal map or projection.

    The solution is the fixed point for any step η > 0, and its derivatives do not depend on η. They are
    those of the two maps: with respect to everything that f and the projection read.

    **Kinks.** A projection is not differentiable everywhere: soft thresholding is not at its threshold,
    nor the projection onto a box where the unprojected point lies on a bound. Where the fixed point is
    at a kink the solution has no derivative (only one-sided ones), while automatic differentiation
    would return one of them, or their average. So the derivatives of the projection a little to both
    sides of the point (√precision of its size, or ten times the residual of the fixed point if that is
    more) are compared along one direction, and where they jump the derivative of the whole solution is
    NaN. With `allow_kinks` it is what automatic differentiation makes of it.
    """

    allow_kinks: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def forward(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """The explicit step."""

    @abc.abstractmethod
    def backward(self, v: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        """The proximal map or projection."""

    def fixed_point(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.backward(self.forward(y, args), args)

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return jtu.tree_map(jnp.subtract, y, _tree.shaped_like(y, self.fixed_point(y, args)))

    def root(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self(y, args)

    def optimality(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        v = self.forward(y, args)
        backward = lambda v: _tree.shaped_like(y, self.backward(v, args))
        rows = jtu.tree_map(jnp.subtract, y, backward(v))
        if self.allow_kinks:
            return rows
        kink = _kinked(backward, v, _tree.max_abs(rows))
        return jtu.tree_map(lambda x: without_derivative(x, kink), rows)


def _kinked(fn: Callable, v: PyTree[Array], error: Array) -> Bool[Array, ""]:
    """Whether the derivative of fn jumps near v; not differentiated.

    J(v + δ) w and J(v − δ) w with fixed δ and w without symmetry: of a smooth J they differ by O(δ), at
    a kink by O(1), since a proximal map has no derivative larger than one. The jump may be in one entry
    or be spread over all.
    """
    v, error = jax.lax.stop_gradient((v, error))
    flat = _tree.ravel(v)
    count = jnp.arange(flat.size, dtype=flat.dtype)
    size = jnp.max(jnp.abs(flat), initial=0)
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    reach = jnp.maximum(float(jnp.finfo(flat.dtype).eps) ** 0.5, 10 * error / size)
    across = _tree.unravel(size * reach * (jnp.cos(2.4 * count + 0.3) + 1.7), v)
    along = _tree.vary_like(_tree.unravel(jnp.cos(4.1 * count + 1.1) + 1.3, v), v)

    def slope(sign):
        return jax.jvp(fn, (_tree.axpy(sign, across, v),), (along,))[1]

    jump = jax.lax.stop_gradient(jtu.tree_map(jnp.subtract, slope(1.0), slope(-1.0)))
    one = _tree.max_abs(jump) > jnp.maximum(1e-2, 100 * reach)
    return one | (_tree.norm(jump) > jnp.maximum(1e-2, 100 * reach * _tree.norm(along)))


class ProximalGradient(AbstractSplitting):
    """min over y of f(y, θ) + g(y, θ) with a smooth f, as the fixed point

        y = prox(y − η ∇f(y, θ), η, θ),   prox(v, η, θ) = argmin over u of η g(u, θ) + ½‖u − v‖².

    **Arguments:**

    - `fn`: (y, args) ↦ the scalar f.
    - `prox`: (v, η, args) ↦ the proximal map of η g at v, of the structure of y. What it reads of args
      is differentiated too (the weight of a penalty, the radius of a ball).
    - `step`: η > 0 (unit of y² over unit of f). For `fixed_point` iterations at most the inverse of the
      largest eigenvalue of the Hessian of f; for Newton's method and for `attach` any.
    - `allow_kinks`: see **Limits**.

    **Limits:** where the solution is at a kink of the proximal map (an entry just at the threshold of a
    soft thresholding) it has no derivative. This is recognised by comparing the derivatives of the map
    to both sides and gives NaN; with `allow_kinks`, what automatic differentiation makes of it. For a
    minimiser of optimistix or Optax the objective is ½‖y − T(y)‖², since g itself is not known.

    **Reference:** Beck & Teboulle, SIAM J. Imaging Sciences 2, 2009; Blondel et al., Efficient and Modular
    Implicit Differentiation, NeurIPS 2022.
    """

    fn: Callable
    prox: Callable
    step: Array | float = 1.0
    allow_kinks: bool = eqx.field(static=True, default=False)

    def forward(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return _tree.axpy(-self.step, _gradient(self.fn, "ProximalGradient", y, args), y)

    def backward(self, v: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.prox(v, self.step, args)


class ProjectedGradient(AbstractSplitting):
    """min over y in C(θ) of f(y, θ), as the fixed point y = P(y − η ∇f(y, θ), θ).

    **Arguments:**

    - `fn`: (y, args) ↦ the scalar f.
    - `projection`: (v, args) ↦ the point P of C nearest to v, of the structure of y. What it reads of
      args is differentiated too (bounds, radii, the matrix of a polyhedron).
    - `step`, `allow_kinks`: see `ProximalGradient`.

    **Limits:** there is no derivative where the solution lies on the boundary of C and the force on it
    vanishes too (∇f has no component into C): NaN; see `ProximalGradient`. An optimistix or Optax
    minimiser reduces ½‖y − P(…)‖², not f, which knows nothing of C.

    **Reference:** Blondel et al., Efficient and Modular Implicit Differentiation, NeurIPS 2022.
    """

    fn: Callable
    projection: Callable
    step: Array | float = 1.0
    allow_kinks: bool = eqx.field(static=True, default=False)

    def forward(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return _tree.axpy(-self.step, _gradient(self.fn, "ProjectedGradient", y, args), y)

    def backward(self, v: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.projection(v, args)


def _log(y: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(jnp.log, y)


def _softmax(v: PyTree[Array], args: Any) -> PyTree[Array]:
    return jtu.tree_map(jax.nn.softmax, v)


class MirrorDescent(AbstractSplitting):
    """min over y in C(θ) of f(y, θ) in the geometry of a convex φ, as the fixed point

        y = P(∇φ(y) − η ∇f(y, θ), θ),   P(v, θ) = argmin over u in C(θ) of φ(u) − ⟨v, u⟩.

    By default φ(y) = Σ yᵢ log yᵢ on the probability simplex (one for the last axis of every leaf): ∇φ is
    the logarithm, up to a constant, and P the softmax. With ∇φ(y) = y it is `ProjectedGradient`.

    **Arguments:**

    - `fn`: (y, args) ↦ the scalar f.
    - `projection`: (v, args) ↦ P, the Bregman projection from the dual space.
    - `mirror`: y ↦ ∇φ(y).
    - `step`: η > 0 (unit of φ over unit of f).
    - `allow_kinks`: see `ProximalGradient`.

    **Limits:** ∇φ has to be finite at the solution. On the simplex entries that vanish are approached
    as small positive numbers; where they have underflowed to 0 the derivative is NaN. Newton's method
    may leave the simplex on the way to such a solution, and then fails; iterate the fixed point.

    **Reference:** Beck & Teboulle, Operations Research Letters 31, 2003; Blondel et al., NeurIPS 2022.
    """

    fn: Callable
    projection: Callable = _softmax
    mirror: Callable = _log
    step: Array | float = 1.0
    allow_kinks: bool = eqx.field(static=True, default=False)

    def forward(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        gradient = _gradient(self.fn, "MirrorDescent", y, args)
        return _tree.axpy(-self.step, gradient, self.mirror(y))

    def backward(self, v: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self.projection(v, args)


class BlockProximal(AbstractSplitting):
    """`ProximalGradient` for min f(y, θ) + Σⱼ gⱼ(yⱼ, θ) over blocks of y, with a proximal map and a step
    for each:

        yⱼ = proxⱼ(yⱼ − ηⱼ [∇f(y, θ)]ⱼ, ηⱼ, θ).

    Block coordinate descent, in any order, has these fixed points.

    **Arguments:**

    - `fn`: (y, args) ↦ the scalar f.
    - `proxes`: a pytree of callables (vⱼ, ηⱼ, args) ↦ proxⱼ; a block yⱼ is what y has in its place: a
      leaf or a subtree.
    - `steps`: the ηⱼ > 0: one number, or a pytree of numbers of the structure of `proxes`.
    - `allow_kinks`: see `ProximalGradient`.

    **Raises:** `ValueError` if y does not have the structure of `proxes`, or `steps` not.

    **Limits:** those of `ProximalGradient`. `fixed_point` moves all blocks at once, so the steps with
    which its iteration converges are smaller than those of a method that moves one after another.

    **Reference:** Tseng, J. Optimization Theory and Applications 109, 2001; Blondel et al., NeurIPS 2022.
    """

    fn: Callable
    proxes: PyTree
    steps: PyTree = 1.0
    allow_kinks: bool = eqx.field(static=True, default=False)

    def _blocks(self, tree: PyTree, name: str) -> list:
        """The parts of the tree in the places of the proximal maps."""
        structure = jtu.tree_structure(self.proxes, is_leaf=callable)
        try:
            return structure.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(
                f"`{name}` of BlockProximal has the structure {jtu.tree_structure(tree)}, which does not "
                f"begin like that of `proxes`, {structure}; expected a block in the place of each."
            ) from error

    def _steps(self) -> list:
        if len(jtu.tree_leaves(self.steps)) == 1:
            return jtu.tree_leaves(self.steps) * len(self._blocks(self.proxes, "proxes"))
        return self._blocks(self.steps, "steps")

    def _joined(self, blocks: list) -> PyTree:
        return jtu.tree_unflatten(jtu.tree_structure(self.proxes, is_leaf=callable), blocks)

    def forward(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        gradient = _gradient(self.fn, "BlockProximal", y, args)
        blocks = zip(self._steps(), self._blocks(gradient, "y"), self._blocks(y, "y"), strict=True)
        return self._joined([_tree.axpy(-step, g, x) for step, g, x in blocks])

    def backward(self, v: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        proxes = self._blocks(self.proxes, "proxes")
        blocks = zip(proxes, self._blocks(v, "y"), self._steps(), strict=True)
        return self._joined([prox(x, step, args) for prox, x, step in blocks])


def _gradient(fn: Callable, owner: str, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
    return jax.grad(lambda y: check_scalar(fn(y, args), owner, "fn"))(y)
