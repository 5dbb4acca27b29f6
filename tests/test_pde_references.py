"""References against each other, closed forms, residuals by differences, and their own error estimates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from jaxsci.pde import reference as ref

TAU = 2 * np.pi


def mesh(*axes):
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def difference(function, points, axis, order=1, h=1e-3):
    """The first or second derivative of a reference by differences of sixth order."""
    weights = {
        1: {1: 3 / 4, 2: -3 / 20, 3: 1 / 60, -1: -3 / 4, -2: 3 / 20, -3: -1 / 60},
        2: {0: -49 / 18, 1: 3 / 2, -1: 3 / 2, 2: -3 / 20, -2: -3 / 20, 3: 1 / 90, -3: 1 / 90},
    }[order]
    step = h * np.eye(points.shape[1])[axis]
    return sum(w * function(points + k * step) for k, w in weights.items()) / h**order


def relative(a, b):
    return np.max(np.linalg.norm(a - b, axis=0) / np.linalg.norm(b, axis=0))


# --- one's own definition -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def some():
    """Points (x, t) inside every interval."""
    return mesh(np.linspace(0.11, 0.93, 7), np.array([0.12, 0.31, 0.45]))


def residuals(some):
    x, t = some.T[:, :, None]
    r = lambda reference: lambda axis, order=1, p=some: difference(reference, p, axis, order)
    burgers, moving = ref.burgers(0.05), ref.moving_burgers(0.2, 3.0)
    convection, logistic = ref.convection_diffusion(3.0, 0.2), ref.reaction(4.0)
    heat, wave = ref.heat(0.3, ((1.0, 1), (0.2, 3))), ref.wave()
    poisson, inverse = ref.multiscale_poisson((1, 2)), ref.inverse_diffusivity()
    inviscid = ref.characteristics(ref.sine_law(), domain=(0.0, TAU), end=0.6)
    for name, u, nu in (("burgers", burgers, 0.05), ("moving", moving, 0.2), ("inviscid", inviscid, 0.0)):
        yield name, r(u)(1) + u(some) * r(u)(0) - nu * r(u)(0, 2)
    yield "convection", r(convection)(1) + 3.0 * r(convection)(0) - 0.2 * r(convection)(0, 2)
    yield "reaction", r(logistic)(1) - 4.0 * logistic(some) * (1 - logistic(some))
    yield "heat", r(heat)(1) - 0.3 * r(heat)(0, 2)
    yield "wave", r(wave)(1, 2) - 4.0 * r(wave)(0, 2)
    f = sum(2 * (w * np.pi) ** 2 * np.sin(w * np.pi * x) * np.sin(w * np.pi * t) for w in (1, 2)) / 2
    yield "poisson", r(poisson)(0, 2) + r(poisson)(1, 2) + f
    flux = lambda axis: lambda p: inverse(p)[:, 1] * difference(inverse, p, axis)[:, 0]
    yield "inverse", difference(flux(0), some, 0) + difference(flux(1), some, 1) + inverse(some)[:, 2]
    points = np.linspace(0.1, 0.9, 12).reshape(2, 6)
    laplacian = lambda u, p: sum(difference(u, p, axis, 2) for axis in range(p.shape[1]))
    cosines = ref.poisson_cosines(6)
    yield "cosines", laplacian(cosines, points) + np.pi**2 * cosines(points)
    yield "harmonic", laplacian(ref.harmonic_products(6), points)
    yield "holes", laplacian(ref.square_with_holes(order=8), some * 0.2)
    pulse = ref.rotating_pulse(0.02, width=0.5)
    p = np.column_stack([some, some[::-1, 0]])
    x, y = p.T[:2, :, None]
    d = lambda axis, order=1: difference(pulse, p, axis, order)
    yield "pulse", d(2) - y * d(0) + x * d(1) - 0.02 * (d(0, 2) + d(1, 2))


def test_equations_hold(some):
    for name, residual in residuals(some):
        assert np.max(np.abs(residual)) < 2e-8, name


@pytest.mark.parametrize("case", ["kovasznay", "cavity"])
def test_navier_stokes_holds(case, some):
    re, flow = {
        "kovasznay": lambda: (40.0, ref.kovasznay(40.0)),
        "cavity": lambda: (100.0, ref.cavity(100.0, points=24)),
    }[case]()
    tolerance = {"kovasznay": 1e-8, "cavity": 1e-2}[case]
    d = lambda axis, order=1: difference(flow, some, axis, order, h=5e-3)
    u, v, _ = flow(some).T
    convected = u[:, None] * d(0) + v[:, None] * d(1)
    momentum = convected[:, :2] - (d(0, 2) + d(1, 2))[:, :2] / re
    momentum[:, 0] += d(0)[:, 2]
    momentum[:, 1] += d(1)[:, 2]
    assert np.max(np.abs(momentum)) < tolerance
    assert np.max(np.abs(d(0)[:, 0] + d(1)[:, 1])) < 1e-7


def test_initial_and_boundary_values():
    x = np.linspace(-1, 1, 21)
    assert np.allclose(ref.burgers()(mesh(x, [0.0]))[:, 0], -np.sin(np.pi * x), rtol=0, atol=1e-14)
    assert np.allclose(ref.moving_burgers()(mesh(x, [0.0]))[:, 0], 10 + np.sin(x), rtol=0, atol=1e-14)
    assert np.max(np.abs(ref.burgers()(mesh([-1.0, 1.0], [0.0, 0.3, 1.0])))) < 1e-14
    law = ref.inviscid_burgers()
    assert np.allclose(law(mesh(x, [0.0]))[:, 0], 0.5 + np.sin(x), rtol=0, atol=1e-8)
    flow, s = ref.cavity(points=24), np.linspace(0, 1, 11)
    assert np.allclose(flow(mesh(s, [1.0]))[:, 0], 4 * s * (1 - s), rtol=0, atol=1e-5)
    still = np.concatenate([mesh(s, [0.0]), mesh([0.0, 1.0], s)])
    assert np.max(np.abs(flow(still)[:, :2])) < 1e-4
    assert np.max(np.abs(flow(mesh(s, [1.0]))[:, 1])) < 1e-12


# --- conservation laws --------------------------------------------------------------------------


def test_shock_by_equal_areas():
    law = ref.sine_law(0.5)
    solution = ref.hopf_lax(law, domain=(0.0, TAU), end=3.0)
    for t in (1.2, 2.0, 3.0):
        shock = law.shock(t, np.pi + t / 2 - 0.4, np.pi + t / 2 + 0.3)
        assert abs(shock - np.pi - t / 2) < 1e-12
        # Rankine and Hugoniot: it moves with the mean of the values beside it.
        left, right = solution(np.array([[shock - 1e-9, t], [shock + 1e-9, t]]))[:, 0]
        assert left > right and abs((left + right) / 2 - 0.5) < 1e-7
    smooth = ref.characteristics(law, domain=(0.0, TAU), end=0.9)
    points = mesh(np.linspace(0, TAU, 40), np.linspace(0, 0.9, 4))
    assert np.array_equal(smooth(points), solution(points))


def test_another_flux():
    # f = u⁴/4 + u from a profile of 1/2 + 1/4 sin x: mass is kept through the shock.
    profile = lambda x: 0.5 + 0.25 * np.sin(x)
    law = ref.ConservationLaw(
        profile,
        lambda x: 0.5 * x - 0.25 * np.cos(x),
        bounds=(1 + 0.25**3, 1 + 0.75**3),
        flux=lambda u: u**4 / 4 + u,
        speed=lambda u: u**3 + 1,
    )
    x = TAU * (np.arange(4000) + 0.5) / 4000
    for t in (2.0, 8.0):
        u = law.entropic(mesh(x, [t]))
        assert abs(np.mean(u) - 0.5) < 1e-4
    assert np.max(np.diff(u[:, 0])) < 1e-2 and np.min(np.diff(u[:, 0])) < -0.1


# --- Fourier and ETDRK4 -------------------------------------------------------------------------


def test_order_of_etdrk4():
    # v' = (−1 + 2i) v + v²: v = λ c e^(λt)/(1 − c e^(λt)), c = v₀/(v₀ + λ).
    symbol = jnp.array([-1.0 + 2.0j, -4.0 + 0.0j, 1e-3j])
    start = jnp.array([0.3 + 0.1j, 0.5 + 0.2j, -0.7 + 0.2j])
    grown = (start / (start + symbol)) * jnp.exp(symbol * 2.0)
    exact = symbol * grown / (1 - grown)
    errors = []
    for steps in (20, 40, 80):
        found = jax.jit(lambda v, n=steps: ref.etdrk4(symbol, jnp.square, v, 2.0, n))(start)[-1]
        errors.append(np.abs(found - exact))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(orders[-1] - 4) < 0.3), orders
    assert np.all(errors[-1] < 1e-7)


def test_etdrk4_keeps_the_precision():
    start = jnp.ones(3, jnp.complex64)
    found = ref.etdrk4(-np.arange(3.0), lambda v: np.zeros(3) * v, start, np.float64(1.0), 4)
    assert found.dtype == jnp.complex64
    assert np.allclose(found[0], np.exp(-np.arange(3)), rtol=1e-6)


def test_etdrk4_is_differentiable():
    # v' = −v + a v²: ∂v/∂a at the end, against differences.
    last = jax.jit(lambda a: ref.etdrk4(-jnp.ones(1), lambda v: a * v**2, jnp.array([0.4]), 1.0, 8)[-1, 0])
    slope = (last(0.5 + 1e-4) - last(0.5 - 1e-4)) / 2e-4
    assert abs(jax.grad(last)(0.5) - slope) < 1e-8


@pytest.fixture(scope="module")
def viscous():
    """Burgers on Fourier modes, as a reference of its own: ν = 0.1, C = 1."""
    return ref.periodic(
        lambda k: -0.1 * k**2,
        lambda v, f: -0.5j * f.wavenumbers[0] * f.modes(f.values(v) ** 2),
        lambda x: 1.0 + np.sin(x),
        ref.Fourier((0.0,), (TAU,), (256,), 2 / 3),
        end=1.0, steps=800, saves=20,
    )  # fmt: skip


def test_etdrk4_against_cole_hopf(viscous):
    other = ref.moving_burgers(0.1, 1.0)
    points = mesh(np.linspace(0, TAU, 33), np.linspace(0, 1, 11))  # saved times
    points = np.concatenate([points, points[3:30:11] + np.array([0.03, 0.0123])])  # and one between
    assert np.max(np.abs(viscous(points) - other(points))) < 1e-10
    assert viscous.error < 1e-9


def test_reaction_diffusion_in_the_limit():
    # Without diffusion the modes still solve the logistic equation; the kink limits them.
    found = ref.reaction_diffusion(2.0, 1e-9, points=128, steps=400)
    points = mesh(np.linspace(0.5, 5.7, 30), [0.5, 1.0])
    assert relative(found(points), ref.reaction(2.0)(points)) < 1e-4


def test_two_dimensions():
    # Taylor and Green's vortices: u·∇ω = 0, so that ω decays like e^(−2νt), if the velocity is right.
    def nonlinear(w, f):
        kx, ky = f.wavenumbers
        square = kx**2 + ky**2
        psi = w / np.where(square == 0, 1.0, square)
        u, v = f.values(1j * ky * psi), f.values(-1j * kx * psi)
        return -f.modes(u * f.values(1j * kx * w) + v * f.values(1j * ky * w))

    vortex = lambda x, y: 2 * np.sin(x) * np.cos(y)
    shifted = ref.periodic(
        lambda kx, ky: -0.1 * (kx**2 + ky**2),
        nonlinear,
        vortex,
        ref.Fourier((0.0, 0.0), (TAU, TAU), (16, 12), 2 / 3),
        end=1.0, steps=8, saves=2, coordinates=("x", "y", "t"), field="w",
    )  # fmt: skip
    points = mesh([0.1, 2.0], [0.3, 5.0, 6.0], [0.0, 0.5, 0.8, 1.0])
    x, y, t = points.T
    assert np.allclose(shifted(points)[:, 0], np.exp(-0.2 * t) * vortex(x, y), rtol=0, atol=1e-13)


def test_fourier_sum_is_the_inverse_transform():
    fourier = ref.Fourier((-1.0,), (1.0,), (16,))
    values = np.exp(np.sin(np.pi * fourier.points()[0]))
    modes = fourier.modes(jnp.asarray(values))
    at_points = ref.fourier_sum(fourier, np.asarray(modes), fourier.points()[0])
    assert np.allclose(at_points, fourier.values(modes), rtol=0, atol=1e-14)
    assert np.allclose(at_points, values, rtol=0, atol=1e-6)  # but for the mode of alternating sign


@pytest.mark.parametrize("name", ["allen_cahn", "kdv", "kuramoto_sivashinsky"])
def test_estimates_bound_the_error_of_the_periodic_cases(name):
    # A finer solution is far from a coarser one's own estimate; both programs are short.
    size = {"allen_cahn": 96, "kdv": 96, "kuramoto_sivashinsky": 256}[name]
    make = {
        "allen_cahn": lambda n: ref.allen_cahn(1e-2, points=n, steps=400),
        "kdv": lambda n: ref.kdv(0.1, points=n, steps=2000),
        "kuramoto_sivashinsky": lambda n: ref.kuramoto_sivashinsky(end=0.2, points=n, steps=2000),
    }[name]
    coarse, fine = make(size), make(2 * size)
    points = mesh(np.linspace(0.0, 1.0, 25), [0.1, 0.2])
    assert relative(coarse(points), fine(points)) < coarse.error
    assert fine.error < coarse.error < 1e-2


# --- Poisson and the cavity ---------------------------------------------------------------------


def test_holes_against_finite_differences():
    # Shortley and Weller's scheme: legs cut short at the holes. One quarter, by symmetry.
    n, center, radius = 79, np.array([0.3, 0.3]), 0.1
    h = 0.5 / n  # no point of the grid lies on a hole
    at = lambda i, j: h * np.array([i, j])
    inside = lambda i, j: np.hypot(*(at(i, j) - center)) <= radius
    number = {(i, j): None for i in range(n) for j in range(n) if not inside(i, j)}
    number = {place: k for k, place in enumerate(number)}
    rows, columns, entries, right = [], [], [], np.zeros(len(number))
    for (i, j), k in number.items():
        for axis in (0, 1):
            legs = []
            for side in (-1, 1):
                step = np.eye(2, dtype=int)[axis] * side
                a, b = abs(i + step[0]), abs(j + step[1])  # mirrored at the axes
                if max(a, b) == n:
                    legs.append((h, None, 1.0))
                elif inside(a, b):
                    across = (at(i, j) - center)[1 - axis]
                    edge = center[axis] - side * np.sqrt(radius**2 - across**2)
                    legs.append((abs(edge - at(i, j)[axis]), None, 0.0))
                else:
                    legs.append((h, number[a, b], 0.0))
            total = legs[0][0] + legs[1][0]
            for length, neighbor, value in legs:
                weight = 2 / (length * total)
                rows.append(k), columns.append(k), entries.append(-weight)
                if neighbor is None:
                    right[k] -= weight * value
                else:
                    rows.append(k), columns.append(neighbor), entries.append(weight)
    matrix = scipy.sparse.csr_matrix((entries, (rows, columns)), shape=(len(number),) * 2)
    u = scipy.sparse.linalg.spsolve(matrix, right)
    exact = ref.square_with_holes()(h * np.array(list(number)))[:, 0]
    assert relative(u[:, None], exact[:, None]) < 1e-3


def test_holes_keep_boundary_values():
    solution = ref.square_with_holes()
    assert solution.error < 1e-8
    s = np.linspace(-0.5, 0.5, 77)
    sides = np.concatenate([mesh(s, [-0.5, 0.5]), mesh([-0.5, 0.5], s)])
    assert np.max(np.abs(solution(sides) - 1)) < 1e-8
    angle = np.linspace(0, TAU, 61)
    edge = np.array([-0.3, 0.3]) + 0.1 * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert np.max(np.abs(solution(edge))) < 1e-8
    # Another arrangement, with other values: one hole, 2 on it and −1 outside.
    one = ref.square_with_holes([[0.1, -0.2]], 0.15, half_width=1.0, outer=-1.0, inner=2.0, order=10)
    assert one.error < 1e-8 and abs(one([[0.25, -0.2]])[0, 0] - 2) < 1e-7


def test_cavity_at_two_resolutions():
    coarse, fine = ref.cavity(points=16), ref.cavity(points=24)
    points = mesh(np.linspace(0.05, 0.95, 9), np.linspace(0.05, 0.95, 9))
    error = np.linalg.norm(coarse(points) - fine(points), axis=0) / np.linalg.norm(fine(points), axis=0)
    assert np.all(error < coarse.errors) and np.all(error[:2] < 1e-3)
    assert np.all(np.array(fine.errors) < np.array(coarse.errors) / 5)
    # Nothing flows through a vertical section, and p has mean zero.
    nodes, weights = np.polynomial.legendre.leggauss(30)
    section = mesh([0.4], (nodes + 1) / 2)
    assert abs(weights @ fine(section)[:, 0]) < 1e-6
    area = mesh((nodes + 1) / 2, (nodes + 1) / 2)
    assert abs(np.outer(weights, weights).ravel() @ fine(area)[:, 2]) < 1e-4


# --- mistakes -----------------------------------------------------------------------------------

MISTAKES = {
    "shape of points": (lambda: ref.wave()(np.zeros((3, 3))), "`points` has shape"),
    "flat points": (lambda: ref.wave()(np.zeros(2)), "`points` has shape"),
    "no viscosity": (lambda: ref.burgers(0.0), "`viscosity`"),
    "before the start": (lambda: ref.burgers(0.1)([[0.0, -1.0]]), "`points` has times"),
    "law before the start": (lambda: ref.inviscid_burgers()([[0.0, -1.0]]), "`t` goes down"),
    "crossed": (
        lambda: ref.characteristics(ref.sine_law(), domain=(0.0, TAU), end=0.5)([[np.pi + 1, 2.0]]),
        "`hopf_lax`",
    ),
    "bounds": (
        lambda: dataclasses.replace(ref.sine_law(), bounds=(5.0, 6.0)).entropic(np.array([[1.0, 1.0]])),
        "check `bounds`",
    ),
    "odd points": (lambda: ref.Fourier((0.0,), (1.0,), (7,)), "`shape`"),
    "corners": (lambda: ref.Fourier((0.0,), (1.0, 2.0), (8,)), "`low`, `high` and `shape`"),
    "dealias": (lambda: ref.Fourier((0.0,), (1.0,), (8,), 1.5), "`dealias`"),
    "saves": (lambda: ref.etdrk4(jnp.ones(1), jnp.square, jnp.ones(1), 1.0, 10, saves=3), "`steps` is 10"),
    "odd steps": (lambda: ref.allen_cahn(points=8, steps=100), "2·saves"),
    "odd dimensions": (lambda: ref.harmonic_products(3), "`dimensions` is 3"),
    "holes touch": (lambda: ref.square_with_holes(radius=0.3), "touch"),
    "too fast a flow": (lambda: ref.cavity(1e5, points=12), "`reynolds`"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_times_outside(viscous):
    with pytest.raises(ValueError, match="`points` has times"):
        viscous([[0.0, 1.5]])


def test_single_precision_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="JAX_ENABLE_X64"):
        ref.kdv()
