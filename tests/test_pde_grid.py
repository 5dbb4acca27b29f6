"""The discrete twin: measured orders, exact affine splitting, boundary conditions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import pde

low, high = pde.low, pde.high


def D(name, coordinates=("t", "x", "y"), fields=("u", "v")):
    return pde.parse(name, fields, coordinates)


@eqx.filter_jit
def fields(grid, values, required, conditions=(), homogeneous=False):
    return grid.fields(values, required, conditions, homogeneous=homogeneous)


@eqx.filter_jit
def operator(grid, derivative, axis, conditions=(), dtype=None):
    return grid.operator(derivative, axis, conditions, dtype)


def smooth_faces(n):
    s = np.linspace(0, 1, n + 1)
    return s + 0.1 * np.sin(2 * np.pi * s) / (2 * np.pi) + 0.2 * s * (s - 1) / 2


def slopes(errors):
    return np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))


def solve_linear(residual, n):
    """The zero of an affine function of n unknowns."""
    zero = jnp.zeros(n)
    matrix, offset = jax.jit(lambda u: (jax.jacfwd(residual)(u), residual(u)))(zero)
    return np.linalg.solve(matrix, -np.asarray(offset))


def end_conditions(kind, x_low, x_high, u, u_x):
    """Conditions of one kind that the function u meets at two ends."""
    result = []
    for face, x in ((low("x"), x_low), (high("x"), x_high)):
        normal = face.outward * u_x(x)
        result.append(
            {
                "dirichlet": pde.Dirichlet("u", face, u(x)),
                "neumann": pde.Neumann("u", face, normal),
                "robin": pde.Robin("u", face, 2.0, 0.7, 2.0 * u(x) + 0.7 * normal),
            }[kind]
        )
    return result


@pytest.mark.parametrize("faces", [lambda n: np.linspace(0, 1, n + 1), smooth_faces])
@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "robin"])
def test_space_is_second_order(kind, faces):
    # −u'' + u' + u = f, so that the problem is well-posed for every kind of condition.
    u = lambda x: np.sin(3 * x + 1)
    u_x = lambda x: 3 * np.cos(3 * x + 1)
    u_xx = lambda x: -9 * np.sin(3 * x + 1)
    conditions = end_conditions(kind, 0.0, 1.0, u, u_x)
    errors = []
    for n in (40, 80):
        axis = pde.Cells(faces(n))
        grid = pde.Grid({"x": axis})
        first, first_offset = map(np.asarray, operator(grid, D("u_x"), "x", conditions))
        second, second_offset = map(np.asarray, operator(grid, D("u_xx"), "x", conditions))
        x = axis.rows()
        f = -u_xx(x) + u_x(x) + u(x)
        solution = np.linalg.solve(-second + first + np.eye(n), f + second_offset - first_offset)
        errors.append(np.max(np.abs(solution - u(x))))
    assert np.all(slopes(errors) > 1.85), errors
    assert errors[-1] < 8e-3


def test_periodic_space_is_second_order():
    errors = []
    for n in (20, 40):
        grid = pde.Grid({"x": pde.Cells(np.linspace(0, 2 * np.pi, n + 1))})
        x = grid.point().x
        names = ["u_x", "u_xx", "u_xxx", "u_xxxx"]
        wanted, conditions = [D(m) for m in names], [pde.Periodic("u", "x")]
        d = fields(grid, {"u": jnp.sin(x)}, wanted, conditions)
        exact = [jnp.cos(x), -jnp.sin(x), -jnp.cos(x), jnp.sin(x)]
        errors.append([float(jnp.max(jnp.abs(d[m] - e))) for m, e in zip(names, exact, strict=True)])
    assert np.all(slopes(errors) > 1.95)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_order_in_time(order, power):
    # u' = λ(u − cos t) − sin t, u = cos t, level by level: the value at tⱼ from the weights.
    errors = []
    for n in (40, 80, 160):
        levels = pde.Levels(pde.graded(2.0, n, power), order)
        t, w = np.asarray(levels.times), levels.weights()
        u = [1.0]
        for j in range(1, n + 1):
            history = sum(w[s, j - 1] * u[j - s] for s in range(1, min(order, j) + 1))
            u.append((-3.0 * -np.cos(t[j]) - np.sin(t[j]) - history) / (w[0, j - 1] + 3.0))
        errors.append(np.max(np.abs(u - np.cos(t))))
    # One first step of lower order costs the uniform third-order scheme one order at most.
    expected = min(order, 2) if power == 1.0 else order
    assert np.all(slopes(errors) > expected - 0.2), errors


def test_backward_differences_are_exact_on_polynomials(getkey):
    times = np.cumsum(np.array([0, 0.1, 0.3, 0.35, 0.7, 0.2]))
    for order in (1, 2, 3):
        grid = pde.Grid({"t": pde.Levels(times, order)})
        for degree in range(order + 1):
            d = fields(grid, {"u": times**degree}, [D("u_t"), D("u")])
            exact = degree * times[1:] ** max(degree - 1, 0)
            # The first rows are of lower order.
            assert np.allclose(d.u_t[order - 1 :], exact[order - 1 :], rtol=1e-11, atol=1e-11)
            assert np.array_equal(d.u, times[1:] ** degree)


def heat_error(n_t, n_x, order):
    # u = exp(−π²κt) cos(πx) + x² + 2κt solves u_t = κ u_xx; Neumann below, Dirichlet in time above.
    kappa = 0.3
    t, faces = pde.graded(1.0, n_t), np.linspace(0, 1, n_x + 1)
    grid = pde.Grid({"t": pde.Levels(t, order), "x": pde.Cells(faces)})
    exact = lambda t, x: np.exp(-(np.pi**2) * kappa * t) * np.cos(np.pi * x) + x**2 + 2 * kappa * t
    conditions = [
        pde.Neumann("u", low("x")),
        pde.Dirichlet("u", high("x"), jnp.asarray(exact(t[1:], 1.0))),
    ]
    x = np.asarray(grid.point().x)[0]
    equation = pde.Heat(kappa)

    def residual(unknown):
        values = jnp.concatenate([jnp.asarray(exact(0.0, x))[None], unknown.reshape(n_t, n_x)])
        d = grid.fields({"u": values}, pde.required(equation), conditions)
        return equation.residual(d, grid.point()).reshape(-1)

    solution = solve_linear(residual, n_t * n_x).reshape(n_t, n_x)
    return np.max(np.abs(solution - exact(t[1:, None], x)))


def test_scheme_of_the_same_residual_converges():
    errors = [heat_error(2 * n, n, 2) for n in (6, 12)]
    assert errors[0] / errors[1] > 3.2
    assert heat_error(24, 12, 1) > 2 * errors[1]


def test_two_dimensions_converge():
    errors = []
    for n in (8, 16):
        cells = pde.Cells(smooth_faces(n))
        grid = pde.Grid({"x": cells, "y": pde.Cells(np.linspace(0, 1, n + 1))})
        x, y = (np.asarray(a) for a in (grid.point().x, grid.point().y))
        exact = np.sin(2 * x + 1) * np.exp(y)
        equation = pde.Poisson(lambda p: 3 * jnp.sin(2 * p.x + 1) * jnp.exp(p.y))
        # On a face of x the data runs over y, and the other way round.
        conditions = [
            pde.Dirichlet("u", low("x"), np.sin(1.0) * np.exp(y[0])),
            pde.Neumann("u", high("x"), 2 * np.cos(3.0) * np.exp(y[0])),
            pde.Dirichlet("u", low("y"), np.sin(2 * x[:, 0] + 1)),
            pde.Robin("u", high("y"), 1.0, 1.0, 2 * np.e * np.sin(2 * x[:, 0] + 1)),
        ]

        def residual(u, grid=grid, conditions=conditions, equation=equation):
            d = grid.fields({"u": u.reshape(grid.shape)}, pde.required(equation), conditions)
            return equation.residual(d, grid.point()).reshape(-1)

        u = solve_linear(residual, n * n).reshape(n, n)
        errors.append(np.max(np.abs(u - exact)))
    assert np.all(slopes(errors) > 1.8), errors


def test_mixed_derivatives_converge():
    conditions = [
        pde.Periodic("u", "x"),
        pde.Neumann("u", low("y")),
        pde.Neumann("u", high("y")),
    ]
    errors = []
    for n in (16, 32):
        cells = pde.Cells(np.linspace(0, 2 * np.pi, n + 1))
        grid = pde.Grid({"t": pde.Levels(np.linspace(0, 0.3, n + 1)), "x": cells, "y": cells})
        t = jnp.asarray(np.linspace(0, 0.3, n + 1)).reshape(-1, 1, 1)
        p = grid.point()
        mode = jnp.sin(p.x) * jnp.cos(p.y)
        wanted = [D("u_xy"), D("u_xxyy"), D("u_xt")]
        d = fields(grid, {"u": jnp.exp(t) * mode}, wanted, conditions)
        rows = jnp.exp(p.t)
        exact = [
            -rows * jnp.cos(p.x) * jnp.sin(p.y),
            rows * mode,
            rows * jnp.cos(p.x) * jnp.cos(p.y),
        ]
        later = (slice(2, None),)  # the first row is backward Euler
        errors.append(
            [
                float(jnp.max(jnp.abs(a[later] - b[later])))
                for a, b in zip((d.u_xy, d.u_xxyy, d.u_xt), exact, strict=True)
            ]
        )
    assert np.all(slopes(errors) > 1.8), errors


EQUATION_2D = pde.ReactionDiffusion()


def grid_2d():
    return pde.Grid(
        {
            "t": pde.Levels(pde.graded(1.0, 4)),
            "x": pde.Cells(smooth_faces(5)),
            "y": pde.Cells(np.linspace(0, 2, 7)),
        }
    )


def conditions_2d(key):
    k = jax.random.split(key, 3)
    return [
        pde.Dirichlet("u", low("x"), jax.random.normal(k[0], (4, 6))),
        pde.Robin("u", high("x"), 1.0, 0.5, jax.random.normal(k[1], (4, 1))),
        pde.Neumann("u", low("y"), jax.random.normal(k[2], (5,))),
        pde.Dirichlet("u", high("y"), 2.0),
        pde.Periodic("v", "x"),
        pde.Neumann("v", low("y"), -1.0),
        pde.Neumann("v", high("y")),
    ]


@pytest.mark.parametrize("trailing", [(), (3,)])
def test_the_affine_split_is_exact(getkey, trailing):
    grid, conditions = grid_2d(), conditions_2d(getkey())
    required = pde.required(EQUATION_2D)
    u = {f: jax.random.normal(getkey(), (*grid.shape, *trailing)) for f in ("u", "v")}
    zero = jax.tree.map(jnp.zeros_like, u)
    full, offset = (fields(grid, values, required, conditions) for values in (u, zero))
    linear = fields(grid, u, required, conditions, True)
    twice = fields(grid, jax.tree.map(lambda a: 2 * a, u), required, conditions, True)
    assert np.max(np.abs(offset.u_xx)) > 1
    for name in full:
        a, b, c = (np.asarray(d[name]) for d in (full, offset, linear))
        assert a.shape == (*grid.row_shape, *trailing)
        assert np.max(np.abs(a - b - c)) < 1e-14 * np.max(np.abs(a))
        assert np.array_equal(twice[name], 2 * c)


def test_trailing_axes_are_a_batch(getkey):
    grid, conditions = grid_2d(), conditions_2d(getkey())
    required = pde.required(EQUATION_2D)
    u = {f: jax.random.normal(getkey(), (*grid.shape, 2, 3)) for f in ("u", "v")}
    full = fields(grid, u, required, conditions)
    one = fields(grid, jax.tree.map(lambda a: a[..., 1, 2], u), required, conditions)
    for name in full:
        assert jnp.allclose(full[name][..., 1, 2], one[name], rtol=1e-13, atol=1e-12)


def test_operator_is_what_fields_does(getkey):
    grid = pde.Grid({"t": pde.Levels(pde.graded(3.0, 5)), "x": pde.Cells(smooth_faces(6))})
    conditions = pde.DiffusionSorption().conditions()
    u = jax.random.normal(getkey(), grid.shape)
    d = fields(grid, {"u": u}, [D("u_t"), D("u_xx")], conditions)
    in_time, zero = operator(grid, D("u_t"), "t")
    in_space, offset = operator(grid, D("u_xx"), "x", conditions)
    assert in_time.shape == (5, 6) and jnp.all(zero == 0)
    assert jnp.allclose(in_time @ u, d.u_t, rtol=1e-12)
    assert jnp.allclose(u[1:] @ in_space.T + offset, d.u_xx, rtol=1e-12)
    outside = jnp.abs(jnp.subtract(*jnp.indices(in_space.shape))) > 1
    assert jnp.all(jnp.where(outside, in_space, 0) == 0)


def test_coefficients_of_conditions_may_be_traced():
    grid = pde.Grid({"t": pde.Levels(pde.graded(5.0, 4)), "x": pde.Cells(smooth_faces(6))})
    u = jnp.ones(grid.shape)

    def f(diffusivity):
        equation = pde.DiffusionSorption(diffusivity)
        d = grid.fields({"u": u}, pde.required(equation), equation.conditions())
        return jnp.sum(equation.residual(d, grid.point()) ** 2)

    values = jnp.array([2e-4, 5e-2, 1.0])
    slope = jax.jit(jax.vmap(jax.grad(f)))(values)
    step = 1e-6 * values
    g = jax.jit(jax.vmap(f))
    difference = (g(values + step) - g(values - step)) / (2 * step)
    assert jnp.allclose(slope, difference, rtol=1e-6)


def test_float32_weights_are_rounded_once():
    grid = pde.Grid({"t": pde.Levels(pde.graded(500.0, 32)), "x": pde.Cells(smooth_faces(256))})
    conditions = pde.DiffusionSorption().conditions()
    values = jnp.asarray(np.linspace(0, 1, 256) * np.ones((33, 1)))
    required = pde.required(pde.DiffusionSorption())
    single = fields(grid, {"u": values.astype(jnp.float32)}, required, conditions)
    assert all(array.dtype == jnp.float32 for array in dict(single).values())
    matrix, _ = operator(grid, D("u_xx"), "x", conditions)
    rounded, _ = operator(grid, D("u_xx"), "x", conditions, jnp.float32)
    assert rounded.dtype == jnp.float32
    matrix, rounded = np.asarray(matrix), np.asarray(rounded)
    assert np.array_equal(matrix != 0, rounded != 0)
    assert np.allclose(rounded[matrix != 0] / matrix[matrix != 0], 1, rtol=0, atol=2e-7)


def test_grid_is_static():
    grid = grid_2d()
    assert jax.tree.leaves(grid) == [] and hash(grid.axes["x"]) == hash(grid_2d().axes["x"])
    count = 0

    @eqx.filter_jit
    def f(grid, x):
        nonlocal count
        count += 1
        return grid.weights().sum() * x

    assert jnp.allclose(f(grid, 1.0), 2.0 * (smooth_faces(5)[-1] - smooth_faces(5)[0]))
    f(grid_2d(), 1.0)
    assert count == 1


def test_errors_name_what_is_missing():
    grid = pde.Grid({"t": pde.Levels([0, 1, 2]), "x": pde.Cells([0, 1, 2, 3])})
    u = {"u": jnp.ones((3, 3))}
    inlet = pde.Dirichlet("u", low("x"), 1.0)
    outlet = pde.Neumann("u", high("x"))
    cases = [
        (u, "u_xx", [inlet], "needs a condition for 'u' at high"),
        (u, "u_xx", [inlet, inlet, outlet], "two conditions"),
        (u, "u_xxx", [inlet, outlet], "needs a periodic axis"),
        (u, "u_tt", [], "order 0 and 1"),
        (u, "u_y", [], "no axis 'y'"),
        (u, "v", [], "no field 'v'"),
        ({"u": jnp.ones((2, 3))}, "u", [], r"shape \(2, 3\); expected \(3, 3\)"),
        (u, "u_x", [pde.Dirichlet("u", low("x"), jnp.ones(3)), outlet], r"broadcasts to \(2,\)"),
        (u, "u_xt", [pde.Dirichlet("u", low("x"), jnp.ones(2)), outlet], "same all along a face"),
    ]
    for values, name, conditions, message in cases:
        with pytest.raises(ValueError, match=message):
            grid.fields(values, [D(name)], conditions)
    for make, message in (
        (lambda: pde.Levels([0.0]), "`times`"),
        (lambda: pde.Levels([0.0, 1.0], 7), "`order`"),
        (lambda: pde.Cells([0.0, 2.0, 1.0]), "`faces`"),
        (lambda: pde.Face("x", 0), "`outward`"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
