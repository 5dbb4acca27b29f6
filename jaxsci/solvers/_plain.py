"""What the solvers of this package have in common."""

import abc

import equinox as eqx
import jax
import optimistix as optx
from jaxtyping import Array, Bool

from .._solution import RESULTS


class AbstractPlainSolver(eqx.Module):
    """Plain JAX without callbacks, for the loop of `jaxsci.solve`, also inside `jax.shard_map`; and, with
    `terminate`, a solver of optimistix."""

    @abc.abstractmethod
    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""

    def terminate(self, fn, y, args, options, state, tags):
        done, result = self.status(state)
        ok = ~done | (result == RESULTS.successful)
        return done, optx.RESULTS.where(ok, optx.RESULTS.successful, optx.RESULTS.nonlinear_divergence)


def check_tolerances(rtol: float, atol: float) -> None:
    """Refuse tolerances with which no solver can stop properly."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (isinstance(value, jax.Array | float | int)) or (
            not isinstance(value, jax.core.Tracer) and not (0 <= value < float("inf"))
        ):
            raise ValueError(f"`{name}` is {value!r}; expected a finite number ≥ 0, such as 1e-8.")
    traced = isinstance(rtol, jax.core.Tracer) or isinstance(atol, jax.core.Tracer)
    if not traced and rtol == 0 and atol == 0:
        raise ValueError("`rtol` and `atol` are both 0; expected one of them positive, such as 1e-8.")
