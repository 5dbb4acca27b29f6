"""Physics written once: an equation is its pointwise residual over named derivatives."""

import abc
import difflib
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

# In the name of a derivative, the Laplacian; and the coordinate that it leaves out.
LAP = "lap"
TIME = "t"


class UnknownName(AttributeError, ValueError):
    """A residual asked for a derivative or a coordinate that its equation does not declare."""


class Derivative(NamedTuple):
    """One derivative of one field, in canonical form: `along` follows the equation's coordinates.

    **Arguments:**

    - `field`: the field's name.
    - `along`: the coordinates differentiated along, once for each order; `()` is the field itself.
        `"lap"`, always last, stands for the Laplacian.
    """

    field: str
    along: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How a residual calls it: `u`, `u_t`, `u_xx`, `u_lap`."""
        return self.field + ("_" + "".join(self.along) if self.along else "")

    def order(self, coordinate: str) -> int:
        """How many times it is differentiated along `coordinate`; a Laplacian counts as two, but for `t`."""
        return self.along.count(coordinate) + 2 * self.along.count(LAP) * (coordinate != TIME)


class _AbstractNamed(eqx.Module):
    """Arrays read by attribute or by item; nothing but names of the equation is accepted."""

    _arrays: eqx.AbstractVar[dict[str, Array]]

    @abc.abstractmethod
    def _canonical(self, name: str) -> str: ...

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Array:
        return self._arrays[self._canonical(name)]

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def keys(self):
        """The canonical names present."""
        return self._arrays.keys()


class Point(_AbstractNamed):
    """Coordinates by name: `point.x`. Arrays of any mutually broadcastable shapes.

    **Arguments:**

    - `_arrays`: coordinate name → array, in the units of that coordinate.
    """

    _arrays: dict[str, Array]

    def _canonical(self, name):
        if name not in self._arrays:
            raise UnknownName(
                f"The equation has no coordinate {name!r}; its coordinates are "
                f"{tuple(self._arrays)}.{_nearest(name, self._arrays)}"
            )
        return name


class Derivatives(_AbstractNamed):
    """Derivatives by name: `d.u`, `d.u_t`, `d.u_xy` (the same array as `d.u_yx`).

    **Arguments:**

    - `_arrays`: canonical name → array.
    - `_fields`, `_coordinates`: the names that the equation declares.
    """

    _arrays: dict[str, Array]
    _fields: tuple[str, ...] = eqx.field(static=True)
    _coordinates: tuple[str, ...] = eqx.field(static=True)

    def _canonical(self, name):
        canonical = parse(name, self._fields, self._coordinates).name
        if canonical not in self._arrays:
            raise UnknownName(
                f"The derivative {name!r} was not computed; computed were {tuple(self._arrays)}. "
                "Which ones an equation needs is found by tracing its residual once: a residual "
                "must ask for the same derivatives every time."
            )
        return canonical


class AbstractEquation(eqx.Module):
    """A system of partial differential equations, r(∂u, x) = 0, written at one point.

    A subclass declares `coordinates` and `fields` (class attributes) and writes `residual`. Its
    other attributes are coefficients: leaves, so that they can be traced, batched and fitted. ::

        class Burgers(jsci.pde.Equation):
            viscosity: Float[Array, ""]
            coordinates = ("x", "t")
            fields = ("u",)

            def residual(self, d, point):
                return d.u_t + d.u * d.u_x - self.viscosity * d.u_xx

    A derivative is called by its field, an underscore and the coordinates (`d.v_xxy`); its order is
    not limited. `d.u_lap` is the Laplacian Δu, the sum of second derivatives over every coordinate but
    `t`, which costs less than its parts (`d.u_laplap` is Δ²u, `d.u_tlap` is Δu_t). Names of fields and
    coordinates are identifiers that do not begin with `_`.
    """

    coordinates: eqx.AbstractClassVar[tuple[str, ...]]
    fields: eqx.AbstractClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def residual(self, d: Derivatives, point: Point) -> Array | tuple[Array, ...]:
        """The residual at one point: one scalar, or a tuple of them (one for each equation).

        **Arguments:**

        - `d`: derivatives of the fields at the point, by name, scalars.
        - `point`: its coordinates, by name, scalars.
        """


class AbstractTransport(AbstractEquation):
    """uᵢ_t + v(u, x, t)·∇uᵢ = g(u, x, t) Δuᵢ + sᵢ(u, x, t): every field is carried by one velocity.

    The form that [`jaxsci.pinn.LPINN`][] solves along characteristics. A subclass declares `coordinates`
    (of space, then `"t"`) and `fields`, writes `velocity`, and what there is of diffusion and source. ::

        class Traffic(jsci.pde.AbstractTransport):
            limit: Float[Array, ""]
            coordinates = ("x", "t")
            fields = ("density",)
            def velocity(self, u, point):
                return (self.limit * (1 - 2 * u.density),)

    """

    @abc.abstractmethod
    def velocity(self, u: Point, point: Point) -> tuple[Array, ...]:
        """v at fields u, by name: one entry for each coordinate of space [length/time]."""

    def diffusion(self, u: Point, point: Point) -> Array | float | None:
        """g ≥ 0 [length²/time], or None where nothing diffuses."""
        return None

    def source(self, u: Point, point: Point) -> tuple[Array | float, ...] | None:
        """sᵢ, one for each field [unit of u/time], or None."""
        return None

    def residual(self, d, point):
        """uᵢ_t + v·∇uᵢ − g Δuᵢ − sᵢ for each field."""
        u, found, x = Point({f: d[f] for f in self.fields}), [], space(self.coordinates)
        v, g, s = self.velocity(u, point), self.diffusion(u, point), self.source(u, point)
        second = LAP if len(x) > 1 else 2 * x[0]
        for i, f in enumerate(self.fields):
            r = d[f"{f}_{TIME}"] + sum(a * d[f"{f}_{k}"] for a, k in zip(v, x, strict=True))
            r = r if g is None else r - g * d[f"{f}_{second}"]
            found.append(r if s is None else r - s[i])
        return tuple(found) if len(found) > 1 else found[0]


def parse(name: str, fields: Sequence[str], coordinates: Sequence[str]) -> Derivative:
    """Reads the name of a derivative.

    **Arguments:**

    - `name`: a field, or a field, an underscore and coordinates: `u`, `u_t`, `u_yx`. Coordinates
        of several letters are matched longest first (`u_xit` is ∂²u/∂ξ∂t for `("xi", "t")`). `lap` is
        the Laplacian over every coordinate but `t`, unless it can be read as coordinates.
    - `fields`, `coordinates`: the names allowed.

    **Returns:** the [`Derivative`][], with `along` sorted in the order of `coordinates`.

    **Raises:** `UnknownName` (a `ValueError` and an `AttributeError`).
    """
    for field in sorted(fields, key=len, reverse=True):
        if name == field:
            return Derivative(field)
        if name.startswith(field + "_"):
            letters, longest_first = name[len(field) + 1 :], sorted(coordinates, key=len, reverse=True)
            along = _split(letters, longest_first)
            if along is None and space(coordinates):
                along = _split(letters, [*longest_first, LAP])
            if along:
                return Derivative(field, tuple(sorted(along, key=(*coordinates, LAP).index)))
    known = [
        Derivative(field, along).name
        for field in fields
        for order in range(4)
        for along in itertools.combinations_with_replacement(coordinates, order)
    ]
    raise UnknownName(
        f"The equation has no derivative {name!r}: expected one of its fields {tuple(fields)}, "
        f"alone or followed by an underscore and coordinates out of {tuple(coordinates)} (or lap, the "
        "Laplacian)."
        f"{_nearest(name, known)}"
    )


def space(coordinates: Sequence[str]) -> tuple[str, ...]:
    """The coordinates that a Laplacian sums over: all but `t`."""
    return tuple(name for name in coordinates if name != TIME)


def written_out(derivative: Derivative, coordinates: Sequence[str]) -> tuple[Derivative, ...]:
    """The derivatives without a Laplacian that sum up to `derivative`: u_lap is u_xx + u_yy + ….

    **Arguments:**

    - `derivative`: any [`Derivative`][].
    - `coordinates`: the names of all coordinates; `t` is left out.

    **Returns:** a tuple, with repetitions (Δ²u holds u_xxyy twice).
    """
    if LAP not in derivative.along:
        return (derivative,)
    rest, order = derivative.along[:-1], (*coordinates, LAP).index
    parts = (sorted((*rest, name, name), key=order) for name in space(coordinates))
    return tuple(
        term
        for along in parts
        for term in written_out(Derivative(derivative.field, tuple(along)), coordinates)
    )


def required(equation: AbstractEquation) -> tuple[Derivative, ...]:
    """The derivatives that an equation's residual needs, found by tracing it once.

    **Arguments:**

    - `equation`: any [`AbstractEquation`][]; its leaves may be traced.

    **Returns:** each needed derivative once, sorted by field, order and coordinates.

    **Raises:** `UnknownName` if the residual asks for something undeclared, `ValueError` if what it
    returns is not one scalar or a tuple of scalars at one point.
    """
    return _traced(*_key(equation))[0]


def count(equation: AbstractEquation) -> int:
    """How many equations the system has: the number of residuals at one point."""
    return _traced(*_key(equation))[1]


def pointwise(equation: AbstractEquation, d: Derivatives, point: Point) -> tuple[Array, ...]:
    """The residual at every point of arrays that have one common shape.

    **Arguments:**

    - `equation`: the equation, with unbatched coefficients.
    - `d`: what it needs, every array of shape `(*shape,)`.
    - `point`: coordinates, each broadcastable to `(*shape,)`.

    **Returns:** a tuple of arrays of shape `(*shape,)`, one for each equation.
    """
    shape = jnp.broadcast_shapes(
        *(array.shape for array in d._arrays.values()),
        *(jnp.shape(array) for array in point._arrays.values()),
    )
    flat = jax.tree.map(lambda array: jnp.broadcast_to(array, shape).reshape(-1), (d, point))
    residuals = jax.vmap(lambda d, point: _as_tuple(equation.residual(d, point)))(*flat)
    return tuple(residual.reshape(shape) for residual in residuals)


class _Recorder:
    """Stands in for the derivatives and answers every valid name, taking note of it."""

    def __init__(self, equation, value, seen):
        self._names = (equation.fields, equation.coordinates)
        self._value = value
        self._seen = seen

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name):
        self._seen.add(parse(name, *self._names))
        return self._value


def _key(equation):
    _validate(type(equation))
    leaves, structure = jax.tree.flatten(equation)
    return structure, tuple(
        jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) if eqx.is_array(leaf) else leaf
        for leaf in leaves
    )


@functools.lru_cache(maxsize=256)
def _traced(structure, leaves):
    seen: set[Derivative] = set()

    def run(arrays, one):
        arrays = iter(arrays)
        filled = [next(arrays) if _is_struct(leaf) else leaf for leaf in leaves]
        equation = jax.tree.unflatten(structure, filled)
        recorder = _Recorder(equation, one, seen)
        point = Point(dict.fromkeys(equation.coordinates, one))
        return _as_tuple(equation.residual(recorder, point))  # pyright: ignore[reportArgumentType]

    structs = [leaf for leaf in leaves if _is_struct(leaf)]
    dtype = jnp.result_type(float, *(s.dtype for s in structs if jnp.issubdtype(s.dtype, jnp.floating)))
    result = jax.eval_shape(run, structs, jax.ShapeDtypeStruct((), dtype))
    equation = jax.tree.unflatten(structure, leaves)
    for residual in result:
        if residual.shape != ():
            raise ValueError(
                f"The residual of {type(equation).__name__} at one point has shape "
                f"{residual.shape}; expected scalars: one array of shape (), or a tuple of them, "
                "one for each equation. Give several equations as a tuple, not as one array, and "
                "batch coefficients with `jax.vmap` over the equation."
            )
    fields, coordinates = equation.fields, equation.coordinates
    order = {name: i for i, name in enumerate((*coordinates, LAP))}
    return tuple(
        sorted(
            seen,
            key=lambda d: (fields.index(d.field), len(d.along), [order[c] for c in d.along]),
        )
    ), len(result)


def _is_struct(leaf):
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _as_tuple(residual):
    return tuple(residual) if isinstance(residual, tuple | list) else (jnp.asarray(residual),)


_reserved = frozenset(name for name in dir(_AbstractNamed) if not name.startswith("_"))


@functools.cache
def _validate(cls):
    for what in ("coordinates", "fields"):
        names = getattr(cls, what)
        valid = isinstance(names, tuple) and len(set(names)) == len(names) > 0
        if not valid or not all(isinstance(n, str) and n.isidentifier() for n in names):
            raise ValueError(
                f"`{cls.__name__}.{what}` is {names!r}; expected a tuple of different identifiers, "
                'for example ("u",) with its comma.'
            )
        for name in names:
            if name.startswith("_") or name in _reserved or (what == "coordinates" and name == LAP):
                raise ValueError(
                    f"`{cls.__name__}.{what}` holds the reserved name {name!r}; choose one that "
                    f"does not begin with an underscore and is none of {sorted(_reserved)} (nor is a "
                    f"coordinate {LAP!r}, the Laplacian)."
                )


def _split(letters, coordinates):
    """`letters` as a sequence of coordinates, the longest tried first; None if impossible."""
    if not letters:
        return ()
    for coordinate in coordinates:
        if letters.startswith(coordinate):
            rest = _split(letters[len(coordinate) :], coordinates)
            if rest is not None:
                return (coordinate, *rest)
    return None


def _nearest(name, known):
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
