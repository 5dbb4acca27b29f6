"""Convex quadratic programs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .._residual import AbstractResidual
from ..linear import Operator
from ._complementarity import both_small, fischer_burmeister, limit, smaller


class QuadraticProgram(AbstractResidual):
    """min over x of ½ xᵀP x + qᵀx subject to A x = b, G x ≤ h, by its conditions

        P x + q + Aᵀν + Gᵀλ = 0,   A x = b,   0 ≤ λ ⟂ h − G x ≥ 0.

    The unknown is y = (x, ν, λ), three vectors of n, m and k entries; m or k may be 0. Differentiable in
    P, q, A, b, G and h, to any order. As `KKT` with the Jacobian in closed form, and the only problem
    that `solvers.InteriorPoint` takes.

    **Arguments:**

    - `P`: of shape (n, n), positive semidefinite; only its symmetric part counts. None: 0, a linear
      program.
    - `q`: of shape (n,). None: 0.
    - `A`, `b`: of shapes (m, n) and (m,), both or neither.
    - `G`, `h`: of shapes (k, n) and (k,), both or neither.
    - `biactive_tol`, `one_sided`: as in `jaxsci.KKT`.

    **Raises:** `ValueError` naming the argument whose shape does not fit.

    **Limits:** the derivative exists where x is unique, the rows of A and the active rows of G are
    independent, and every active row has λ > 0; elsewhere it is NaN.

    **Reference:** Amos & Kolter, OptNet: differentiable optimization as a layer in neural networks,
    ICML 2017.
    """

    P: Float[Array, "n n"]
    q: Float[Array, " n"]
    A: Float[Array, "m n"]
    b: Float[Array, " m"]
    G: Float[Array, "k n"]
    h: Float[Array, " k"]
    biactive_tol: float | None = eqx.field(static=True)
    one_sided: bool = eqx.field(static=True)

    def __init__(
        self,
        P: Array | None = None,
        q: Array | None = None,
        A: Array | None = None,
        b: Array | None = None,
        G: Array | None = None,
        h: Array | None = None,
        *,
        biactive_tol: float | None = None,
        one_sided: bool = False,
    ):
        if P is None and q is None:
            raise ValueError("`P` and `q` are both None; expected an objective.")
        for names, pair in (("`A` and `b`", (A, b)), ("`G` and `h`", (G, h))):
            if (pair[0] is None) != (pair[1] is None):
                raise ValueError(f"Of {names} one is None; expected both or neither.")
        given = {"P": P, "q": q, "A": A, "b": b, "G": G, "h": h}
        given = {name: jnp.asarray(x) for name, x in given.items() if x is not None}
        dtype = jnp.result_type(*given.values(), jnp.float32)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"The arrays of the program are of dtype {dtype}; expected real ones.")
        n = given["q"].size if q is not None else given["P"].shape[-1] if given["P"].ndim else 0
        sizes = {name: given[name].size if name in given else 0 for name in "bh"}
        shapes = {"P": (n, n), "q": (n,), "A": (sizes["b"], n), "G": (sizes["h"], n)}
        shapes |= {"b": (sizes["b"],), "h": (sizes["h"],)}
        for name, x in given.items():
            if x.shape != shapes[name]:
                raise ValueError(
                    f"`{name}` has shape {x.shape}; expected {shapes[name]} beside "
                    f"{ {other: x.shape for other, x in given.items() if other != name} }. A program is of "
                    "one sample: batch with jax.vmap."
                )
        filled = {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}
        filled |= {name: x.astype(dtype) for name, x in given.items()}
        self.P, self.q = filled["P"], filled["q"]
        self.A, self.b = filled["A"], filled["b"]
        self.G, self.h = filled["G"], filled["h"]
        self.biactive_tol = biactive_tol
        self.one_sided = one_sided

    @property
    def tags(self):
        return frozenset({lx.symmetric_tag}) if self.h.size == 0 else frozenset()

    @property
    def start(self) -> tuple[Array, Array, Array]:
        """(0, 0, 1): a first guess."""
        return jnp.zeros_like(self.q), jnp.zeros_like(self.b), jnp.ones_like(self.h)

    def quadratic_program(self, y: PyTree[Array], args: PyTree[Any]):
        return self.P, self.q, self.A, self.b, self.G, self.h

    def _conditions(self, y):
        x, nu, lam = y
        forces = _mv(self.A.T, nu) + _mv(self.G.T, lam)
        gradient = 0.5 * (_mv(self.P, x) + _mv(self.P.T, x)) + self.q + forces
        return gradient, _mv(self.A, x) - self.b, lam, self.h - _mv(self.G, x)

    def __call__(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        gradient, equality, lam, slack = self._conditions(y)
        return gradient, equality, fischer_burmeister(lam, slack)

    def root(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        return self(y, args)

    def _biactive(self, y):
        gradient, equality, lam, slack = self._conditions(y)
        zero = limit(self.biactive_tol, y, (gradient, equality, jnp.minimum(lam, slack)))
        return lam, slack, both_small(lam, slack, zero)

    def optimality(self, y: PyTree[Array], args: PyTree[Any]) -> PyTree[Array]:
        gradient, equality, lam, slack = self._conditions(y)
        _, _, biactive = self._biactive(y)
        return gradient, equality, smaller(lam, slack, biactive, self.one_sided)

    def jacobian(self, y: PyTree[Array], args: PyTree[Any]) -> Operator:
        lam, slack, biactive = self._biactive(y)
        active = jax.lax.stop_gradient(lam > slack) & ~biactive
        # Rows of min(λ, h − G x): the gradient of the smaller, or none.
        unknown = 1 if self.one_sided else jnp.where(biactive, jnp.nan, 1).astype(lam.dtype)

        def mv(v):
            dx, dnu, dlam = v
            forces = _mv(self.A.T, dnu) + _mv(self.G.T, dlam)
            gradient = 0.5 * (_mv(self.P, dx) + _mv(self.P.T, dx)) + forces
            return gradient, _mv(self.A, dx), unknown * jnp.where(active, -_mv(self.G, dx), dlam)

        def dense():
            m, k = self.b.size, self.h.size
            zeros = lambda i, j: jnp.zeros((i, j), self.q.dtype)
            rows = jnp.where(active, unknown, 0)[:, None] * -self.G
            corner = jnp.diag(jnp.where(active, 0, unknown).astype(self.q.dtype))
            symmetric = 0.5 * (self.P + self.P.T)
            top = [symmetric, self.A.T, self.G.T]
            return jnp.block([top, [self.A, zeros(m, m), zeros(m, k)], [rows, zeros(k, m), corner]])

        return Operator(mv, y, dense, self.tags)


def _mv(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)
