"""Equations from symbols or text, and manufactured solutions."""

import ast
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.scipy.special
from jaxtyping import Array, ArrayLike, Float

from ._derivatives import derivatives
from ._equation import AbstractEquation, Derivative, Derivatives, Point, UnknownName, parse

# An expression is a static tree: a number, a pair of a kind and a name, or "call", a function, operands.
Node = Any

_FUNCTIONS: dict[str, Callable] = {
    "sin": jnp.sin, "cos": jnp.cos, "tan": jnp.tan, "asin": jnp.arcsin, "acos": jnp.arccos,
    "atan": jnp.arctan, "atan2": jnp.arctan2, "sinh": jnp.sinh, "cosh": jnp.cosh, "tanh": jnp.tanh,
    "asinh": jnp.arcsinh, "acosh": jnp.arccosh, "atanh": jnp.arctanh, "exp": jnp.exp, "log": jnp.log,
    "sqrt": jnp.sqrt, "abs": jnp.abs, "sign": jnp.sign, "erf": jax.scipy.special.erf,
    "erfc": jax.scipy.special.erfc,
    "max": lambda *a: functools.reduce(jnp.maximum, a), "min": lambda *a: functools.reduce(jnp.minimum, a),
    "heaviside": lambda x, middle=0.5: jnp.heaviside(x, middle),
}  # fmt: skip
_OPERATIONS: dict[str, Callable] = {
    "+": lambda *a: functools.reduce(lambda x, y: x + y, a),
    "*": lambda *a: functools.reduce(lambda x, y: x * y, a),
    "/": lambda x, y: x / y,
    "**": lambda x, y: x**y,
}
_TEXT_OPERATIONS = {ast.Add: "+", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


def equation(
    expressions: Any,
    *,
    fields: Sequence[str],
    coordinates: Sequence[str],
    parameters: Mapping[str, ArrayLike] | None = None,
) -> AbstractEquation:
    """An equation from text or from sympy's symbols. ::

        symbolic.equation("u_t + u*u_x = nu*u_xx", fields=("u",), coordinates=("x", "t"),
                          parameters={"nu": 0.01})

    In text a derivative is written as in a residual (`u_xx`, `u_lap`); operations are those of Python,
    and one `=` may separate two sides. In sympy fields are functions of the coordinates, `u(x, t)`, and
    derivatives `Derivative`. Text needs no sympy. Nothing is executed: the expression is read as a tree,
    and each node becomes one operation of JAX.

    **Arguments:**

    - `expressions`: one, or a sequence of them: a string, a sympy expression (zero where the equation
        holds) or a sympy `Eq`.
    - `fields`, `coordinates`: their names, as in [`AbstractEquation`][].
    - `parameters`: name → value; leaves of the result, in its attribute `parameters`.

    **Returns:** an [`AbstractEquation`][], for use wherever a written one is.

    **Raises:** `ValueError` for a name or a function that is not known and for text that is no
    expression, `TypeError` for anything else; `ImportError` for symbols without sympy.
    """
    values = {name: jnp.asarray(value) for name, value in (parameters or {}).items()}
    names = _Names(tuple(fields), tuple(coordinates), tuple(values))
    listed = tuple(expressions) if isinstance(expressions, list | tuple) else (expressions,)
    return _equation_class(names.fields, names.coordinates)(values, tuple(_read(e, names) for e in listed))


class Manufactured(NamedTuple):
    """What [`manufactured`][] returns.

    - `source`: s, a function of a [`Point`][]: an array, or a tuple of them for a system.
    - `exact`: the solution as a function of one point, (d,) ↦ (n_fields,), like a network.
    - `equation`: residual − s, which `exact` satisfies.
    """

    source: Callable[[Point], Array | tuple[Array, ...]]
    exact: Callable[[Float[Array, " d"]], Float[Array, " n_fields"]]
    equation: AbstractEquation


def manufactured(
    equation: AbstractEquation, solution: Any, parameters: Mapping[str, ArrayLike] | None = None
) -> Manufactured:
    """The source that makes a chosen function the exact solution: s(x) = residual(∂u, x). ::

        problem = symbolic.manufactured(pde.Burgers(0.1), "exp(-t)*sin(pi*x)")
        problem.equation, problem.exact

    **Arguments:**

    - `equation`: any equation, one of [`equation`][]'s as well.
    - `solution`: an expression of the coordinates, text or sympy, or one for each field.
    - `parameters`: name → value of what else the solution holds.

    **Returns:** a [`Manufactured`][]. The coefficients of the equation and the parameters are leaves of
    all its parts; its derivatives are automatic ones, to rounding.

    **Raises:** as [`equation`][], and `ValueError` unless there is one solution for each field.

    **Reference:** Roache, Code verification by the method of manufactured solutions, J. Fluids Eng. 124,
    2002.
    """
    values = {name: jnp.asarray(value) for name, value in (parameters or {}).items()}
    listed = tuple(solution) if isinstance(solution, list | tuple) else (solution,)
    if len(listed) != len(equation.fields):
        raise ValueError(
            f"`solution` has {len(listed)} expressions; expected {len(equation.fields)}, one for each of "
            f"the fields {equation.fields}."
        )
    names = _Names((), equation.coordinates, tuple(values))
    exact = _Exact(values, tuple(_read(e, names) for e in listed), equation.coordinates)
    source = _Source(equation, exact)
    return Manufactured(source, exact, _forced_class(equation.fields, equation.coordinates)(equation, source))


class _Names(NamedTuple):
    fields: tuple[str, ...]
    coordinates: tuple[str, ...]
    parameters: tuple[str, ...]

    def find(self, name: str) -> Node:
        if name in self.coordinates:
            return ("coordinate", name)
        if name in self.parameters:
            return ("parameter", name)
        if name == "pi":
            return math.pi
        try:
            return ("derivative", parse(name, self.fields, self.coordinates).name)
        except UnknownName as error:
            raise ValueError(
                f"The name {name!r} is none of the coordinates {self.coordinates}, the parameters "
                f"{self.parameters} and derivatives of the fields {self.fields}. Give its value in "
                "`parameters`, or correct it."
            ) from error


def _call(name: str, *operands: Node) -> Node:
    if name not in _FUNCTIONS and name not in _OPERATIONS:
        raise ValueError(f"The function {name!r} is not known here; known are {sorted(_FUNCTIONS)}.")
    return ("call", name, operands)


def _read(expression: Any, names: _Names) -> Node:
    if isinstance(expression, str):
        return _read_text(expression, names)
    if isinstance(expression, int | float):
        return expression
    try:
        import sympy
    except ImportError as error:
        raise ImportError(
            f"An expression of type {type(expression).__name__} needs sympy: pip install "
            "'jaxsci[symbolic]'. Text needs nothing."
        ) from error
    if not isinstance(expression, sympy.Basic):
        raise TypeError(
            f"An expression is of type {type(expression).__name__}; expected text or a sympy expression."
        )
    if isinstance(expression, sympy.Equality):
        expression = expression.lhs - expression.rhs
    return _read_sympy(expression.doit(), names, sympy)


def _read_text(text: str, names: _Names) -> Node:
    sides = text.split("=")
    try:
        trees = [ast.parse(side.strip(), mode="eval").body for side in sides]
    except SyntaxError as error:
        raise ValueError(f"The text {text!r} is no expression: {error.msg}.") from error
    if len(trees) > 2:
        raise ValueError(f"The text {text!r} has {len(trees) - 1} signs of equality; expected one at most.")
    nodes = [_read_ast(tree, names, text) for tree in trees]
    return nodes[0] if len(nodes) == 1 else _call("+", nodes[0], _call("*", -1, nodes[1]))


def _read_ast(tree: ast.expr, names: _Names, text: str) -> Node:
    again = lambda part: _read_ast(part, names, text)
    match tree:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return names.find(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _call("*", -1, again(operand))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return again(operand)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _call("+", again(left), _call("*", -1, again(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TEXT_OPERATIONS:
            return _call(_TEXT_OPERATIONS[type(op)], again(left), again(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name, *map(again, args))
    remedy = "A power is written **. " if "^" in text else ""
    raise ValueError(
        f"In the text {text!r}, {ast.unparse(tree)!r} is not understood. {remedy}Expected numbers, names, "
        "+ - * / ** and calls of functions."
    )


def _read_sympy(expression: Any, names: _Names, sympy: Any) -> Node:
    again = lambda part: _read_sympy(part, names, sympy)
    match expression:
        case sympy.Integer():
            return int(expression)
        case sympy.Number() | sympy.NumberSymbol():
            return float(expression)
        case sympy.Symbol():
            return names.find(expression.name)
        case sympy.Derivative():
            inner = expression.expr
            along = [str(variable) for variable, n in expression.variable_count for _ in range(int(n))]
            if isinstance(inner, sympy.core.function.AppliedUndef):
                _, field = _field(inner, names)
                return names.find(Derivative(field, tuple(along)).name)
        case sympy.core.function.AppliedUndef():
            return _field(expression, names)
        case sympy.Add() | sympy.Mul():
            return _call("+" if expression.is_Add else "*", *map(again, expression.args))
        case sympy.Pow(base=base, exp=sympy.S.Half):
            return _call("sqrt", again(base))
        case sympy.Pow(base=base, exp=power):
            return _call("**", again(base), again(power))
        case sympy.Function():
            name = type(expression).__name__
            return _call(name if name in _FUNCTIONS else name.lower(), *map(again, expression.args))
        case sympy.Max() | sympy.Min():
            return _call(type(expression).__name__.lower(), *map(again, expression.args))
    raise ValueError(
        f"The part {expression} of an expression ({type(expression).__name__}) is not known here; expected "
        f"numbers, symbols, fields and their derivatives, and functions out of {sorted(_FUNCTIONS)}."
    )


def _field(applied: Any, names: _Names) -> Node:
    name, found = applied.func.__name__, tuple(str(argument) for argument in applied.args)
    if name not in names.fields or set(found) != set(names.coordinates) or len(found) != len(set(found)):
        raise ValueError(
            f"The function {applied} is no field at the point itself: the fields are {names.fields}, of the "
            f"coordinates {names.coordinates}."
        )
    return ("derivative", name)


def _value(node: Node, find: Mapping[str, Any]):
    if isinstance(node, int | float):
        return node
    if node[0] == "call":
        function = _FUNCTIONS.get(node[1]) or _OPERATIONS[node[1]]
        return function(*(_value(operand, find) for operand in node[2]))
    return find[node[0]][node[1]]


@functools.cache
def _equation_class(names: tuple[str, ...], axes: tuple[str, ...]) -> Callable[..., AbstractEquation]:
    class Symbolic(AbstractEquation):
        """Expressions that vanish."""

        parameters: dict[str, Array]
        expressions: tuple[Node, ...] = eqx.field(static=True)
        coordinates = axes
        fields = names

        def residual(self, d: Derivatives, point: Point):
            find = {"derivative": d, "coordinate": point, "parameter": self.parameters}
            values = tuple(jnp.asarray(_value(node, find)) for node in self.expressions)
            return values[0] if len(values) == 1 else values

    return Symbolic


@functools.cache
def _forced_class(names: tuple[str, ...], axes: tuple[str, ...]) -> Callable[..., AbstractEquation]:
    class Forced(AbstractEquation):
        """residual = source."""

        equation: AbstractEquation
        source: Callable[[Point], Any]
        coordinates = axes
        fields = names

        def residual(self, d: Derivatives, point: Point):
            left, right = self.equation.residual(d, point), self.source(point)
            if isinstance(right, tuple):
                return tuple(a - b for a, b in zip(left, right, strict=True))
            return left - right

    return Forced


class _Exact(eqx.Module):
    parameters: dict[str, Array]
    expressions: tuple[Node, ...] = eqx.field(static=True)
    coordinates: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, p: Float[Array, " d"]) -> Float[Array, " n_fields"]:
        find = {"coordinate": dict(zip(self.coordinates, p, strict=True)), "parameter": self.parameters}
        return jnp.stack([_value(node, find) + jnp.zeros((), p.dtype) for node in self.expressions])


class _Source(eqx.Module):
    equation: AbstractEquation
    exact: _Exact

    def __call__(self, point: Point):
        coordinates = self.equation.coordinates

        def at(*numbers):
            d = derivatives(self.exact, self.equation, jnp.stack(numbers))
            found = self.equation.residual(d, Point(dict(zip(coordinates, numbers, strict=True))))
            return tuple(found) if isinstance(found, tuple | list) else found

        return jnp.vectorize(at)(*(jnp.asarray(point[name]) for name in coordinates))
