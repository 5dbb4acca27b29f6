"""Derivatives of networks by Taylor mode beside nested jvp, nested grad, jax.experimental.jet and folx.

A case is a network and what an equation needs of it at 500 points, once the values alone and once their
Jacobian in the parameters (vmap of reverse mode), as a Gauss–Newton step needs it. A figure is our processor
time over that of the fastest peer; the times of all, with compilation and the largest difference from ours
relative to the largest entry, stand in the details.
"""

import importlib.util
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental import jet

from jaxsci import nn, pde

from ._harness import Row, compiled, measure_in_turns

X64 = True
# Beside the fastest peer: of values, and of what training spends its time on.
VALUES, JACOBIAN = 1.5, 1.1

Engine = Callable[[Callable, jax.Array], list]


class Case:
    """Which derivatives of which fields, of an MLP with 3 × 24 neurons."""

    def __init__(self, fields: str, coordinates: tuple[str, ...], names: str):
        self.fields, self.coordinates = tuple(fields), coordinates
        self.wanted = [pde.parse(name, self.fields, coordinates) for name in names.split()]
        # What the peers sum up where we ask for one Laplacian.
        self.parts = [
            [(self.fields.index(term.field), tuple(map(coordinates.index, term.along))) for term in terms]
            for terms in (pde.written_out(derivative, coordinates) for derivative in self.wanted)
        ]

    def engines(self) -> dict[str, Engine]:
        found = {"ours": self.ours, "nested jvp": self.nested_jvp, "nested grad": self.nested_grad}
        pure = all(len(set(along)) <= 1 for terms in self.parts for _, along in terms)
        if pure:
            found["jet"] = self.jet
        if any("lap" in derivative.along for derivative in self.wanted) and importlib.util.find_spec("folx"):
            found["folx"] = self.folx
        return found

    def ours(self, f, p):
        d = pde.differentiate(f, self.wanted, p, fields=self.fields, coordinates=self.coordinates)
        return [d[derivative.name] for derivative in self.wanted]

    def nested_jvp(self, f, p):
        table = _tower(f, frozenset(along for terms in self.parts for _, along in terms), p.size)(p)
        return [sum(table[along][field] for field, along in terms) for terms in self.parts]

    def nested_grad(self, f, p):
        def one(field, along):
            g = lambda p: f(p)[field]
            for i in along:
                g = lambda p, g=g, i=i: jax.grad(g)(p)[i]
            return g(p)

        return [sum(one(field, along) for field, along in terms) for terms in self.parts]

    def jet(self, f, p):
        orders: dict[int, int] = {}
        for terms in self.parts:
            for _, along in terms:
                if along:
                    orders[along[0]] = max(orders.get(along[0], 0), len(along))
        table = {(): f(p)}
        for i, order in orders.items():
            series = (jnp.zeros_like(p).at[i].set(1), *(jnp.zeros_like(p),) * (order - 1))
            _, out = jet.jet(f, (p,), (series,))
            table |= {(i,) * (k + 1): value for k, value in enumerate(out)}
        return [sum(table[along][field] for field, along in terms) for terms in self.parts]

    def folx(self, f, p):
        import folx

        out = folx.forward_laplacian(f, 0)(p)
        return [(out.laplacian if d.along else out.x)[self.fields.index(d.field)] for d in self.wanted]


def _tower(f, orders, n):
    """Derivatives with one last direction come out of one push-forward of what is left of them."""

    def at(p):
        table = {}
        for c in range(n):
            below = frozenset(order[:-1] for order in orders if order and order[-1] == c)
            if below:
                direction = jnp.zeros_like(p).at[c].set(1)
                primal, tangent = jax.jvp(_tower(f, below, n), (p,), (direction,))
                table |= primal | {(*order, c): value for order, value in tangent.items()}
        if () in orders and () not in table:
            table[()] = f(p)
        return {order: table[order] for order in orders}

    return at


def _cases(quick: bool) -> dict[str, Case]:
    xt, ten = ("x", "t"), tuple(f"x{i}" for i in range(10))
    burgers = {"Burgers": Case("u", xt, "u u_t u_x u_xx")}
    if quick:
        return burgers | {"2-D Laplacian": Case("u", ten[:2], "u u_lap")}
    return burgers | {
        "KdV": Case("u", xt, "u u_t u_x u_xxx"),
        "Kuramoto-Sivashinsky": Case("u", xt, "u u_t u_x u_xx u_xxxx"),
        "Navier-Stokes 2-D": Case("uvp", ("x", "y"), "u u_x u_y u_xx u_yy v v_x v_y v_xx v_yy p_x p_y"),
        "10-D Laplacian": Case("u", ten, "u u_lap"),
    }


def _residual(engine: Engine, network, p):
    values = engine(network, p)
    # Something nonlinear, as an equation is.
    return sum((i + 1.0) * value for i, value in enumerate(values)) + values[0] * values[-1]


def _values(engine: Engine) -> Callable:
    return jax.vmap(lambda network, p: _residual(engine, network, p), (None, 0))


def _jacobian(engine: Engine) -> Callable:
    def at(network, p):
        dynamic, static = eqx.partition(network, eqx.is_inexact_array)
        return jax.grad(lambda dynamic: _residual(engine, eqx.combine(dynamic, static), p))(dynamic)

    return eqx.filter_vmap(at, in_axes=(None, 0))


def run(quick: bool) -> Iterator[Row]:
    points, width, depth, repeats = (50, 8, 2, 5) if quick else (500, 24, 3, 25)
    for label, case in _cases(quick).items():
        d = len(case.coordinates)
        network = nn.MLP(d, len(case.fields), width=width, depth=depth, key=jax.random.key(0))
        batch = jax.random.uniform(jax.random.key(1), (points, d), minval=-1.0)
        for what, make, target in (("values", _values, VALUES), ("Jacobian", _jacobian, JACOBIAN)):
            programs = {name: compiled(make(e), network, batch) for name, e in case.engines().items()}
            times = measure_in_turns({name: p.run for name, p in programs.items()}, repeats=repeats)
            reference = jax.tree.leaves(times["ours"].result)
            scale = max(float(jnp.max(jnp.abs(a))) for a in reference)
            detail = {}
            for name, time in times.items():
                leaves = jax.tree.leaves(time.result)
                gap = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(leaves, reference, strict=True))
                detail[name] = time.as_detail() | programs[name].as_fields() | {"difference": gap / scale}
            peers = {name: time.cpu_s for name, time in times.items() if name != "ours"}
            fastest = min(peers, key=peers.__getitem__)
            agreed = all(detail[name]["difference"] < 1e-9 for name in times)
            figure = times["ours"].cpu_s / peers[fastest] if agreed else float("nan")
            detail |= {"points": points, "fastest peer": fastest}
            name = f"{label}, {what}"
            yield Row(f"{name}: beside fastest", figure, "x", target, detail=detail)
            quickest = min(programs[peer].compile_s for peer in peers)
            yield Row(f"{name}: compilation beside quickest", programs["ours"].compile_s / quickest, "x")
            for engine, time in times.items():
                yield Row(f"{name}: {engine}", 1e3 * time.cpu_s, "ms")
