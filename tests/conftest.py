"""Eight virtual CPU devices for every test, which takes one unless it names more."""

import importlib.metadata
import os
import pathlib

# Most of the suite's time is compilation. Where XLA still has its older generator of
# loops, programs compile there in a third of the time; it reads the flag once.
if importlib.metadata.version("jaxlib") < "0.11":
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {flags}"
# What took long to compile is kept for the next run, the other worker and the processes
# that tests start. Traces are counted as before, and programs are the same to the bit.
CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# XLA gives the devices of a CPU one pool, of as many threads as there are devices. Each
# that waits for the others in an all-reduce holds one, and with eight of eight waiting
# none computes: the program hangs until XLA aborts it. It reads the size from here.
os.environ.setdefault("NPROC", "24")

import jax
import pytest

from megjax import distributed

jax.config.update("jax_num_cpu_devices", 8)
data_mesh = distributed.data_mesh
# What a run takes where no devices are named. Eight on two cores cost four times the
# work of one: a test that is about several names them.
distributed.local_mesh = lambda: data_mesh(jax.devices()[:1])
distributed.data_mesh = lambda devices=None: (
    distributed.local_mesh() if devices is None else data_mesh(devices)
)


@pytest.fixture
def float64():
    """Double precision, in which identities hold to many digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Frees what a file has compiled: with thousands of programs all is half as fast."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """No optimisation: programs that run once or twice compile for longer than that."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
