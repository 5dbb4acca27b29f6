"""Taylor mode: derivatives of many orders and directions in one pass over a program."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

# A table holds what is known of one intermediate value h(p): a key → an array. A key is a sorted tuple
# of directions (∂ᵅh, () for h itself), or LAPLACIAN followed by the directions it sums over. A key that is
# absent is zero.
LAPLACIAN = "laplacian"
Key = tuple
Table = dict[Key, Array]

# In every operand that is differentiated, jointly.
_LINEAR = {
    "add", "add_any", "sub", "neg", "reduce_sum", "reshape", "transpose", "squeeze", "slice", "rev",
    "broadcast_in_dim", "concatenate", "convert_element_type", "select_n", "dynamic_slice", "gather", "pad",
    "expand_dims", "cumsum", "copy", "copy_p", "real", "imag",
}  # fmt: skip
# In each of two operands.
_BILINEAR = {"mul", "dot_general"}
# Of one operand, element by element.
_ELEMENTWISE = {
    "tanh", "sin", "cos", "exp", "log", "logistic", "sqrt", "rsqrt", "integer_pow", "square", "erf", "erfc",
    "sinh", "cosh", "exp2", "log1p", "expm1", "tan", "asin", "acos", "atan", "asinh", "acosh", "atanh",
    "cbrt",
}  # fmt: skip
_INLINED = {"jit", "pjit", "closed_call", "core_call"}


def taylor(f: Callable[[Array], Any], keys: Iterable[Key]) -> Callable:
    """p ↦ [{key: derivative} for every leaf of f(p)], all keys in one pass.

    Every operation of f is applied once, to tables: a linear one to each entry; a bilinear one by
    Leibniz's rule; a function of single elements by Faà di Bruno's formula, its own derivatives
    shared by all directions; anything else by nested `jax.jvp` of that operation alone. The Laplacian
    is collapsed, Δ(g∘h) = g'[Δh] + Σᵢ g''[∂ᵢh, ∂ᵢh]: d + 2 products with a weight matrix, where second
    derivatives one by one take 2d + 1.

    **Arguments:**

    - `f`: a function of one point.
    - `keys`: sorted tuples of directions, or `(LAPLACIAN, *directions)`.

    **References:** Griewank & Walther, Evaluating Derivatives, ch. 13; Li et al., A computational
    framework for neural network-based variational Monte Carlo with Forward Laplacian, 2024; Dangel et
    al., Collapsing Taylor mode automatic differentiation, 2025.
    """
    keys = _closure(keys)

    def at(p):
        closed = jax.make_jaxpr(f)(p)
        # Made from p, so that inside `jax.shard_map` they vary as p does.
        unit = lambda direction: jnp.zeros_like(p).at[direction].set(1)
        table = {(): p, **{key: unit(key[0]) for key in keys if len(key) == 1}}
        return _run(closed.jaxpr, closed.consts, [table], keys)

    return at


def _is_laplacian(key: Key) -> bool:
    return key[:1] == (LAPLACIAN,)


@functools.cache
def _parts(key: Key) -> tuple[Key, ...]:
    """The other keys that the formulas for `key` refer to, the simple ones first."""
    if _is_laplacian(key):
        return tuple((direction,) for direction in key[1:])
    parts = (c for n in range(1, len(key)) for c in itertools.combinations(key, n))
    return tuple(dict.fromkeys(parts))


def _closure(keys: Iterable[Key]) -> tuple[Key, ...]:
    found = {part for key in keys for part in (*_parts(key), key) if key}
    return tuple(sorted(found, key=lambda key: (_is_laplacian(key), len(key), key)))


@functools.cache
def _splits(key: Key) -> tuple[tuple[int, Key, Key], ...]:
    """Leibniz: ∂ᵏ(a b) = Σ n ∂ˡa ∂ʳb, as (n, l, r)."""
    if _is_laplacian(key):
        return ((1, key, ()), (1, (), key), *((2, part, part) for part in _parts(key)))
    found: Counter = Counter()
    for chosen in itertools.product((True, False), repeat=len(key)):
        left = tuple(itertools.compress(key, chosen))
        found[left, tuple(itertools.compress(key, (not yes for yes in chosen)))] += 1
    return tuple((n, left, right) for (left, right), n in found.items())


@functools.cache
def _partitions(key: Key) -> tuple[tuple[int, tuple[Key, ...]], ...]:
    """Faà di Bruno: ∂ᵏ g(h) = Σ n g^(m)(h) ∂^b₁ h ⋯ ∂^bₘ h, as (n, (b₁, …, bₘ))."""
    if _is_laplacian(key):
        return ((1, (key,)), *((1, (part, part)) for part in _parts(key)))
    partitions: list[list[Key]] = [[]]
    for direction in key:
        longer = [[*p[:i], (*p[i], direction), *p[i + 1 :]] for p in partitions for i in range(len(p))]
        partitions = longer + [[*p, (direction,)] for p in partitions]
    found = Counter(tuple(sorted(p)) for p in partitions)
    return tuple((n, blocks) for blocks, n in found.items())


def _run(jaxpr, consts, inputs: list[Table], keys) -> list[Table]:
    known: dict[Any, Table] = {}
    known.update(zip(jaxpr.constvars, ({(): c} for c in consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))
    read = lambda atom: {(): atom.val} if isinstance(atom, Literal) else known[atom]
    for equation in jaxpr.eqns:
        tables = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _apply(equation, tables, keys), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation, tables: list[Table], keys) -> list[Table]:
    primitive = equation.primitive

    def bind(*arrays):
        # A pair (functions, parameters) before jax 0.10, one dictionary since.
        bound = primitive.get_bind_params(equation.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        out = primitive.bind(*functions, *arrays, **params)
        return list(out) if primitive.multiple_results else [out]

    active = [len(table) > 1 for table in tables]
    smooth = [jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in equation.outvars]
    if not any(active) or not any(smooth):
        return [{(): out} for out in bind(*(table[()] for table in tables))]
    name = primitive.name
    if name in _INLINED and (inner := equation.params.get("jaxpr")) is not None:
        return _run(inner.jaxpr, inner.consts, tables, keys)
    if name in _LINEAR:
        return [_linear(lambda *a: bind(*a)[0], tables, keys)]
    if name in _BILINEAR or (name == "div" and not active[1]):
        return [_bilinear(lambda *a: bind(*a)[0], *tables, keys)]
    if name == "div":
        inverse = _elementwise(_by_jvp(lambda x: 1 / x), tables[1], keys)
        return [_bilinear(jnp.multiply, tables[0], inverse, keys)]
    if name in _ELEMENTWISE:
        outer = _KNOWN.get(name) or _by_jvp(lambda x: bind(x)[0])
        return [_elementwise(outer, tables[0], keys)]
    return _opaque(bind, tables, smooth, keys)


def _linear(g, tables, keys) -> Table:
    out = {(): g(*(table[()] for table in tables))}
    for key in keys:
        if any(key in table for table in tables):
            out[key] = g(*(_entry(table, key) for table in tables))
    return out


def _entry(table: Table, key: Key):
    """Of an operand that cannot be differentiated (an index, a condition) the operand itself."""
    value = table[()]
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return value
    return table[key] if key in table else jnp.zeros_like(value)


def _bilinear(g, left: Table, right: Table, keys) -> Table:
    out = {(): g(left[()], right[()])}
    for key in keys:
        terms = [_times(n, g(left[a], right[b])) for n, a, b in _splits(key) if a in left and b in right]
        if terms:
            out[key] = functools.reduce(jnp.add, terms)
    return out


def _elementwise(outer, table: Table, keys) -> Table:
    terms: dict[Key, dict[int, list[Array]]] = {}  # key → how many blocks → their products
    for key in keys:
        for n, blocks in _partitions(key):
            if all(block in table for block in blocks):
                product = functools.reduce(jnp.multiply, [table[block] for block in blocks])
                terms.setdefault(key, {}).setdefault(len(blocks), []).append(_times(n, product))
    g = outer(table[()], max(max(by_count) for by_count in terms.values()))
    out = {(): g[0]}
    for key, by_count in terms.items():
        out[key] = functools.reduce(
            jnp.add, [g[m] * functools.reduce(jnp.add, products) for m, products in by_count.items()]
        )
    return out


def _times(n: int, array: Array) -> Array:
    return array if n == 1 else n * array


def _opaque(bind, tables, smooth, keys) -> list[Table]:
    """By nested `jax.jvp` of the operation: ∂ᵏ along the last direction of what is left of k."""
    moving = [i for i, table in enumerate(tables) if len(table) > 1]

    def g(*arrays):
        full = [table[()] for table in tables]
        for i, array in zip(moving, arrays, strict=True):
            full[i] = array
        return [out for out, floats in zip(bind(*full), smooth, strict=True) if floats]

    along = lambda key: tuple(_entry(tables[i], key) for i in moving)
    push = lambda h, direction: lambda *p: jax.jvp(h, p, direction)[1]
    out: list[Table] = [{(): value} for value in bind(*(table[()] for table in tables))]
    for key in keys:
        if _is_laplacian(key):
            values = push(g, along(key))(*along(()))
            for part in _parts(key):
                curved = push(push(g, along(part)), along(part))(*along(()))
                values = [a + b for a, b in zip(values, curved, strict=True)]
        else:
            values = _nested(g, key)({part: along(part) for part in ((), *_parts(key), key)})
        for table, value in zip(itertools.compress(out, smooth), values, strict=True):
            table[key] = value
    return out


def _nested(g, key: Key) -> Callable:
    """{α: ∂ᵅh for every α up to the key} ↦ ∂ᵏ g(h)."""
    if not key:
        return lambda entries: g(*entries[()])
    *rest, last = key
    inner, below = _nested(g, tuple(rest)), {(), *_parts(tuple(rest)), tuple(rest)}

    def at(entries):
        fixed = {part: entries[part] for part in below}
        moves = {part: entries[tuple(sorted((*part, last)))] for part in below}
        return jax.jvp(inner, (fixed,), (moves,))[1]

    return at


def _by_jvp(g):
    """(x, n) ↦ [g(x), g'(x), …, g^(n)(x)]."""

    def at(x, order):
        found = [g]
        for _ in range(order):
            found.append(lambda x, h=found[-1]: jax.jvp(h, (x,), (jnp.ones_like(x),))[1])
        return [h(x) for h in found]

    return at


def _tanh(x, order):
    # With y = tanh x: y' = 1 − y², and y^(k) = (1 − y²) q(y) has the derivative (1 − y²) ((1 − y²) q)'.
    y = jnp.tanh(x)
    slope = 1 - y * y
    found, q = [y], [1.0]
    for _ in range(order):
        value = functools.reduce(lambda total, c: total * y + c, reversed(q[:-1]), q[-1])
        found.append(slope * value)
        product = [a - b for a, b in zip([*q, 0.0, 0.0], [0.0, 0.0, *q], strict=True)]
        q = [i * c for i, c in enumerate(product)][1:]
    return found


def _wave(first, second):
    def at(x, order):
        s, c = first(x), second(x)
        return [s, c, -s, -c, *[s, c, -s, -c] * (order // 4)][: order + 1]

    return at


_KNOWN = {
    "tanh": _tanh,
    "sin": _wave(jnp.sin, jnp.cos),
    "cos": _wave(jnp.cos, lambda x: -jnp.sin(x)),
    "exp": lambda x, order: [jnp.exp(x)] * (order + 1),
}
