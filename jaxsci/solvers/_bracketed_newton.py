"""Newton's method for one scalar that stays in a bracket."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, ArrayLike, Bool, Float

from .._solution import RESULTS
from ._plain import AbstractPlainSolver, check_tolerances


class _State(eqx.Module):
    lower: Float[Array, ""]  # F has the sign of `rising` at `upper`, the other one at `lower`
    upper: Float[Array, ""]
    rising: Bool[Array, ""]
    value: Float[Array, ""]
    slope: Float[Array, ""]
    move: Float[Array, ""]  # the last step's length
    enclosed: Bool[Array, ""]
    settled: Bool[Array, ""]


class BracketedNewton(AbstractPlainSolver, optx.AbstractRootFinder):
    """F(y) = 0 for one scalar y in [lower, upper], at whose ends F has different signs.

    A Newton step where it stays inside of the bracket and is at most half of the last step; the middle of the
    bracket elsewhere, which shrinks with every value. Quadratic near a simple root. Plain JAX without
    callbacks; under `vmap` every lane stops on its own. Also an `optimistix.AbstractRootFinder`. ::

        jsci.solve(
            jsci.Root(lambda y, args: y**3 - args),
            solvers.BracketedNewton(0.0, 2.0),
            y0=jnp.array(1.0),
            args=jnp.array(2.0),
        )

    **Arguments:**

    - `lower`, `upper`: the bracket [unit of y]; may be traced.
    - `rtol`, `atol`: relative (dimensionless) and absolute (unit of y) tolerance of the step.

    **Raises:** `ValueError` for tolerances out of range and for an unknown that is no scalar. A bracket at
    whose ends F has one sign ends with `RESULTS.stagnated`.

    **Limits:** of several roots in the bracket, one.

    **Reference:** Press et al., Numerical Recipes, 3rd ed., Cambridge 2007, §9.4.
    """

    lower: Float[ArrayLike, ""]
    upper: Float[ArrayLike, ""]
    rtol: float
    atol: float
    norm = staticmethod(optx.rms_norm)

    def __init__(
        self,
        lower: Float[ArrayLike, ""],
        upper: Float[ArrayLike, ""],
        *,
        rtol: float = 1e-12,
        atol: float = 1e-14,
    ):
        check_tolerances(rtol, atol)
        self.lower = lower
        self.upper = upper
        self.rtol = rtol
        self.atol = atol

    @property
    def uses_closed_forms(self):
        """It looks at one value."""
        return False

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        if jnp.shape(y) != ():
            raise ValueError(
                f"BracketedNewton is for one scalar; the unknown has shape {jnp.shape(y)}. Batch with "
                "`jax.vmap`, or use jaxsci.solvers.Newton for a system."
            )
        lower, upper = (jnp.asarray(x, y.dtype) for x in (self.lower, self.upper))
        f = lambda x: fn(x, args)[0]
        low, high = f(lower), f(upper)
        value, slope = _with_slope(f, y)
        rising = high > low
        inside = (y >= lower) & (y <= upper)
        return _State(
            lower,
            upper,
            rising,
            # A guess outside of the bracket: the first step goes to the middle.
            jnp.where(inside, value, jnp.inf),
            slope,
            upper - lower,
            (low == 0) | (high == 0) | ((low > 0) != (high > 0)),
            jnp.array(False),
        )

    def step(self, fn, y, args, options, state, tags):
        right = (state.value > 0) == state.rising  # the root is to the left
        known = jnp.isfinite(state.value)
        lower = jnp.where(known & ~right, y, state.lower)
        upper = jnp.where(known & right, y, state.upper)
        newton = y - state.value / state.slope
        good = (newton >= lower) & (newton <= upper) & (2 * jnp.abs(newton - y) <= jnp.abs(state.move))
        # `good` is False for NaN.
        new = jnp.where(good, newton, lower + 0.5 * (upper - lower))
        new = jnp.where(state.value == 0, y, new)
        move = new - y
        value, slope = _with_slope(lambda x: fn(x, args)[0], new)
        limit = self.atol + self.rtol * jnp.abs(new)
        # Two ulps: the middle of neighbors is one of them.
        limit = jnp.maximum(limit, 2 * jnp.finfo(new.dtype).eps * jnp.abs(new))
        settled = (jnp.abs(move) <= limit) & known | (value == 0)
        return new, _State(lower, upper, state.rising, value, slope, move, state.enclosed, settled), None

    def status(self, state) -> tuple[Bool[Array, ""], RESULTS]:
        """Whether to stop, and with which result."""
        lost = ~state.enclosed | jnp.isnan(state.value)
        reason = RESULTS.where(state.enclosed, RESULTS.nonfinite, RESULTS.stagnated)
        return state.settled | lost, RESULTS.where(lost, reason, RESULTS.successful)

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"linear_iterations": jnp.array(0)}


def _with_slope(f, y):
    return jax.jvp(f, (y,), (jnp.ones_like(y),))
