"""Operators with constant coefficients on a regular grid, by fast transforms."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.fft as jsf
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _tree
from ._banded import raveled, refined, whole
from ._kronecker import _along
from ._operator import Operator
from ._solver import AbstractLinearSolver
from ._verify import listed, product_faults

DENSE = 128
"""Up to this length a product with the matrix of a transform is quicker than the transform."""


class AbstractTransform(eqx.Module):
    """The eigenvectors of the second difference along one axis, for one kind of end."""

    @abc.abstractmethod
    def forward(self, x: Array, axis: int) -> Array:
        """From values to coefficients."""

    @abc.abstractmethod
    def backward(self, x: Array, axis: int) -> Array:
        """From coefficients to values."""

    @abc.abstractmethod
    def angles(self, n: int) -> Float[Array, " n"]:
        """θₖ; the eigenvalues of 2uᵢ − uᵢ₋₁ − uᵢ₊₁ are 2 − 2 cos θₖ."""


class Fourier(AbstractTransform):
    """Periodic along the axis: exp(iθₖj), θₖ = 2πk/n, in the order of `jax.numpy.fft.fft`."""

    def forward(self, x, axis):
        return jnp.fft.fft(x, axis=axis)

    def backward(self, x, axis):
        return jnp.fft.ifft(x, axis=axis)

    def angles(self, n):
        return 2 * jnp.pi * jnp.arange(n) / n


class Sine(AbstractTransform):
    """Zero one cell before the first value and after the last (DST-I).

    sin(θₖ(j + 1)), θₖ = π(k + 1)/(n + 1).
    """

    def forward(self, x, axis):
        n = x.shape[axis]
        scale = (2 / (n + 1)) ** 0.5
        if n <= DENSE:
            product = jnp.arange(1, n + 1) * jnp.arange(1, n + 1)[:, None] % (2 * n + 2)
            return _along((scale * jnp.sin(jnp.pi * product / (n + 1))).astype(x.dtype), x, axis)
        # Σ xⱼ sin is i/2 times the discrete Fourier transform of 0, x, 0, −x reversed.
        zero = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
        odd = jnp.fft.fft(jnp.concatenate([zero, x, zero, -jnp.flip(x, axis)], axis), axis=axis)
        out = 0.5j * scale * jax.lax.slice_in_dim(odd, 1, n + 1, axis=axis)
        return (out if jnp.iscomplexobj(x) else out.real).astype(x.dtype)

    def backward(self, x, axis):
        return self.forward(x, axis)

    def angles(self, n):
        return jnp.pi * jnp.arange(1, n + 1) / (n + 1)


class Cosine(AbstractTransform):
    """Zero slope half a cell before the first value and after the last (DCT-II).

    cos(θₖ(j + ½)), θₖ = πk/n.
    """

    def _matrix(self, n: int, dtype) -> Array:
        angle = jnp.pi * (jnp.arange(n)[:, None] * (2 * jnp.arange(n) + 1) % (4 * n)) / (2 * n)
        scale = jnp.full((n, 1), (2 / n) ** 0.5).at[0].set((1 / n) ** 0.5)
        return (scale * jnp.cos(angle)).astype(dtype)

    def forward(self, x, axis):
        n = x.shape[axis]
        return (
            _along(self._matrix(n, x.dtype), x, axis) if n <= DENSE else jsf.dct(x, axis=axis, norm="ortho")
        )

    def backward(self, x, axis):
        n = x.shape[axis]
        if n <= DENSE:
            return _along(self._matrix(n, x.dtype).T, x, axis)
        return jsf.idct(x, axis=axis, norm="ortho")

    def angles(self, n):
        return jnp.pi * jnp.arange(n) / n


def laplacian_symbol(
    transforms: tuple[AbstractTransform, ...],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    shift: float | Array = 0.0,
) -> Array:
    """The eigenvalues of shift − Δₕ, the second differences on a regular grid, for `Spectral`.

    shift + Σₖ (2 − 2 cos θₖ)/hₖ² = shift + Σₖ (2 sin(θₖ/2)/hₖ)².

    **Arguments:** `transforms`: one for each axis; `shape`: values along each; `spacing`: h, a length;
    `shift`: in 1/length².

    **Returns:** an array of `shape`, in 1/length².

    **Raises:** `ValueError` if the three have not the same number of axes.
    """
    if not len(transforms) == len(shape) == len(spacing):
        raise ValueError(
            f"`transforms`, `shape` and `spacing` have {len(transforms)}, {len(shape)} and {len(spacing)} "
            "entries; expected one for each axis."
        )
    total = jnp.asarray(shift)
    for transform, n, h in zip(transforms, shape, spacing, strict=True):
        total = total[..., None] + (2 * jnp.sin(transform.angles(n) / 2) / h) ** 2
    return total


class Spectral(AbstractLinearSolver):
    """A = T⁻¹ diag(symbol) T with a fast transform T along every axis of a regular grid: O(n log n).

    Constant coefficients: every axis is periodic (`Fourier`), zero beyond its ends (`Sine`) or without slope
    there (`Cosine`). It is a linear map too, `spectral(r)` = A⁻¹ r (zero, and not NaN, where the symbol
    is): a preconditioner for variable coefficients, or for a nonlinear operator with this leading part.

    **Arguments:**

    - `transforms`: one for each axis of the unknown.
    - `symbol`: the eigenvalues of A, an array of the unknown's shape, in the units of A; those of
      shift − Δₕ are `laplacian_symbol(transforms, shape, spacing, shift)`.
    - `refinements`, `check`: see `jaxsci.linear.LU`.

    **Raises:** `ValueError` if the symbol has another number of axes, or A of unknowns.

    **Limits:** a symbol with a zero (−Δ with periodic or slope-free ends) is a singular A: as a solver it
    gives NaN, as a map the solution without that part. Lengths above 128 are transformed by FFT.

    **Reference:** Swarztrauber, SIAM Review 19 (1977) 490.
    """

    transforms: tuple[AbstractTransform, ...]
    symbol: Array
    refinements: int = eqx.field(static=True, default=1)
    check: float | None = None

    def __check_init__(self):
        whole("refinements", self.refinements)
        if len(self.transforms) != jnp.ndim(self.symbol):
            raise ValueError(
                f"`symbol` has shape {jnp.shape(self.symbol)}, `transforms` {len(self.transforms)} entries; "
                "expected one for each axis."
            )

    def _inverse(self, null: float) -> Array:
        zero = self.symbol == 0
        return jnp.where(zero, null, 1 / jnp.where(zero, 1, self.symbol))

    def _map(self, r: Array, factor: Array) -> Array:
        x = r.reshape(self.symbol.shape)
        for axis, transform in enumerate(self.transforms):
            x = transform.forward(x, axis)
        x = (factor * x).astype(x.dtype)
        for axis, transform in enumerate(self.transforms):
            x = transform.backward(x, axis)
        x = jnp.ravel(x)
        return (x if jnp.iscomplexobj(r) else x.real).astype(r.dtype)

    def __call__(self, r: PyTree[Array]) -> PyTree[Array]:
        """A⁻¹ r for a pytree of as many scalars as the symbol has; zero where the symbol is."""
        return _tree.unravel(self._map(_tree.ravel(r), self._inverse(0.0)), r)

    def prepare(self, operator: Operator):
        if operator.size != self.symbol.size:
            raise ValueError(
                f"`symbol` has shape {self.symbol.shape}, and the operator has {operator.size} unknowns; "
                f"expected {self.symbol.size}."
            )
        return None

    def apply(self, operator, prepared, b, transpose):
        solve = lambda r: self._map(r, self._inverse(jnp.nan))
        back = (lambda r: jax.linear_transpose(solve, r)(r)[0]) if transpose else solve
        v = _tree.vary_like(_tree.ravel(b), self.symbol)
        x = refined(back, raveled(operator, transpose), v, self.refinements)
        return _tree.unravel(x, b), jnp.array(0)

    def faults(self, operator, seed):
        self.prepare(operator)
        declared = lambda v: self._map(v, self.symbol)
        found = product_faults(operator, seed, declared, "the operator with this symbol and these ends")
        null = np.argwhere(np.asarray(self.symbol) == 0)
        if len(null) > 0:
            found += (f"A is singular: the symbol is zero at {listed(null.tolist())}.",)
        return found
