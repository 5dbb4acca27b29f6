"""du/dθ of a trained network, without training again."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike

from .. import _tree
from .._adjoint import ImplicitAdjoint
from .._adjoint_interface import AbstractAdjoint
from .._residual import AbstractResidual
from ..linear import CG, Cholesky, Nystrom, Operator
from ._model import AbstractPINN, Choose, Inputs
from ._terms import Objective
from ._unknown import network_of, precision, split

_DENSE = 5000


class _Minimum(AbstractResidual):
    """Jᵀr + μ (w − w*) = 0 at w = w*, for the rows r of a trained network.

    What training has left of Jᵀr is taken off: it belongs to no θ.
    """

    loss: Objective
    inputs: dict[str, Inputs]
    weights: dict[str, Array]
    shift: Array
    trained: Any
    left: Any

    @property
    def tags(self):
        return frozenset({lx.positive_semidefinite_tag})

    def _rows(self, unknown):
        return self.loss.rows(unknown, self.inputs, self.weights)

    def __call__(self, y, args):
        return self._rows(y)

    def optimality(self, y, args):
        r, pull = jax.vjp(self._rows, y)
        towards = lambda g, w, w0, g0: g + self.shift.astype(w.dtype) * (w - w0) - g0
        return jax.tree.map(towards, pull(r)[0], y, self.trained, self.left)

    def jacobian(self, y, args):
        _, pull = jax.vjp(self._rows, y)

        def mv(v):
            _, jv = jax.jvp(self._rows, (y,), (v,))
            return _tree.axpy(self.shift, v, pull(jv)[0])

        def dense():
            _, j = self.loss.linearized(y, self.inputs, self.weights)
            gram = jnp.matmul(j.T, j, precision=jax.lax.Precision.HIGHEST)
            return gram + self.shift * jnp.eye(len(gram), dtype=gram.dtype)

        return Operator(mv, y, dense, self.tags)


def attach(
    model: AbstractPINN,
    points: dict[str, Inputs],
    *,
    unknown: Choose = network_of,
    weights: Mapping[str, ArrayLike] | None = None,
    damping: float | None = None,
    adjoint: AbstractAdjoint | None = None,
) -> AbstractPINN:
    """A trained PINN as a function of everything in it that is not trained: the coefficients of its equation,
    measured data, values of conditions. ::

        solution = pinn.fit(model, key=key)

        def u(viscosity):
            changed = solution.model.with_equation(pde.Burgers(viscosity))
            return pinn.attach(changed, solution.points)(point)[0]

        jax.grad(u)(0.01)

    Training minimises ½‖r(w, θ)‖² over w; so dw/dθ = −(JᵀJ + μ)⁻¹ ∂(Jᵀr)/∂θ by the implicit rule with the
    Gauss–Newton matrix, J = ∂r/∂w. It has directions that r hardly depends on; μ leaves w where it is along
    those. The value is that of the model, unchanged.

    **Arguments:**

    - `model`: trained; in it, whatever derivatives are wanted for may be traced.
    - `points`: those of the rows: `Trained.points`.
    - `unknown`: what was trained, as in [`jaxsci.pinn.fit`][].
    - `weights`: w of the terms of the loss by name, where it is not one.
    - `damping`: μ/‖J‖², ‖J‖ the largest norm of a column (dimensionless). None: 1e-10 in float64, 1e-5 in
      float32.
    - `adjoint`: None: `jaxsci.ImplicitAdjoint`, by a Cholesky factor up to 5000 unknowns, by CG with
      a randomised preconditioner above.

    **Returns:** the model, whose unknowns carry derivatives.

    **Limits:** the error of du/dθ is about that of a network of this size and these points for the linearised
    equation, and grows with the residual that training has left.
    """
    if not isinstance(model, AbstractPINN):
        raise TypeError(f"`model` is {model!r}; expected a jaxsci.pinn.PINN.")
    terms = model.terms()
    if missing := sorted({t.name for t in terms} - set(points)):
        raise ValueError(f"`points` has no {missing}; expected those of `Trained.points`.")
    w, rest = split(model, unknown)
    if damping is None:
        damping = 1e-10 if precision(w) == jnp.float64 else 1e-5
    if not damping > 0:
        raise ValueError(f"`damping` is {damping!r}; expected a positive number, such as 1e-10.")
    w = _tree.stop_gradient(w)
    points = {t.name: t.current(points[t.name]) for t in terms}
    objective = Objective(terms, model, points, rest)
    still = _tree.stop_gradient(objective)
    names = objective.names
    given = {} if weights is None else dict(weights)
    if wrong := sorted(set(given) - set(names)):
        raise ValueError(f"`weights` names {wrong}; expected some of {names}.")
    each = {name: jnp.asarray(given.get(name, 1.0)) for name in names}
    problem = _Minimum(still, _tree.stop_gradient(points), each, jnp.zeros(()), w, _tree.scaled(0.0, w))
    r, pull = jax.vjp(problem._rows, w)
    size = _tree.size(w)
    if size <= _DENSE:
        columns = jnp.max(jnp.sum(still.linearized(w, problem.inputs, each)[1] ** 2, axis=0))
    else:
        signs = jax.random.rademacher(jax.random.key(0), r.shape, r.dtype)
        columns = _tree.dot(pull(signs)[0], pull(signs)[0]) / size
    shift = jax.lax.stop_gradient(damping * columns)
    if adjoint is None:
        solver = Cholesky(check=1e-3) if size <= _DENSE else CG(rtol=1e-6, preconditioner=Nystrom(300, shift))
        adjoint = ImplicitAdjoint(solver)
    problem = _Minimum(objective, points, each, shift, w, _tree.stop_gradient(pull(r)[0]))
    return eqx.combine(adjoint.attach(problem, w, None), rest)
