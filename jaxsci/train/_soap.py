"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree


class _Axis(NamedTuple):
    covariance: Array  # moving average of G Gᵀ over all other axes; empty where an axis is left alone
    basis: Array  # its eigenvectors Q, approximately, by falling eigenvalue; empty likewise


class _State(NamedTuple):
    count: Int[Array, ""]
    first: PyTree[Array]  # moment m, in the coordinates of the parameters
    second: PyTree[Array]  # moment v, in the eigenbasis
    axes: list[list[_Axis]]  # for each leaf, for each of its axes


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
) -> optax.GradientTransformation:
    """SOAP, an Optax transformation: Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

    For a matrix with gradient G,

        L ← b₂ L + (1 − b₂) G Gᵀ,  R ← b₂ R + (1 − b₂) Gᵀ G,  m ← b₁ m + (1 − b₁) G,
        G′ = Q_Lᵀ G Q_R,  v ← b₂ v + (1 − b₂) G′²,  step = −η Q_L (m̂′ / (√v̂ + ε)) Q_Rᵀ,

    with m′ = Q_Lᵀ m Q_R, the bias corrections m̂, v̂ of Adam, and Q_L, Q_R the eigenvectors of L and R. They
    are refreshed every `precondition_frequency` steps, by one step of orthogonal iteration, Q ← qr(L Q),
    whose columns (and those of v) are first sorted by qᵀLq; the first bases are exact. As in the authors'
    program, the first gradient only makes the bases (its step is zero), and a gradient enters L and R
    after its own step. Arrays with more axes have one basis for each; those with one axis or none, and axes
    longer than `max_precond_dim`, are left as they are: where that is all axes, this is Adam.

    On physics-informed networks it turns the conflict of their losses' gradients into agreement, and is the
    first-order method to try before quasi-Newton ones.

    **Arguments:**

    - `learning_rate`: η (unit of the parameters), a number or an Optax schedule of the number of steps.
    - `b1`, `b2`: decay of the first moment; of the second, and of L and R (dimensionless, in [0, 1)).
    - `eps`: ε (unit of the gradient).
    - `weight_decay`: decoupled, −η · weight_decay · parameters (needs `params` in `update`).
    - `precondition_frequency`: steps between refreshed bases. They are in a `lax.cond`: under `vmap` they
        would be made at every step.
    - `max_precond_dim`: longest axis with a basis; its cost is cubic in it at a refresh.

    **Returns:** an `optax.GradientTransformation`.

    **Raises:** `ValueError` for arguments out of range; in `update`, for `weight_decay` without `params`.

    **Reference:** Vyas et al., SOAP: Improving and stabilizing Shampoo using Adam, ICLR 2025; Wang, Bhartari,
    Li & Perdikaris, Gradient alignment in physics-informed neural networks, NeurIPS 2025.
    """
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` is {value!r}; expected a decay in [0, 1), such as 0.95.")
    if not eps > 0:
        raise ValueError(f"`eps` is {eps!r}; expected a positive number, such as 1e-8.")
    if not weight_decay >= 0:
        raise ValueError(f"`weight_decay` is {weight_decay!r}; expected a number ≥ 0, such as 1e-2.")
    for name, value in (
        ("precondition_frequency", precondition_frequency),
        ("max_precond_dim", max_precond_dim),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` is {value!r}; expected an integer ≥ 1, such as 10.")

    def init(params):
        leaves = jax.tree.leaves(params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return _State(jnp.array(0), zeros, zeros, [_no_axes(p, max_precond_dim) for p in leaves])

    def update(updates, state, params=None):
        gradients, structure = jax.tree.flatten(updates)
        first = [b1 * m + (1 - b1) * g for m, g in zip(jax.tree.leaves(state.first), gradients, strict=True)]
        second = jax.tree.leaves(state.second)
        steps, moments, axes = [], [], []
        # Leaves without a basis need no first step to make one.
        for g, m, v, old in zip(gradients, first, second, state.axes, strict=True):
            turned = any(axis.basis.size > 0 for axis in old)
            skipped = turned & (state.count == 0)
            count = state.count + (0 if turned else 1)
            m = jnp.where(skipped, 0, m)
            v = jnp.where(skipped, v, b2 * v + (1 - b2) * _into(g, old) ** 2)
            exponent = jnp.maximum(count, 1).astype(v.dtype)
            scaled = jnp.sqrt(v / (1 - b2**exponent)) + eps
            step = _out(_into(m, old) / (1 - b1**exponent) / scaled, old)
            v, new = _refresh(g, v, old, state.count, b2, precondition_frequency)
            steps.append(jnp.where(skipped, 0, step).astype(g.dtype))
            moments.append((m, v))
            axes.append(new)
        tree = lambda leaves: jax.tree.unflatten(structure, leaves)
        state = _State(state.count + 1, tree([m for m, _ in moments]), tree([v for _, v in moments]), axes)
        return tree(steps), state

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay) if weight_decay > 0 else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def _no_axes(p: Array, longest: int) -> list[_Axis]:
    sizes = [n if p.ndim > 1 and n <= longest else 0 for n in p.shape]
    return [_Axis(jnp.zeros((n, n), p.dtype), jnp.eye(n, dtype=p.dtype)) for n in sizes]


def _along(tensor: Array, matrix: Array, axis: int) -> Array:
    """Contract the axis with the first axis of the matrix, in place."""
    if matrix.size == 0:
        return tensor
    turned = jnp.tensordot(tensor, matrix, ([axis], [0]), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(turned, -1, axis)


def _into(tensor: Array, axes: list[_Axis]) -> Array:
    for i, axis in enumerate(axes):
        tensor = _along(tensor, axis.basis, i)
    return tensor


def _out(tensor: Array, axes: list[_Axis]) -> Array:
    for i, axis in enumerate(axes):
        tensor = _along(tensor, axis.basis.T, i)
    return tensor


def _refresh(g: Array, v: Array, axes: list[_Axis], count: Array, b2: float, every: int):
    """The covariances with this gradient, and, when it is time, v and the bases that follow them."""
    covariances = []
    for i, axis in enumerate(axes):
        if axis.basis.size > 0:
            others = [j for j in range(g.ndim) if j != i]
            square = jnp.tensordot(g, g, (others, others), precision=jax.lax.Precision.HIGHEST)
            covariances.append(b2 * axis.covariance + (1 - b2) * square)
        else:
            covariances.append(axis.covariance)
    bases = [axis.basis for axis in axes]
    if all(basis.size == 0 for basis in bases):
        return v, axes

    def exact(v, bases):
        # Eigenvalues fall along the columns.
        exactly = lambda c: jnp.linalg.eigh(c)[1][:, ::-1]
        return v, [exactly(c) if c.size > 0 else q for c, q in zip(covariances, bases, strict=True)]

    def iterate(v, bases):
        new = []
        for i, (c, q) in enumerate(zip(covariances, bases, strict=True)):
            if q.size > 0:
                image = jnp.matmul(c, q, precision=jax.lax.Precision.HIGHEST)
                order = jnp.argsort(-jnp.sum(q * image, axis=0))
                v, q = jnp.take(v, order, axis=i), jnp.linalg.qr(image[:, order])[0]
            new.append(q)
        return v, new

    which = jnp.where(count == 0, 1, jnp.where(count % every == 0, 2, 0))
    keep = lambda v, bases: (v, bases)
    v, bases = jax.lax.switch(which, [keep, exact, iterate], v, bases)
    return v, [_Axis(c, q) for c, q in zip(covariances, bases, strict=True)]
