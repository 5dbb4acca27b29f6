"""A solution along characteristics."""

from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import pde
from .._solution import RESULTS
from .._solve import solve
from ..pde._taylor import taylor
from ..residuals import Root
from ..solvers import BracketedNewton, Newton
from ._ansatz import named
from ._check import check_branch, check_transport
from ._deformation import determinant, spread
from ._entropy import Entropy, make_entropy
from ._labels import AbstractLabels, FromInlet, check_crossing, make_labels
from ._model import AbstractPINN, EquationTerm, check_point, same_equation


class Branches(eqx.Module):
    """The two networks of an [`jaxsci.pinn.LPINN`][], of features of a label and time: `characteristics` for
    positions, `state` for the fields. They share nothing."""

    characteristics: Callable
    state: Callable


class LPINN(AbstractPINN):
    """The solution of a transport equation in the Lagrangian frame: a physics-informed network X(ξ, t) for
    where the fluid that starts at ξ is, and one, U(ξ, t), for the fields there.

    For u_t + v·∇u = g Δu + s, with F = ∂X/∂ξ and J = det F,

        X_t = v(U, X, t),   J (U_t − s) = g div_ξ(J F⁻¹F⁻ᵀ ∇_ξU).

    No term of transport is left, so the error does not grow with the velocity. The second equation holds the
    whole Laplacian: (U_ξ/X_ξ)_ξ in one dimension. Initial and periodic conditions and values where the flow
    enters hold by construction: X = ξ + τ v₀ + τ² N_X, U = u₀ + τ N_U, τ the time since the start. ::

        model = pinn.LPINN(
            pde.Convection(50.0),
            pde.Box({"x": (0.0, 2 * jnp.pi), "t": (0.0, 1.0)}),
            [pde.Initial("u", lambda p: jnp.sin(p.x)), pde.Periodic("u", "x")],
            characteristics=nn.MLP(3, 1, width=10, depth=2, key=key1),
            state=nn.MLP(3, 1, width=10, depth=2, key=key2),
        )
        solution = pinn.fit(model, key=key3)
        solution.model(jnp.array([0.3, 0.5]))  # u at x = 0.3, t = 0.5

    A call is an Eulerian query: it finds the label with X(ξ, t) = x, and gives U there. Derivatives with
    respect to x, t, the networks and the equation, of any order, come from the implicit function theorem.

    **Arguments:**

    - `equation`: a [`jaxsci.pde.AbstractTransport`][] in one or two coordinates of space and `t`, the last.
    - `domain`: a `pde.Box` of space and time.
    - `conditions`: `pde.Initial` for each field; `pde.Periodic` for all fields along an axis; in one
      dimension `pde.Dirichlet` for all fields at the end where the flow enters. Elsewhere space goes on: what
      is followed is what starts in `labels`.
    - `characteristics`, `state`: networks of features of a label (cos and sin for a periodic axis; else one,
      scaled to [−1, 1]) and of time, scaled; to the coordinates of space, and to the fields.
    - `labels`: a `pde.Box` of starting positions and time, that of the domain by default.
    - `incompressible`: add the row J − 1, for a velocity without divergence.
    - `least_jacobian`: in one dimension: add the row max(0, `least_jacobian` − J), which keeps the map from
      labels to positions monotone; None: no such row.
    - `entropy`: for u_t + f(u)_x = 0 with convex or concave f: after characteristics have crossed, a query
      takes the label of the entropy solution, by the formula of Hopf, Lax and Oleinik, with shocks and fans.
    - `order`: 2: X_tt and U_t hold at the start by construction too, X = … + τ²/2 X_tt + τ³ N_X and
      U = … + τ U_t + τ² N_U. For smooth initial values, of which four derivatives are then taken, and little
      diffusion: |g Δu₀| times the duration should be below the range of u₀.

    **Returns:** at a point, the fields; NaN where no label is known: the fluid there started outside of
    `labels`, or the map is folded (J ≤ 0).

    **Raises:** `TypeError` or `ValueError` for an equation without transport form, conditions that have no
    place in this frame, networks of the wrong size or with common parameters, characteristics that cross
    within the domain (in one dimension, without diffusion and `entropy`), and `entropy` for an equation of
    another form.

    **Limits:** `entropy` does not see what happens between 257 labels. Fronts that diffusion keeps steep make
    J small, and training slow: see [`jaxsci.pinn.relabel`][]. Where the flow leaves there is no condition,
    and diffusion acts as if the domain went on. In the plane, whether characteristics cross is not checked.

    **Reference:** Mojgani, Balajewicz & Hassanzadeh, CMAME 404 (2023) 115810, whose diffusion term in
    published code, U_ξξ, is not this one. Evans, Partial Differential Equations, AMS 2010, §3.4.
    """

    equation: pde.AbstractTransport
    domain: pde.Box  # of labels and time
    network: Branches
    labels: AbstractLabels
    entropy: Entropy | None
    order: int = eqx.field(static=True)
    incompressible: bool = eqx.field(static=True)
    least_jacobian: float | None = eqx.field(static=True)

    def __init__(
        self,
        equation: pde.AbstractTransport,
        domain: pde.Box,
        conditions: Iterable,
        characteristics: Callable,
        state: Callable,
        *,
        labels: pde.Box | None = None,
        incompressible: bool = False,
        least_jacobian: float | None = None,
        entropy: bool = False,
        order: int = 1,
    ):
        check_transport(equation, domain)
        self.equation = equation
        self.labels = make_labels(equation, domain, tuple(conditions), labels)
        self.domain = self.labels.box
        n = len(domain.coordinates) - 1
        size = len(self.labels.features(jnp.zeros(n))) + 1
        check_branch("characteristics", characteristics, size, n)
        check_branch("state", state, size, len(equation.fields))
        ours = {id(x) for x in jax.tree.leaves(characteristics) if eqx.is_inexact_array(x)}
        if any(id(x) in ours for x in jax.tree.leaves(state)):
            raise ValueError(
                "`characteristics` and `state` have parameters in common; expected two networks of their "
                "own. Make each with its own key."
            )
        self.network = Branches(characteristics, state)
        self.entropy = make_entropy(equation, self.labels) if entropy else None
        if not (entropy or self._diffuses) and n == 1:
            check_crossing(equation, self.labels)
        if least_jacobian is not None and not (n == 1 and least_jacobian > 0):
            raise ValueError(
                f"`least_jacobian` is {least_jacobian!r} in {n} dimensions; expected a positive number "
                "in one."
            )
        if order not in (1, 2) or (order == 2 and isinstance(self.labels, FromInlet)):
            raise ValueError(f"`order` is {order!r}; expected 1, or, where nothing enters at a boundary, 2.")
        self.order = order
        self.incompressible = incompressible
        self.least_jacobian = least_jacobian

    def flow(self, label: Float[Array, " n"], t: Float[Array, ""]) -> tuple[Array, Array]:
        """X (n,) and U (fields,) of one label at a time."""
        box = self.labels.box.bounds
        start = self.labels.launch(label)
        first, last = box[-1].tolist()
        elapsed = t - start.time
        tau = elapsed / (last - first)
        features = jnp.stack([*self.labels.features(label), (2 * t - first - last) / (last - first)])
        size = jnp.asarray(box[:-1, 1] - box[:-1, 0], t.dtype)
        away = jnp.reshape(self.network.characteristics(features), label.shape)
        change = jnp.reshape(self.network.state(features), start.state.shape)
        position = start.position + elapsed * self._velocity(start.state, start.position, start.time)
        state = start.state
        if self.order == 2:
            acceleration, rate = self._begins(label, start)
            position = position + 0.5 * elapsed**2 * acceleration
            state = state + elapsed * rate
        # A twentieth of the box: with the networks that one begins with, J stays near one.
        return position + tau ** (self.order + 1) * size / 20 * away, state + tau**self.order * change

    def _begins(self, label, start):
        """X_tt and U_t where F is still the identity: U_t = g Δu₀ + s, and the change of v along with it."""
        state = lambda label: self.labels.launch(label).state
        rate = jnp.zeros_like(start.state)
        at = self._named(start.state, start.position, start.time)
        diffusion, source = self.equation.diffusion(*at), self.equation.source(*at)
        if diffusion is not None:
            for e in jnp.eye(len(label), dtype=label.dtype):
                slope = lambda label, e=e: jax.jvp(state, (label,), (e,))[1]
                rate = rate + diffusion * jax.jvp(slope, (label,), (e,))[1]
        if source is not None:
            rate = rate + jnp.stack([jnp.asarray(s, label.dtype) for s in source])
        now = (start.state, start.position, start.time)
        moving = (rate, self._velocity(*now), jnp.ones_like(start.time))
        return jax.jvp(self._velocity, now, moving)[1], rate

    def _named(self, state, position, t):
        point = named(jnp.concatenate([position, jnp.reshape(t, 1)]), self.equation.coordinates)
        return pde.Point(dict(zip(self.equation.fields, state, strict=True))), point

    def _velocity(self, state, position, t):
        found = self.equation.velocity(*self._named(state, position, t))
        return jnp.stack([jnp.asarray(v, position.dtype) for v in found])

    def jacobian(self, label: Float[Array, " n"], t: Float[Array, ""]) -> Float[Array, ""]:
        """J = det ∂X/∂ξ: below one, fluid has come together."""
        return determinant(jax.jacfwd(lambda label: self.flow(label, t)[0])(label))

    def residual(self, point: Float[Array, " d"]) -> Float[Array, " rows"]:
        """Of the position, of the fields, and of J, at a label and a time of the box of labels."""
        label, t = point[:-1], point[-1]
        start, (first, last) = self.labels.launch(label), self.labels.box.bounds[-1].tolist()
        # Before its start there is nothing to a label: its own times are spread over the axis.
        t = start.time + (t - first) * (last - start.time) / (last - first)
        n, diffuses = len(label), self._diffuses
        keys = [(i,) for i in range(n + 1)]
        if diffuses:
            keys += [(i, j) for i in range(n) for j in range(i, n)]
        flow = lambda p: self.flow(p[:-1], p[-1])
        x, u = (
            {key: table.get(key, 0 * table[()]) for key in [(), *keys]}
            for table in taylor(flow, keys)(jnp.append(label, t))
        )
        along = jnp.stack([x[(i,)] for i in range(n)], axis=1)
        fields, at = self._named(u[()], x[()], t)
        rows = [x[(n,)] - self._velocity(u[()], x[()], t)]
        source = self.equation.source(fields, at)
        change = u[(n,)]
        if source is not None:
            change = change - jnp.stack([jnp.asarray(s, t.dtype) for s in source])
        j = determinant(along)
        if diffuses:
            change = j * change - self.equation.diffusion(fields, at) * spread(along, x, u)
        rows.append(change)
        if self.incompressible:
            rows.append(jnp.reshape(j - 1, 1))
        if self.least_jacobian is not None:
            rows.append(jnp.reshape(jnp.maximum(self.least_jacobian - j, 0), 1))
        return jnp.concatenate(rows)

    @property
    def _diffuses(self) -> bool:
        zero = jnp.zeros(len(self.equation.coordinates) - 1)
        state = jnp.zeros(len(self.equation.fields))
        return self.equation.diffusion(*self._named(state, zero, jnp.zeros(()))) is not None

    def label(self, point: Float[Array, " d"]) -> Float[Array, " n"]:
        """ξ with X(ξ, t) = x at a point (x, t); NaN where there is none."""
        point = check_point(self, point)
        x, t = point[:-1], point[-1]
        if len(x) == 1:
            return self._label(point[0], t)[None]
        start, copy = self._nearest(x, t)
        found = solve(
            Root(lambda label, at: self.flow(label, at[1])[0] - at[0]),
            Newton(rtol=1e-12, atol=1e-13),
            start,
            (x + copy, t),
            throw=False,
            max_steps=50,
        )
        box, size, periodic = self._sides(x)
        # Rounding is not outside.
        inside = (found.value >= box[:, 0] - 1e-9 * size) & (found.value <= box[:, 1] + 1e-9 * size)
        known = (found.result == RESULTS.successful) & jnp.all(inside | periodic)
        known &= self.jacobian(found.value, t) > 0
        return jnp.where(known, found.value, jnp.nan)

    def _sides(self, x):
        """Of the box of labels: its bounds in space, its size, and whether it goes around."""
        box = jnp.asarray(self.labels.box.bounds[:-1], x.dtype)
        periodic = [name in self.labels.periodic for name in self.labels.box.coordinates[:-1]]
        return box, box[:, 1] - box[:, 0], np.array(periodic)

    def _nearest(self, x, t, count: int = 12):
        """Of the labels of a lattice, the one that is nearest to x then; and the periods to add to x."""
        box, size, periodic = self._sides(x)
        axes = [jnp.linspace(a, b, count) for a, b in box]
        lattice = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        away = jax.vmap(lambda label: self.flow(label, t)[0])(lattice) - x
        copies = jnp.where(periodic, size * jnp.round(away / size), 0)
        best = jnp.argmin(jnp.sum((away - copies) ** 2, axis=1))
        return jax.lax.stop_gradient((lattice[best], copies[best]))

    def _label(self, x, t):
        if self.entropy is not None:
            return self._entropic(x, t)[0]
        lower, upper = self.labels.bracket(x, t)
        first, last = self._position(lower, t), self._position(upper, t)
        target = x
        if self.labels.periodic:
            # X(ξ + L) = X(ξ) + L: the image of one period holds one copy of x.
            target = x - (last - first) * jax.lax.stop_gradient(jnp.floor((x - first) / (last - first)))
        slack = 1e-12 * (1 + jnp.abs(last - first))
        inside = (target >= first - slack) & (target <= last + slack)
        # Outside, a solvable problem in its place.
        target = jnp.where(inside, target, first)
        found = self._between(lower - slack, upper + slack, target, t)
        known = inside & (found.result == RESULTS.successful) & (self.jacobian(found.value[None], t) > 0)
        return jnp.where(known, found.value, jnp.nan)

    def _position(self, label, t):
        return self.flow(label[None], t)[0][0]

    def _between(self, lower, upper, x, t):
        root = Root(lambda label, at: self._position(label, at[1]) - at[0])
        return solve(root, BracketedNewton(lower, upper), lower + 0.5 * (upper - lower), (x, t), throw=False)

    def _entropic(self, x, t):
        """The label of the entropy solution, and whether X jumps over x there."""
        entropy = self.entropy
        tau = self._elapsed(t)
        below, above, area = entropy.brackets(x, tau)
        middle = 0.5 * (below + above)
        shift = jnp.zeros_like(middle)
        if self.labels.periodic:
            (a, b), *_ = self.labels.box.bounds.tolist()
            shift = (b - a) * jnp.floor((middle - a) / (b - a))
        widen = 0.25 * (above - below)
        lower, upper = below - widen - shift, above + widen - shift
        found = jax.vmap(lambda a, b, s: self._between(a, b, x - s, t))(lower, upper, shift)
        label = found.value + shift
        missed = jax.vmap(lambda y, s: self._position(y, t) + s - x)(found.value, shift)
        phi = area + jax.vmap(lambda a, y: jnp.sum(entropy.integral(a, y, 2)))(below, label)
        phi = phi + jax.vmap(entropy.cost, in_axes=(0, None, None))(label, x, tau)
        phi = jnp.where(found.result == RESULTS.successful, -phi if entropy.concave else phi, jnp.inf)
        best = jnp.argmin(phi)
        jumps = jnp.abs(missed[best]) > 1e-6 * (above - below)[best]
        # The label of a fan is where u₀ jumps, whatever x.
        label = jnp.where(jumps, jax.lax.stop_gradient(label[best]), label[best])
        return jnp.where(jnp.isfinite(phi[best]), label, jnp.nan), jumps

    def _elapsed(self, t):
        first, last = self.labels.box.bounds[-1].tolist()
        return jnp.maximum(t - first, 1e-9 * (last - first))

    def shock(
        self, t: Float[ArrayLike, ""], lower: Float[ArrayLike, ""], upper: Float[ArrayLike, ""]
    ) -> Float[Array, ""]:
        """Where the shock is at a time: the x between `lower` and `upper` at which two labels are as good,
        Φ(ξ₁) = Φ(ξ₂), X(ξ₁, t) = X(ξ₂, t) = x. Differentiable, in time as in the initial values; NaN if there
        is none. One shock may lie between the ends, and no jump of the initial values between ξ₁ and ξ₂."""
        if self.entropy is None:
            raise ValueError("This model has no shocks: make it with entropy=True.")
        t, a, b = (jnp.asarray(v, jnp.result_type(float, t)) for v in (t, lower, upper))
        # Bisection only finds where to begin; derivatives come from the tie.
        still = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, self)
        now, ends = jax.lax.stop_gradient((t, jnp.stack([a, b])))
        label = lambda x: still._entropic(x, now)[0]
        labels = jax.lax.map(label, ends)
        middle = 0.5 * jnp.sum(labels)

        def halve(_, ends):
            x = 0.5 * jnp.sum(ends)
            left = label(x) <= middle
            return jnp.where(left, jnp.stack([x, ends[1]]), jnp.stack([ends[0], x]))

        ends = jax.lax.fori_loop(0, 40, halve, ends)
        start = jnp.append(0.5 * jnp.sum(ends), jax.lax.map(label, ends))
        found = solve(Root(self._tie), Newton(rtol=1e-12, atol=1e-13), start, t, throw=False, max_steps=20)
        jump = found.value[2] - found.value[1]
        known = (found.result == RESULTS.successful) & (jump > 1e-3 * jnp.abs(start[2] - start[1]))
        return jnp.where(known, found.value[0], jnp.nan)

    def _tie(self, y, t):
        x, one, other = y
        entropy, tau = self.entropy, self._elapsed(t)
        gap = jnp.sum(entropy.integral(one, other, 32))
        gap = gap + entropy.cost(other, x, tau) - entropy.cost(one, x, tau)
        return jnp.stack([self._position(one, t) - x, self._position(other, t) - x, gap])

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " fields"]:
        """The fields at one point (x, t), in the order of `equation.fields`."""
        point = check_point(self, point)
        if self.entropy is None:
            return self.flow(self.label(point), point[-1])[1]
        x, t = point
        label, fan = self._entropic(x, t)
        inside = self.entropy.fan((x - label) / self._elapsed(t))
        return jnp.where(fan, inside, self.flow(label[None], t)[1])

    def terms(self):
        """The equation along characteristics."""
        return (EquationTerm(),)

    def with_equation(self, equation: pde.AbstractEquation) -> "LPINN":
        """The same networks for another equation of the same fields and coordinates."""
        new = eqx.tree_at(lambda m: m.equation, self, same_equation(equation, self.equation))
        if self.entropy is None:
            return new
        return eqx.tree_at(lambda m: m.entropy.equation, new, equation)
