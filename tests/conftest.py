"""What every test shares: eight simulated CPU devices, float64, explicit random keys."""

import gc
import os
import signal
from importlib.metadata import version

# A shell lets what it starts in the background ignore Ctrl-C, which several tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX is imported: XLA reads these when its first client starts. NPROC sizes its thread
# pools; with fewer cores than simulated devices, jax 0.10 can otherwise wait for ever on a
# collective.
os.environ.setdefault("NPROC", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_COUNT = "--xla_force_host_platform_device_count"
if _COUNT not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_COUNT}=8".strip()
# Nearly all of the tests' time is compilation of small programs: tell LLVM not to polish them.
_LEVEL = "--xla_backend_optimization_level"
if _LEVEL not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" {_LEVEL}=0 --xla_llvm_disable_expensive_passes=true"
    # XLA stops the process at a flag that it does not know, and later ones do not know this one.
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
        # The parts into which XLA splits a program are compiled on cores that are busy already.
        os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"

import jax
import pytest

jax.config.update("jax_enable_x64", True)


# Traces are large graphs that live on: by default a twentieth of the time goes into looking for cycles.
gc.set_threshold(100_000, 20, 100)


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_report_header() -> str:
    devices = jax.devices()
    return f"jax {jax.__version__}, {len(devices)} {devices[0].platform} devices"


@pytest.fixture
def key() -> jax.Array:
    """One random key, the same in every test."""
    return jax.random.key(0)


@pytest.fixture
def getkey():
    """A function that gives a new random key at each call: the same sequence in every test."""
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.fold_in(jax.random.key(0), count)

    return next_key


@pytest.fixture
def devices():
    """`devices(4)` or `devices(2, 4, names=("experts", "points"))`: a mesh of simulated devices.

    Its axes are of type Auto. Two devices on a machine with two cores can dead-lock on jax 0.10:
    ask for 4 or 8.
    """

    def mesh(*shape: int, names: tuple[str, ...] | None = None) -> jax.sharding.Mesh:
        if names is None:
            names = ("devices",) if len(shape) == 1 else tuple(f"d{i}" for i in range(len(shape)))
        wanted = 1
        for n in shape:
            wanted *= n
        if wanted > jax.device_count():
            pytest.skip(
                f"{wanted} devices are needed and {jax.device_count()} are there: XLA_FLAGS was set"
                f" before the tests without {_COUNT}=8"
            )
        auto = (jax.sharding.AxisType.Auto,) * len(shape)
        return jax.make_mesh(shape, names, axis_types=auto, devices=jax.devices()[:wanted])

    return mesh
