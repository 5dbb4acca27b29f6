"""Arithmetic on pytrees of arrays, and loops that also run inside `jax.shard_map`."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree


def dot(a: PyTree[Array], b: PyTree[Array]) -> Array:
    """⟨a, b⟩ = Σ conj(aᵢ) bᵢ over every leaf."""

    def one(x, y):
        # Not `vdot`, whose flattening gathers an array that is sharded along two axes.
        x = jnp.conj(x) if jnp.iscomplexobj(x) else x
        return jnp.tensordot(x, y, jnp.ndim(x), precision=jax.lax.Precision.HIGHEST)

    terms = jtu.tree_leaves(jtu.tree_map(one, a, b))
    return functools.reduce(jnp.add, terms) if len(terms) > 0 else jnp.array(0.0)


def norm(tree: PyTree[Array]) -> Array:
    """‖tree‖₂ over every leaf."""
    square = dot(tree, tree)
    return jnp.sqrt(square.real if jnp.iscomplexobj(square) else square)


def max_abs(tree: PyTree[Array]) -> Array:
    """max |xᵢ| over every leaf; NaN if any entry is NaN."""
    leaves = [jnp.max(jnp.abs(x)) for x in jtu.tree_leaves(tree) if x.size > 0]
    return functools.reduce(jnp.maximum, leaves) if len(leaves) > 0 else jnp.array(0.0)


def axpy(scale: Array, x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    """y + scale · x, in the dtypes of y."""
    return jtu.tree_map(lambda u, v: (v + scale * u).astype(v.dtype), x, y)


def scaled(scale: Array, x: PyTree[Array]) -> PyTree[Array]:
    """scale · x, in the dtypes of x."""
    return jtu.tree_map(lambda u: (scale * u).astype(u.dtype), x)


def conj(tree: PyTree[Array]) -> PyTree[Array]:
    """The complex conjugate of every leaf."""
    return jtu.tree_map(jnp.conj, tree)


def where(condition: Array, a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    """a where the scalar condition holds, else b."""

    def one(u, v):
        # One equation where `jnp.where` makes a function with its own name of it.
        same = isinstance(u, jax.Array) and isinstance(v, jax.Array) and jnp.shape(condition) == ()
        same = same and u.shape == v.shape and u.dtype == v.dtype
        return jax.lax.select(condition, u, v) if same else jnp.where(condition, u, v)

    return jtu.tree_map(one, a, b)


def stop_gradient(tree: PyTree) -> PyTree:
    """Cut the derivative of every array leaf; other leaves pass through."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def ravel(tree: PyTree[Array]) -> Array:
    """All leaves as one vector."""
    leaves = [x if jnp.ndim(x) == 1 else jnp.ravel(x) for x in jtu.tree_leaves(tree)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)


def unravel(vector: Array, like: PyTree[Any]) -> PyTree[Array]:
    """The inverse of `ravel`, with shapes, dtypes and structure of `like`."""
    leaves, structure = jtu.tree_flatten(like)
    out, start = [], 0
    for leaf in leaves:
        out.append(vector[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jtu.tree_unflatten(structure, out)


def shaped_like(like: PyTree[Array], tree: PyTree[Array]) -> PyTree[Array]:
    """The same scalars in the same order, with the structure, shapes and dtypes of `like`."""
    wanted, structure = jtu.tree_flatten(like)
    leaves = jtu.tree_leaves(tree)
    if [x.shape for x in leaves] != [x.shape for x in wanted]:
        return unravel(ravel(leaves), like)
    cast = [x.astype(w.dtype) for x, w in zip(leaves, wanted, strict=True)]
    return jtu.tree_unflatten(structure, cast)


def size(tree: PyTree[Array]) -> int:
    """Number of scalars in all leaves."""
    return sum(x.size for x in jtu.tree_leaves(tree))


# --- inside shard_map ---------------------------------------------------------------------------
# There an array's type says over which mesh axes its value varies (`vma`), a loop's carry must keep
# its type, and constants made inside start without any axis. JAX asks the author of a loop to widen
# the first carry; `while_loop` below finds the widening by abstract evaluation.

_widen: Callable = (
    (lambda x, axes: jax.lax.pcast(x, axes, to="varying"))
    if "pcast" in vars(jax.lax)
    else (lambda x, axes: jax.lax.pvary(x, axes))
)


def in_manual_region() -> bool:
    """Whether this code is being traced inside `jax.shard_map` (where no host callback may be)."""
    return len(jax.sharding.get_abstract_mesh().manual_axes) > 0


def _axes(kind: Any) -> frozenset:
    """The mesh axes over which an array of this type varies."""
    manual = getattr(kind, "mat", None)  # JAX 0.10; `vma` before
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def vary_like(tree: PyTree[Array], *others: PyTree[Any]) -> PyTree[Array]:
    """Let every leaf vary over all mesh axes over which any leaf of the trees varies."""
    if not in_manual_region():
        return tree
    leaves = jtu.tree_leaves((tree, others))
    wanted = frozenset().union(*(_axes(jax.typeof(x)) for x in leaves if isinstance(x, jax.Array)))

    def widen(x):
        missing = tuple(wanted - _axes(jax.typeof(x)))
        return _widen(jnp.asarray(x), missing) if missing else x

    return jtu.tree_map(widen, tree)


def _widened(body: Callable, first: PyTree[Array]) -> PyTree[Array]:
    """The first carry, with the type of the body's result."""
    leaves, structure = jtu.tree_flatten(jtu.tree_map(jnp.asarray, first))
    if in_manual_region():
        flat = lambda *leaves: jtu.tree_leaves(body(jtu.tree_unflatten(structure, leaves)))
        missing: list[tuple] = [("unknown",)]
        while any(missing):
            after = jax.make_jaxpr(flat)(*leaves).out_avals
            axes = [(_axes(o), _axes(jax.typeof(x))) for x, o in zip(leaves, after, strict=True)]
            missing = [tuple(new - old) for new, old in axes]
            leaves = [_widen(x, m) if m else x for x, m in zip(leaves, missing, strict=True)]
    return jtu.tree_unflatten(structure, leaves)


def while_loop(condition: Callable, body: Callable, first: PyTree[Array]) -> PyTree[Array]:
    """`lax.while_loop` whose first carry is given the type of the body's result."""
    return jax.lax.while_loop(condition, body, _widened(body, first))


def fori_loop(count: int, body: Callable, first: PyTree[Array]) -> PyTree[Array]:
    """`lax.fori_loop` from 0 whose first carry is given the type of the body's result."""
    first = _widened(lambda carry: body(jnp.array(0), carry), first)
    return jax.lax.fori_loop(0, count, body, first)


def bounded_loop(
    condition: Callable, body: Callable, first: PyTree[Array], max_steps: int, checkpoints: int
) -> PyTree[Array]:
    """`while_loop` of at most `max_steps` steps, through which both modes differentiate.

    About `checkpoints` states are kept; those in between are computed again.
    """
    first = _widened(body, jtu.tree_map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), first))
    length = -(-max_steps // checkpoints)
    # Under vmap the batch goes on while any lane does, and stops with the last. Inside shard_map each
    # device stops on its own.
    any_lane = (lambda x: x) if in_manual_region() else eqxi.unvmap_any

    def advance(state, active):
        # A lane that is done makes the first step again, at a point where it has a derivative: at its
        # solution there may be none, and 0 · ∞ would be NaN.
        new = body(where(active, state, first))
        return jtu.tree_map(lambda n, s: jnp.where(active, n, s).astype(s.dtype), new, state)

    def step(carry, _):
        k, state = carry
        active = (k < max_steps) & condition(state)
        state = jax.lax.cond(any_lane(active), advance, lambda state, _: state, state, active)
        return (k + 1, state), None

    def segment(carry, _):
        k, _ = carry
        several = lambda carry: jax.lax.scan(step, carry, None, length)[0]
        active = (k < max_steps) & condition(carry[1])
        skip = lambda carry: (carry[0] + length, carry[1])
        return jax.lax.cond(any_lane(active), jax.checkpoint(several), skip, carry), None

    return jax.lax.scan(segment, (jnp.array(0), first), None, checkpoints)[0][1]
