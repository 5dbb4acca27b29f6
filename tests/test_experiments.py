"""The problems of the experiments' benchmarks, at sizes that take no time."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import dictionary, distillation, molecules


def test_packed_disks():
    """Forces, minimum, and the rule on a singular Hessian: against a translation and each rattler."""
    sizes = molecules.TINY
    side = molecules.side_of(sizes.disks)
    args = (molecules.DIAMETER, side)

    @jax.jit
    def figures(x0):
        rough = molecules.forces(x0, args) + jax.grad(molecules.energy)(x0, args)
        x = molecules.relax(x0, args, (1e-12,), sizes.max_steps)[0][0]
        disks = molecules.held(x, args)
        h = molecules.STEP
        at = lambda theta, x: molecules.relax(x, (theta, side), (1e-13,), sizes.max_steps)[0][0]
        again = jax.lax.map(lambda s: at(molecules.DIAMETER + s, x), jnp.array([h, -h]))
        found = molecules.sensitivity(x, side)
        difference = (again[0] - again[1]) / (2 * h)
        gap = molecules.determined(found - difference, disks)
        return jnp.max(jnp.abs(rough)), jnp.sum(disks), jnp.max(jnp.abs(gap)), jnp.max(jnp.abs(found))

    rough, disks, gap, size = figures(molecules.starts(sizes)[0])
    assert rough < 1e-12 and disks > 8
    assert gap < 1e-5 and size > 0.1


def test_dictionary():
    """Traced, as below; and what is done around it."""
    sizes = dictionary.TINY
    data = jax.eval_shape(lambda: dictionary.drawn(sizes))
    areas = jax.eval_shape(lambda data: dictionary.one_split(data, data, data, sizes), data)
    assert set(areas) == set(dictionary.PAPER)
    parts = dictionary.split(jnp.array([0, 1] * 25), 0)
    assert sorted(np.concatenate(parts)) == list(range(50)) and [len(p) for p in parts] == [30, 10, 10]
    scores, label = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0.0, 0.0, 1.0, 1.0])
    assert dictionary.area(scores, label) == 0.75


def test_distillation():
    """Traced only: such solves and their derivatives are compiled in other tests."""
    real = distillation.Images(jnp.zeros((20, 4)), jnp.zeros(20, int))
    sizes = distillation.TINY
    for name in ("implicit", "unrolled", "implicit, Newton"):
        find = distillation.methods(sizes)[name]
        x, losses = jax.eval_shape(
            lambda x, f=find: distillation.distilled(f, x, real, sizes), jnp.zeros((10, 4))
        )
        assert x.shape == (10, 4) and losses.shape == (sizes.steps,)
