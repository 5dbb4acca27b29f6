"""Names, tracing and pointwise evaluation of equations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

from jaxsci import pde


class Mixed(pde.Equation):
    scale: Float[Array, ""]
    coordinates = ("x", "y", "t")
    fields = ("u", "v")

    def residual(self, d, point):
        first = d.u_t + d.u_yx + d.v_xxy * point.x
        return first, self.scale * d.v_tyx - d.u_xy + d["v"] * point["t"]


def names(equation):
    return [derivative.name for derivative in pde.required(equation)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("u", pde.Derivative("u")),
        ("u_t", pde.Derivative("u", ("t",))),
        ("v_yxtx", pde.Derivative("v", ("x", "x", "y", "t"))),
    ],
)
def test_parse(name, expected):
    assert pde.parse(name, ("u", "v"), ("x", "y", "t")) == expected


def test_parse_coordinates_of_several_letters():
    fields, coordinates = ("u", "u_1"), ("x", "xi", "i", "tau")
    assert pde.parse("u_xitau", fields, coordinates).along == ("xi", "tau")
    assert pde.parse("u_xxi", fields, coordinates).along == ("x", "xi")
    assert pde.parse("u_1_x", fields, coordinates) == pde.Derivative("u_1", ("x",))
    # "xt" is no beginning of a coordinate, so the longest match is given up for another.
    assert pde.parse("u_xit", ("u",), ("xi", "x", "it")).along == ("x", "it")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("u_xz", "u_x"), ("w_x", "u_x|v_x"), ("u_", "u_x|u_t"), ("u_ttt_", "u_ttt")],
)
def test_unknown_names_are_explained(name, hint):
    with pytest.raises(ValueError, match=f"{name}.*Did you mean '({hint})'") as caught:
        pde.parse(name, ("u", "v"), ("x", "t"))
    assert isinstance(caught.value, AttributeError)
    assert "('u', 'v')" in str(caught.value) and "('x', 't')" in str(caught.value)


def test_required_is_canonical_sorted_and_complete():
    expected = ["u", "u_t", "u_xx"]
    assert names(pde.DiffusionSorption()) == expected
    assert names(Mixed(jnp.ones(()))) == ["u_t", "u_xy", "v", "v_xxy", "v_xyt"]
    assert pde.count(Mixed(jnp.ones(()))) == 2 and pde.count(pde.Burgers(0.1)) == 1


def test_required_under_transformations():
    def f(viscosity):
        equation = pde.Burgers(viscosity)
        assert names(equation) == ["u", "u_x", "u_t", "u_xx"]
        return equation.viscosity

    x = jnp.ones(3)
    assert jnp.all(jax.jit(jax.vmap(jax.grad(f)))(x) == 1)


def test_required_follows_static_structure():
    class Either(pde.Equation):
        drift: Array | None
        coordinates = ("x", "t")
        fields = ("u",)

        def residual(self, d, point):
            return d.u_t if self.drift is None else d.u_t + self.drift * d.u_x

    assert names(Either(None)) == ["u_t"]
    assert names(Either(jnp.ones(()))) == ["u_x", "u_t"]


def test_wrong_equations_are_refused():
    class Vector(pde.Equation):
        coordinates = ("x",)
        fields = ("u",)

        def residual(self, d, point):
            return jnp.stack([d.u, d.u_x])

    class Coordinate(pde.Equation):
        coordinates = ("x",)
        fields = ("u",)

        def residual(self, d, point):
            return d.u * point.y

    class NoComma(pde.Equation):
        coordinates = "x"
        fields = ("u",)

        def residual(self, d, point):
            return d.u

    class Reserved(pde.Equation):
        coordinates = ("x",)
        fields = ("keys",)

        def residual(self, d, point):
            return d.u

    for equation, message in (
        (Vector(), "expected scalars"),
        (Coordinate(), "no coordinate 'y'"),
        (NoComma(), "with its comma"),
        (Reserved(), "reserved name 'keys'"),
    ):
        with pytest.raises(ValueError, match=message):
            pde.required(equation)
    with pytest.raises(TypeError):
        pde.Equation()  # abstract


def test_derivatives_are_read_by_any_spelling():
    d = pde.Derivatives({"u_xy": jnp.ones(()), "u": jnp.zeros(())}, ("u",), ("x", "y"))
    assert d.u_xy is d.u_yx and d["u_yx"] is d.u_xy
    assert dict(d).keys() == {"u", "u_xy"} and len(d) == 2
    with pytest.raises(ValueError, match="'u_x' was not computed"):
        _ = d.u_x
    doubled = jax.tree.map(lambda array: 2 * array, d)
    assert doubled.u_xy == 2


def test_pointwise_equals_a_loop(getkey):
    equation = Mixed(jnp.asarray(3.0))
    shape = (4, 3, 2)
    arrays = {d.name: jax.random.normal(getkey(), shape) for d in pde.required(equation)}
    d = pde.Derivatives(arrays, equation.fields, equation.coordinates)
    point = pde.Point(
        {
            "x": jax.random.normal(getkey(), (4, 1, 1)),
            "y": jax.random.normal(getkey(), (1, 3, 1)),
            "t": jax.random.normal(getkey(), (2,)),
        }
    )
    result = pde.pointwise(equation, d, point)
    expected = equation.residual(d, point)
    assert len(result) == 2
    for one, other in zip(result, expected, strict=True):
        assert one.shape == shape
        assert jnp.allclose(one, other, rtol=1e-14)


def test_pointwise_accepts_branches_on_traced_values():
    class Switch(pde.Equation):
        coordinates = ("x",)
        fields = ("u",)

        def residual(self, d, point):
            return jax.lax.cond(d.u > 0, lambda u: u, lambda u: -2 * u, d.u)

    u = jnp.array([-1.0, 2.0])
    d = pde.Derivatives({"u": u}, ("u",), ("x",))
    (r,) = pde.pointwise(Switch(), d, pde.Point({"x": u}))
    assert r.tolist() == [2.0, 2.0]


def test_coefficients_are_leaves():
    equation = pde.Burgers(0.1)
    assert [leaf.shape for leaf in jax.tree.leaves(equation)] == [()]
    assert eqx.tree_equal(equation, pde.Burgers(jnp.asarray(0.1)), typematch=False)
