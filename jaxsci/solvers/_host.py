"""Conversations between a compiled program and a host solver, which never call JAX from a callback.

A callback that runs JAX can wait for the very threads (or the accelerator) that wait for the callback. So
the host solver runs in a thread of its own; when it wants a value of the problem, the pending callback
returns with the question, the program computes the answer, and the next callback delivers it.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

RUNNING, SUCCEEDED, FAILED = 0, 1, 2


class HostProblem:
    """The problem as a host solver sees it: functions of flat float64 NumPy vectors.

    `size` is n, the number of scalar unknowns; `args` is θ as it was given to `jaxsci.solve`, with NumPy
    arrays, for solvers that compute y from θ by themselves. The functions below compute with the compiled
    residual, in the precision of the unknown.
    """

    def __init__(self, ask: Callable, size: int, args: Any, widths: dict[str, int]):
        self._ask = ask
        self._widths = widths
        self.size = size
        self.args = args

    def _value(self, face: str, y: np.ndarray, v: np.ndarray | None = None) -> np.ndarray:
        if face not in self._widths:
            raise ValueError(
                f"The host solver asked for `problem.{face}`, but this External knows {list(self._widths)} "
                "only. Name it in `faces`. Dense Jacobians are left out above 2²⁴ entries: use `jvp` and "
                "`vjp` there."
            )
        return self._ask(face, _vector(y, self.size, "y"), _vector(v, self._widths[face], "v"))

    def residual(self, y: np.ndarray) -> np.ndarray:
        """F(y, θ), all m scalars of it."""
        return self._value("residual", y)

    def jacobian(self, y: np.ndarray) -> np.ndarray:
        """∂F/∂y, of shape (m, n)."""
        return self._value("jacobian", y).reshape(-1, self.size)

    def jvp(self, y: np.ndarray, v: np.ndarray) -> np.ndarray:
        """∂F/∂y · v."""
        return self._value("jvp", y, v)

    def vjp(self, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        """(∂F/∂y)ᵀ · w."""
        return self._value("vjp", y, w)

    def root(self, y: np.ndarray) -> np.ndarray:
        """What a root finder drives to zero: n equations for the n unknowns."""
        return self._value("root", y)

    def root_jacobian(self, y: np.ndarray) -> np.ndarray:
        """The Jacobian of `root`, of shape (n, n)."""
        return self._value("root_jacobian", y).reshape(self.size, self.size)

    def objective(self, y: np.ndarray) -> float:
        """The scalar that a minimiser reduces."""
        return float(self._value("objective", y)[0])

    def gradient(self, y: np.ndarray) -> np.ndarray:
        """The gradient of the objective."""
        return self.value_and_gradient(y)[1]

    def value_and_gradient(self, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Both at once, for the price of the gradient."""
        found = self._value("value_and_gradient", y)
        return float(found[0]), found[1:]


def answer(found: Any, size: int, judged: bool) -> tuple[np.ndarray, bool, int]:
    """(y, success, steps) from what `run` has returned; `judged`: whether somebody else judges success."""
    if isinstance(found, Mapping):  # scipy.optimize.OptimizeResult
        parts = (found["x"], found["success"], found.get("nit", found.get("nfev", 0)))
    else:
        parts = found if isinstance(found, tuple) else (found,)
    y = np.asarray(parts[0])
    if not 1 <= len(parts) <= 3 or y.size != size or not np.issubdtype(y.dtype, np.number):
        raise ValueError(
            f"`run` of jaxsci.solvers.External returned {found!r}; expected the solution y as an array of "
            f"{size} numbers, or (y, success), or (y, success, steps), or SciPy's result object."
        )
    if len(parts) == 1 and not judged:
        raise ValueError(
            "`run` of jaxsci.solvers.External returned y alone, so nobody knows whether it has converged. "
            "Return (y, success), or give External an `atol` for the equations at y."
        )
    return y.reshape(-1), judged or bool(parts[1]), int(parts[2]) if len(parts) > 2 else 0


class _Session:
    """One run of a host solver in a thread of its own."""

    def __init__(self, run: Callable, y0: np.ndarray, args: Any, widths: dict[str, int]):
        self.questions: queue.SimpleQueue = queue.SimpleQueue()
        self.answers: queue.SimpleQueue = queue.SimpleQueue()
        problem = HostProblem(self._ask, y0.size, args, widths)

        def work():
            try:
                found = run(problem, y0)
            except BaseException as error:  # whatever it is, the program that waits must hear of it
                self.questions.put(error)
            else:
                self.questions.put(found)

        threading.Thread(target=work, name="jaxsci host solver", daemon=True).start()

    def _ask(self, face: str, y: np.ndarray, v: np.ndarray) -> np.ndarray:
        self.questions.put(_Question(face, y, v))
        return self.answers.get()


class _Question(NamedTuple):
    face: str
    y: np.ndarray
    v: np.ndarray


_SESSIONS: dict[int, _Session] = {}
_NUMBERS = itertools.count()


def converse(
    run: Callable,
    faces: dict[str, Callable],
    widths: dict[str, int],
    y0: Array,
    arrays: PyTree[Array],
    args_of: Callable,
) -> tuple[Array, Array, Array]:
    """Drive `run` from inside a program: (y, ended, steps).

    `faces` are functions of (y, v), flat vectors, with flat results; `widths` says how long v is (0: no v);
    `args_of(arrays)` is what `run` sees as `problem.args`. `run` returns what `answer` does.
    """
    names = list(faces)
    width = max(widths.values(), default=0)
    like = lambda *shape: jax.ShapeDtypeStruct(shape, y0.dtype)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = (number, number, like(y0.size), like(width), number, number)

    def reply(session: int):
        """Wait for the solver's next question, or for its end, and put it into numbers."""
        heard = _SESSIONS[session].questions.get()
        y, v = np.zeros(y0.size, y0.dtype), np.zeros(width, y0.dtype)
        asked, ended, steps = 0, RUNNING, 0
        if isinstance(heard, _Question):
            asked = 1 + names.index(heard.face)
            y[:], v[: heard.v.size] = heard.y, heard.v
        else:
            del _SESSIONS[session]
            if isinstance(heard, BaseException):
                raise heard
            y[:], success, steps = heard
            ended = SUCCEEDED if success else FAILED
        return np.int32(session), np.int32(asked), y, v, np.int32(ended), np.int32(steps)

    def begin(y, arrays):
        session = next(_NUMBERS) % 2**31
        args = args_of(jtu.tree_map(np.asarray, arrays))
        _SESSIONS[session] = _Session(run, np.array(y, np.float64), args, widths)
        return reply(session)

    def deliver(session, value):
        _SESSIONS[int(session)].answers.put(np.array(value, np.float64))
        return reply(int(session))

    callback = lambda fn, *operands: jax.pure_callback(fn, shapes, *operands, vmap_method="sequential")

    def branch(face):
        return lambda carry: callback(deliver, carry[0], face(carry[2], carry[3]))

    branches = [lambda carry: callback(begin, carry[2], arrays), *map(branch, faces.values())]
    zero = jnp.array(0, jnp.int32)
    first = (zero, zero, y0, jnp.zeros(width, y0.dtype), zero, zero)
    unfinished = lambda carry: carry[4] == RUNNING
    # The conversation begins inside the loop: so XLA can neither share nor move its beginning alone.
    last = jax.lax.while_loop(unfinished, lambda c: jax.lax.switch(c[1], branches, c), first)
    return last[2], last[4], last[5]


def _vector(value: Any, size: int, name: str) -> np.ndarray:
    value = np.zeros(0) if value is None else np.asarray(value)
    if value.size != size:
        raise ValueError(
            f"`{name}` of a function of HostProblem has shape {value.shape}; expected {size} numbers."
        )
    return value.reshape(-1)
