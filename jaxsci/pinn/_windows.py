"""Networks of sub-domains, stacked; and their sum under windows."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def stack(make: Callable[[PRNGKeyArray], Any], count: int, key: PRNGKeyArray) -> Any:
    """`count` networks as one module, whose arrays have the networks on the leading axis."""
    if not callable(make):
        raise TypeError(
            f"`make` is {make!r}; expected a function of a key that makes one network, such as "
            "lambda key: nn.MLP(1, 1, width=8, depth=1, key=key)."
        )
    return eqx.filter_vmap(make)(jax.random.split(key, count))


def evaluate(networks: Any, local: Float[Array, "K features"]) -> Float[Array, "K fields"]:
    """Each network at its own point."""
    return eqx.filter_vmap(lambda network, z: jnp.atleast_1d(network(z)))(networks, local)


class Windowed(eqx.Module):
    """N(x) = Σₖ wₖ(x) Nₖ((x − cₖ)/sₖ): a network for each of several overlapping boxes.

    The `network` of a [`jaxsci.pinn.PINN`][], so that its conditions hold exactly and no interface needs a
    condition: u = L(x) + D(x) Σₖ wₖ Nₖ is as smooth as its windows. Where a solution has many scales, each
    network sees few of them. ::

        network = pinn.Windowed(lambda key: nn.MLP(1, 1, width=8, depth=1, key=key), (30,), key=key)
        model = pinn.PINN(equation, pde.Box({"x": (0.0, 1.0)}), conditions, network)

    [−1, 1]ᵈ, where a PINN's features are, is cut into equal boxes with centers cₖ. The window of a box is
    ŵ(z) = Πᵢ (1 − zᵢ²)⁴ in its local coordinates z = (x − cₖ)/sₖ, and zero outside of |zᵢ| < 1; half widths
    sₖ are `overlap` times those of the box. wₖ = ŵₖ/Σ ŵ: the windows sum to one and have three continuous
    derivatives.

    **Arguments:**

    - `make`: key ↦ a network Nₖ from local features to fields.
    - `counts`: boxes along each feature; 1 where it is not cut. A periodic coordinate is two features.
    - `overlap`: half width of a window over that of its box, > 1 (dimensionless); 2 reaches to the centers of
      the neighbors.
    - `key`: of the networks.

    `networks` is one module, its arrays with the K boxes on the leading axis (the last coordinate fastest):
    place this axis over devices with `jax.device_put`.

    **Raises:** `TypeError` or `ValueError` for arguments that are none of these.

    **Limits:** each point evaluates all K networks. The fourth derivative jumps where a window begins: not
    for equations of that order. NaN outside of the domain by more than the overlap.

    **Reference:** Moseley, Markham & Nissen-Meyer, Finite basis physics-informed neural networks, Adv.
    Comput. Math. 49 (2023) 62.
    """

    networks: Any
    counts: tuple[int, ...] = eqx.field(static=True)
    overlap: float = eqx.field(static=True)

    def __init__(
        self,
        make: Callable[[PRNGKeyArray], Any],
        counts: Sequence[int],
        *,
        overlap: float = 2.0,
        key: PRNGKeyArray,
    ):
        valid = isinstance(counts, Sequence) and len(counts) > 0
        if not valid or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
            raise ValueError(
                f"`counts` is {counts!r}; expected a number of boxes ≥ 1 for each feature, such as (30,)."
            )
        if not overlap > 1:
            raise ValueError(
                f"`overlap` is {overlap!r}; expected a number above 1, such as 2.0: windows that do not "
                "overlap do not sum to one between boxes."
            )
        self.counts = tuple(counts)
        self.overlap = float(overlap)
        self.networks = stack(make, math.prod(self.counts), key)

    def local(self, x: Float[Array, " d"]) -> Float[Array, "K d"]:
        """(x − cₖ)/sₖ in every box; features that are not cut are as they are."""
        if x.shape != (len(self.counts),):
            raise ValueError(
                f"A point has shape {x.shape}; expected ({len(self.counts)},), one number for each "
                "of `counts`."
            )
        centers = [(2 * np.arange(n) + 1) / n - 1 for n in self.counts]
        scales = np.array([self.overlap / n if n > 1 else 1.0 for n in self.counts])
        return (x - jnp.asarray([*itertools.product(*centers)], x.dtype)) / jnp.asarray(scales, x.dtype)

    def windows(self, x: Float[Array, " d"]) -> Float[Array, " K"]:
        """wₖ at one point: they sum to one."""
        cut = np.array([n > 1 for n in self.counts])
        bumps = jnp.maximum(1 - jnp.where(cut, self.local(x), 0) ** 2, 0) ** 4
        product = jnp.prod(bumps, axis=1)
        return product / jnp.sum(product)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " fields"]:
        return self.windows(x) @ evaluate(self.networks, self.local(x))
