"""Collocation points that follow the residual: functions of JAX, for use inside a training step."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

Score = Callable[[Float[Array, "m d"]], Float[Array, " m"]]


class AbstractResampling(eqx.Module):
    """A rule that exchanges collocation points: `resampling(points, score, candidates, key)`.

    It can be traced (`jit`, `scan`), and shapes do not change. What the caller draws are the
    candidates: by `domain.interior(resampling.pool(n), sampler, key)` before the program, or inside
    of it by [`candidates_in_box`][].
    """

    @abc.abstractmethod
    def pool(self, n: int) -> int:
        """How many candidates it wants for n points."""

    @abc.abstractmethod
    def __call__(
        self, points: Float[Array, "n d"], score: Score, candidates: Float[Array, "m d"], key: PRNGKeyArray
    ) -> Float[Array, "n d"]:
        """New points.

        **Arguments:**

        - `points`: the present ones, in the units of the coordinates.
        - `score`: the size of the residual at each of some points, for example Σ|rᵢ|: a batch in, a
            batch out. Only its absolute value counts.
        - `candidates`: m ≥ n points of the domain, distributed uniformly.
        - `key`: a JAX key, not the one that drew the candidates.

        **Returns:** as many points as there were.

        **Raises:** `ValueError` for shapes that do not fit.
        """


class RAD(AbstractResampling):
    """Residual-based adaptive distribution: n candidates without replacement, with probability

    p ∝ |r|^power / mean(|r|^power) + offset.

    **Arguments:**

    - `power`: how strongly points gather where the residual is large; 0 is uniform.
    - `offset`: how much of a uniform distribution is mixed in; 0 is none.
    - `candidates`: how many candidates it wants for each point.

    **Reference:** C. Wu, M. Zhu, Q. Tan, Y. Kartha, L. Lu, CMAME 403 (2023) 115671.
    """

    power: ArrayLike = 1.0
    offset: ArrayLike = 1.0
    candidates: int = eqx.field(default=10, static=True)

    def __check_init__(self):
        for name in ("power", "offset"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"`{name}` of RAD is {value}; expected 0 or more.")
        if self.candidates < 1:
            raise ValueError(f"`candidates` of RAD is {self.candidates}; expected at least 1 for each point.")

    def pool(self, n):
        """n times `candidates`."""
        return n * self.candidates

    def __call__(self, points, score, candidates, key):
        _require_shapes(points, candidates)
        weight = jnp.abs(score(candidates)) ** self.power
        mean = jnp.mean(weight)
        # Where the residual is zero everywhere, every place is as good as another.
        p = weight / jnp.where(mean == 0, 1, mean) + self.offset
        p = jnp.where(mean == 0, jnp.ones_like(p), p)
        # The n largest of log p + Gumbel noise are n draws without replacement (Efraimidis, Spirakis 2006).
        noise = jax.random.gumbel(key, p.shape, p.dtype)
        _, chosen = jax.lax.top_k(jnp.log(p) + noise, points.shape[0])
        return candidates[chosen]


class R3(AbstractResampling):
    """Retain, resample, release: points above the mean residual stay, the others are drawn anew.

    Point i, if released, becomes candidate i; what the key says is not used. Points gather in
    regions of high residual over many calls, and are let go as soon as it falls there.

    **Reference:** A. Daw, J. Bu, S. Wang, P. Perdikaris, A. Karpatne, Mitigating propagation failures
    in physics-informed neural networks using retain-resample-release (R3) sampling, ICML 2023.
    """

    def pool(self, n):
        """n."""
        return n

    def __call__(self, points, score, candidates, key):
        _require_shapes(points, candidates)
        size = jnp.abs(score(points))
        return jnp.where((size > jnp.mean(size))[:, None], points, candidates[: points.shape[0]])


def candidates_in_box(bounds: Float[ArrayLike, "d 2"], m: int, key: PRNGKeyArray) -> Float[Array, "m d"]:
    """m independent, uniformly distributed points of a box; can be traced.

    **Arguments:**

    - `bounds`: the lower and the upper end of each coordinate, as `domain.bounds`.
    - `m`: how many.
    - `key`: a JAX key.

    **Returns:** points, in the units of the coordinates.

    **Raises:** `ValueError` if `bounds` is not of shape (d, 2).
    """
    bounds = jnp.asarray(bounds)
    bounds = bounds.astype(jnp.result_type(float, bounds))
    if bounds.ndim != 2 or bounds.shape[1] != 2:
        raise ValueError(f"`bounds` has the shape {bounds.shape}; expected (d, 2): low and high ends.")
    low, high = bounds[:, 0], bounds[:, 1]
    return jax.random.uniform(key, (m, len(low)), bounds.dtype, low, high)


def _require_shapes(points, candidates):
    n, m = jnp.shape(points), jnp.shape(candidates)
    if len(n) != 2 or len(m) != 2 or n[1] != m[1]:
        raise ValueError(f"`points` has the shape {n} and `candidates` {m}; expected (n, d) and (m, d).")
    if m[0] < n[0]:
        raise ValueError(
            f"`candidates` are {m[0]} for {n[0]} points; expected at least as many. "
            "Draw `resampling.pool(n)` of them."
        )
