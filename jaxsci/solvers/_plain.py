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

    @property
    def uses_closed_forms(self) -> bool:
        """Whether what a residual knows in closed form is of use, in place of the residual itself."""
        return True

    @abc.abstractmethod
    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""

    def refresh(self, fn, y, args, options, state):
        """The state at the same y after the problem has changed; what can be kept of it is kept."""
        return self.init(fn, y, args, options, None, None, frozenset())  # pyright: ignore

    def figures(self, state) -> dict[str, Array]:
        """What is worth a line in a log: the objective as `loss`, and the method's own figures."""
        return {}

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
