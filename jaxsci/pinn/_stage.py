"""What one stage of training does."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx

from .. import pde
from ..solvers import GaussNewton
from ..solvers._plain import AbstractPlainSolver
from ..train._directions import AbstractDirection
from ..train._weights import AbstractWeights
from ..train._weights_points import ResidualAttention, SelfAdaptive
from ._pseudo_time import PseudoTime

_KINDS = (
    ("resample", pde.AbstractResampling, "pde.RAD()"),
    ("equation", pde.AbstractEquation, "pde.Burgers(0.01)"),
    ("weights", AbstractWeights, "jaxsci.train.GradientNorm()"),
    ("direction", AbstractDirection, "jaxsci.train.ConFIG()"),
    ("pseudo_time", PseudoTime, "PseudoTime()"),
)


class Stage(eqx.Module):
    """One method for a number of steps; `fit(stages=[…])` takes them in order. ::

        pinn.fit(model, [pinn.Stage(optax.adam(1e-3), 2000), pinn.Stage(GaussNewton(), 300)], key=key)

    **Arguments:**

    - `method`: a least-squares solver or a minimiser of `jaxsci.solvers` (`GaussNewton`,
      `SelfScaledBroyden`, …), or an optax optimizer (`jaxsci.train.soap(1e-3)`, …).
    - `steps`: at most so many.
    - `points`: points of the equation (and `boundary_points` of each soft condition); None: those of `fit`.
    - `resample`: a rule that exchanges points of the equation every `every` steps, such as `pde.RAD()`
      (`pde.RAD(power=0.0)`: new uniform ones). Quasi-Newton and Gauss–Newton methods keep their damping or
      Hessian.
    - `every`: steps between exchanges of points.
    - `batch`: for optax: points of the equation in a step, drawn from all of them; None: all.
    - `chunk`: so many points are evaluated together, so that the memory of a step does not grow with the
      points beyond; None: all of them.
    - `dtype`: precision of the stage, `jnp.float32` or `jnp.float64`; None: that of the model given to `fit`.
    - `equation`: another equation for this stage (a curriculum: easy coefficients first); None: that of the
      model given to `fit`. What is unknown is carried from stage to stage all the same.
    - `weights`: how the terms of the loss are balanced (`jaxsci.train.ResidualAttention`, `Causal`, …); None:
      all one. For optax they follow every step; for the others, every exchange of points.
    - `direction`: for optax: how the gradients of several terms are made one (`jaxsci.train.ConFIG`, …);
      None: their sum.
    - `pseudo_time`: for optax: [`jaxsci.pinn.PseudoTime`][], small moves in place of the equation at once.

    **Raises:** `TypeError` or `ValueError` for what a stage cannot do.
    """

    method: Any
    steps: int = eqx.field(static=True)
    points: int | None = eqx.field(static=True, default=None)
    boundary_points: int | None = eqx.field(static=True, default=None)
    resample: pde.AbstractResampling | None = None
    every: int = eqx.field(static=True, default=50)
    batch: int | None = eqx.field(static=True, default=None)
    chunk: int | None = eqx.field(static=True, default=None)
    dtype: Any = eqx.field(static=True, default=None)
    equation: pde.AbstractEquation | None = None
    weights: AbstractWeights | None = None
    direction: AbstractDirection | None = None
    pseudo_time: PseudoTime | None = None

    def __check_init__(self):
        if not isinstance(self.method, optax.GradientTransformation | AbstractPlainSolver):
            raise TypeError(
                f"`method` is {self.method!r}; expected an optax optimizer, or a least-squares solver or "
                "minimiser of jaxsci.solvers, such as GaussNewton()."
            )
        if isinstance(self.method, optx.AbstractRootFinder | optx.AbstractFixedPointSolver):
            raise TypeError(
                f"`method` is a {type(self.method).__name__}, which wants as many equations as unknowns; a "
                "network has not. Expected a least-squares solver or a minimiser."
            )
        for name in ("steps", "points", "boundary_points", "every", "batch", "chunk"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` of a Stage is {value!r}; expected an int ≥ 1.")
        alone = [n for n in ("batch", "direction", "pseudo_time") if getattr(self, n) is not None]
        if alone and not self.optax:
            raise ValueError(
                f"`{alone[0]}` is for optax optimizers; {type(self.method).__name__} needs the same problem, "
                "at all points, in each step."
            )
        for name, kind, such in _KINDS:
            value = getattr(self, name)
            if not (value is None or isinstance(value, kind)):
                raise TypeError(f"`{name}` of a Stage is {value!r}; expected one such as {such}, or None.")
        if isinstance(self.weights, ResidualAttention | SelfAdaptive) and (self.resample or self.batch):
            raise ValueError(
                f"`weights` is a {type(self.weights).__name__}, with a weight for each point, and "
                f"`{'resample' if self.resample else 'batch'}` exchanges the points. Leave one of them out."
            )
        if self.dtype is not None and jnp.dtype(self.dtype).kind != "f":
            raise ValueError(f"`dtype` is {self.dtype!r}; expected jnp.float32 or jnp.float64.")
        if self.dtype is not None and jax.dtypes.canonicalize_dtype(self.dtype) != jnp.dtype(self.dtype):
            raise ValueError(
                f"`dtype` is {jnp.dtype(self.dtype).name}, which JAX does not make by itself. Begin the "
                'program with `jax.config.update("jax_enable_x64", True)`.'
            )

    @property
    def optax(self) -> bool:
        """Whether the method is an optax optimizer."""
        return isinstance(self.method, optax.GradientTransformation)


def default_stages(domain: pde.AbstractDomain) -> tuple[Stage, ...]:
    """Gauss–Newton from the start, with points that follow the residual: fixed ones miss a front. A cloud of
    points has no others."""
    resample = pde.RAD() if domain.inside().finite is None else None
    return (Stage(GaussNewton(), 500, resample=resample, every=25),)
