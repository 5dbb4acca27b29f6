"""Does an operator have the structure that a solver relies on? An eager check, for debugging."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .. import _tree
from ._operator import Operator, transposed
from ._solver import AbstractLinearSolver

SHOWN = 5
"""Entries, rows or blocks that a message names at most."""

EXAMINED = 1024
"""Up to this size all eigenvalues are computed; above it a sign is looked for with random vectors."""


def verify(solver: AbstractLinearSolver, operator: Operator, *, seed: int = 0) -> None:
    """Raise if the operator has not the structure that the solver relies on.

    For debugging: it runs eagerly, on values, and costs more than a solve. A random vector v shows the rows
    in which A v is not what the declared structure gives; one product with Aᵀ for each of them then names
    the entries.

    **Arguments:**

    - `solver`: with a check of its own (`Banded`, `BlockDiagonal`, `BlockTridiagonal`, `Bordered`,
      `Kronecker`, `Spectral`, `Cholesky`, `CG`, `MINRES`); of others nothing is known, and nothing raised.
    - `operator`: A, with values (no tracers).
    - `seed`: of the random vectors.

    **Raises:** `ValueError` with every fault found: an entry outside of the band or of the block pattern
    (row, column, value), an operator that is no such Kronecker sum or convolution, one that is not symmetric
    or not positive definite, singular blocks by index. `TypeError` if `solver` or `operator` is none.

    **Limits:** above 1024 unknowns a few negative eigenvalues can escape.
    """
    if not isinstance(solver, AbstractLinearSolver):
        raise TypeError(f"`solver` is {solver!r}; expected a solver of jaxsci.linear.")
    if not isinstance(operator, Operator):
        raise TypeError(f"`operator` is {operator!r}; expected a jaxsci.linear.Operator.")
    found = solver.faults(operator, seed)
    if len(found) > 0:
        name = type(solver).__name__
        raise ValueError(f"`operator` is not what {name} relies on:\n  " + "\n  ".join(found))


def random_vectors(operator: Operator, seed: int, count: int = 1) -> np.ndarray:
    """Standard normal vectors, complex if the unknown is."""
    dtype = jnp.result_type(*jax.tree.leaves(operator.like))
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(count, operator.size))
    if jnp.issubdtype(dtype, jnp.complexfloating):
        v = v + 1j * rng.normal(size=v.shape)
    return v.astype(dtype)


def raw(operator: Operator, transpose: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """v ↦ A v or Aᵀ v on the raveled unknown, whatever the tags promise."""

    def mv(v):
        return _tree.ravel(operator.mv(_tree.unravel(v, operator.like)))

    chosen = transposed(mv) if transpose else mv
    return lambda v: np.asarray(chosen(jnp.asarray(v)))


def _noise(operator: Operator, size: float) -> float:
    dtype = jnp.result_type(*jax.tree.leaves(operator.like))
    return 100 * float(jnp.finfo(dtype).eps) * operator.size**0.5 * size


def pattern_faults(
    operator: Operator, seed: int, declared: Callable, allowed: Callable, pattern: str
) -> tuple[str, ...]:
    """The entries outside of a pattern.

    **Arguments:** `declared`: v ↦ A v by the entries that the solver has found; `allowed`: (row, columns) ↦
    which of them are in the pattern; `pattern`: its name.
    """
    (v,) = random_vectors(operator, seed)
    got = raw(operator)(v)
    error = np.abs(got - np.asarray(declared(jnp.asarray(v))))
    rows = np.flatnonzero(error > _noise(operator, np.max(np.abs(got), initial=0)))
    back, columns, found = raw(operator, True), np.arange(operator.size), []
    for row in rows[np.argsort(-error[rows], kind="stable")][:SHOWN]:
        entries = back(np.eye(1, operator.size, row, dtype=v.dtype)[0])
        outside = np.flatnonzero(~allowed(row, columns) & (entries != 0))
        found += [f"A[{row}, {j}] = {entries[j]:.6g} is outside of {pattern}." for j in outside[:SHOWN]]
        if len(outside) == 0:
            found.append(f"Row {row} of A v is not linear in v: it differs by {error[row]:.3g}.")
    if len(rows) > SHOWN:
        found.append(f"{len(rows)} rows in all have such entries.")
    return tuple(found)


def product_faults(operator: Operator, seed: int, declared: Callable, what: str) -> tuple[str, ...]:
    """Whether A v is what the solver says it is."""
    (v,) = random_vectors(operator, seed)
    got = raw(operator)(v)
    error = np.linalg.norm(got - np.asarray(declared(jnp.asarray(v)))) / max(np.linalg.norm(got), 1e-300)
    if error <= _noise(operator, 1.0):
        return ()
    return (f"A is not {what}: for a random v the products differ by {error:.3g} ‖A v‖.",)


def symmetry_faults(operator: Operator, seed: int, positive: bool) -> tuple[str, ...]:
    """‖A v − Aᴴ v‖ for random v, and the smallest eigenvalue found."""
    mv, back, found = raw(operator), raw(operator, True), []
    pairs = [(v, mv(v), back(v.conj()).conj()) for v in random_vectors(operator, seed, 3)]
    worst = max(np.linalg.norm(a - h) / max(np.linalg.norm(a), 1e-300) for _, a, h in pairs)
    if worst > _noise(operator, 1.0):
        found.append(
            f"A is not symmetric: ‖A v − Aᴴ v‖ = {worst:.3g} ‖A v‖ for a random v. "
            "Use jaxsci.linear.GMRES or LU."
        )
    elif positive:
        if operator.size <= EXAMINED:
            smallest = float(np.linalg.eigvalsh(np.asarray(operator.matrix()))[0])
        else:
            smallest = float(min(np.vdot(v, a).real / np.vdot(v, v).real for v, a, _ in pairs))
        if smallest <= 0:
            found.append(
                f"A is not positive definite: it has an eigenvalue of {smallest:.3g} or below. "
                "Use jaxsci.linear.MINRES or LU."
            )
    return tuple(found)


def listed(indices) -> str:
    """The first indices, and how many there are."""
    shown = ", ".join(str(i) for i in indices[: 2 * SHOWN])
    return shown if len(indices) <= 2 * SHOWN else f"{shown}, … ({len(indices)} in all)"
