"""Conic programs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float

from .. import _tree
from .._residual import AbstractResidual
from ._complementarity import check_tolerance, limit, without_derivative
from ._cones import AbstractCone

Data = tuple[Float[Array, "m n"], Float[Array, " m"], Float[Array, " n"]]
Pair = tuple[Float[Array, " n"], Float[Array, " m"]]


class ConicProgram(AbstractResidual):
    """min over x of cᵀx subject to A x + s = b, s ∈ K, and its dual max −bᵀy subject to Aᵀy + c = 0, y ∈ K*.

    K is a product of cones. The unknown is z = (x, v) with v = y − s, from which y and s are recovered
    as the projections y = Π(v) onto K* and s = Π(v) − v, orthogonal by Moreau's theorem. The residual map
    ((Q − I)Π + I)(x, v, 1) of the homogeneous self-dual embedding, at scale w = 1 where it is regular, is

        F(z, θ) = (c + Aᵀ Π(v),  b − A x − Π(v) + v) = 0;

    its last row, the duality gap cᵀx + bᵀy = 0, follows from these.

    θ = (A, b, c) are the `args` of the solve, of shapes (m, n), (m,), (n,), and all are differentiated.
    Newton's method converges from the guess of `start`. A fixed-point solver iterates the Douglas–Rachford
    splitting z ← z − (I + M)⁻¹ F(z), M = [[0, Aᵀ], [−A, 0]], which converges from anywhere if there is a
    solution, at a linear rate.

    **Arguments:**

    - `cones`: the factors of K, in the order of the rows of A: `jaxsci.residuals.ZeroCone(n)`,
      `.NonnegativeCone(n)`, `.SecondOrderCone(n)`, `.SemidefiniteCone(k)`, or cones of one's own.
    - `biactive_tol`: where v is at most this (unit of y and s), or ten times the residual at the given
      point, from a kink of Π (y and s both vanish, in a row of a linear inequality), the solution has no
      derivative that could be known. None: the square root of the precision.
    - `allow_kinks`: where that happens, the derivative of the whole solution is NaN; if True, it is
      what automatic differentiation makes of Π.

    **Raises:** `ValueError` if the shapes of A, b, c and the cones do not agree.

    **Limits:** the derivative exists where x and y are unique and strictly complementary. Infeasible and
    unbounded programs have no z with F = 0: a solver fails, and says so. A is a dense array.

    **Reference:** Busseti, Moursi & Boyd, Solution refinement at regular points of conic problems,
    Computational Optimization and Applications 74, 2019; Agrawal et al., Differentiating through a cone
    program, J. Applied and Numerical Optimization 1, 2019.
    """

    cones: tuple[AbstractCone, ...]
    biactive_tol: float | None = eqx.field(static=True)
    allow_kinks: bool = eqx.field(static=True)

    def __init__(
        self,
        cones: AbstractCone | tuple[AbstractCone, ...],
        *,
        biactive_tol: float | None = None,
        allow_kinks: bool = False,
    ):
        check_tolerance(biactive_tol)
        self.cones = (cones,) if isinstance(cones, AbstractCone) else tuple(cones)
        self.biactive_tol = biactive_tol
        self.allow_kinks = allow_kinks

    def _data(self, args: Data) -> Data:
        a, b, c = args
        m = sum(cone.size for cone in self.cones)
        shapes = tuple(map(jnp.shape, (a, b, c)))
        if shapes != ((m, *shapes[2]), (m,), shapes[2]) or len(shapes[2]) != 1:
            raise ValueError(
                f"`args` of ConicProgram holds A, b, c of shapes {shapes}; expected (m, n), (m,), (n,) with "
                f"m = {m}, the number of rows of the cones {tuple(c.size for c in self.cones)}."
            )
        return jnp.asarray(a), jnp.asarray(b), jnp.asarray(c)

    def _project(self, v: Float[Array, " m"]) -> Float[Array, " m"]:
        """Π(v)."""
        return jnp.concatenate([cone.dual_projection(x) for cone, x in self._parts(v)])

    def _parts(self, v):
        start = 0
        for cone in self.cones:
            yield cone, v[start : start + cone.size]
            start += cone.size

    def __call__(self, z: Pair, args: Data) -> Pair:
        a, b, c = self._data(args)
        x, v = z
        y = self._project(v)
        return c + _times(a.T, y), b - _times(a, x) - y + v

    def root(self, z: Pair, args: Data) -> Pair:
        return self(z, args)

    def optimality(self, z: Pair, args: Data) -> Pair:
        rows = self(z, args)
        if self.allow_kinks:
            return rows
        gap = jnp.concatenate([cone.to_kink(jax.lax.stop_gradient(x)) for cone, x in self._parts(z[1])])
        kinks = gap <= limit(self.biactive_tol, z, rows)
        return rows[0], without_derivative(rows[1], kinks)

    def fixed_point(self, z: Pair, args: Data) -> Pair:
        return _advance(self, z, args, _factor(self._data(args)[0]))

    def start(self, args: Data, *, steps: int = 200) -> Pair:
        """A guess near the solution: `steps` of the splitting from zero. Not differentiated."""
        args = jax.lax.stop_gradient(self._data(args))
        a, b, c = args
        factor = _factor(a)
        zero = _tree.vary_like((jnp.zeros_like(c), jnp.zeros_like(b)), args)
        return _tree.fori_loop(steps, lambda _, z: _advance(self, z, args, factor), zero)

    def split(self, z: Pair) -> tuple[Array, Array, Array]:
        """The primal solution x, the dual solution y and the slacks s of an unknown z."""
        x, v = z
        y = self._project(v)
        return x, y, y - v

    def from_solution(self, x: Array, y: Array, s: Array) -> Pair:
        """The unknown z of a solution found elsewhere, to be given to `jaxsci.attach`."""
        return jnp.asarray(x), jnp.asarray(y) - jnp.asarray(s)


def _times(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _factor(a: Array) -> Array:
    """The Cholesky factor of I + AᵀA."""
    return jnp.linalg.cholesky(jnp.eye(a.shape[1], dtype=a.dtype) + _times(a.T, a))


def _advance(program: ConicProgram, z: Pair, args: Data, factor: Array) -> Pair:
    """z − (I + M)⁻¹ F(z): from p + Aᵀq = f, q − A p = g follows (I + AᵀA) p = f − Aᵀg."""
    a = jnp.asarray(args[0])
    f, g = program(z, args)
    p = jsl.cho_solve((factor, True), f - _times(a.T, g))
    return z[0] - p, z[1] - g - _times(a, p)
