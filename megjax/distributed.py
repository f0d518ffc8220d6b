"""Devices and processes: the mesh, and several processes as one program.

One mesh axis, `data`: state is replicated over it, batches are split along it. The
training step is one `jax.jit` in global view; the compiler derives every collective.
Every process runs the same script and process 0 alone writes. An error in one of them
ends all, each with the reason; else the others would wait for it in a collective.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import jax
import numpy as np

# The key-value store of the runtime has no public name.
from jax._src import distributed as _runtime
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from megjax.types import Array, PyTree

AXIS = "data"
HEARTBEAT_TIMEOUT = 100
_START_TIMEOUT = 300
# One that is done waits for the others; heartbeats tell when that is in vain.
_SHUTDOWN_TIMEOUT = 10**7
_FAILURE, _LEFT, _DONE = "megjax/failure", "megjax/left", "megjax/done"
_POLL_SECONDS, _GRACE_SECONDS = 0.5, 20.0
_failing = threading.Event()


def find_devices() -> None:
    """ValueError where JAX has not the devices that it was told to use.

    To be called before whatever else would stumble over their lack.
    """
    try:
        jax.devices()
    # Without the plugin of a platform JAX only asserts.
    except (AssertionError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(
            f"JAX_PLATFORMS={jax.config.jax_platforms}: there is no such device, or JAX "
            f"was installed without it{f' ({words})' if words else ''}: unset "
            "JAX_PLATFORMS, or install that JAX"
        ) from error


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over `devices`, by default all of them."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def local_mesh() -> Mesh:
    """A mesh over the devices of this process."""
    return data_mesh(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of everything that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places a copy of every leaf on every device of the mesh.

    Leaves are host arrays that all processes have alike, or `replicate`d before; of
    several processes Python numbers stay such, whose types are weak.
    """
    sharding = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(leaf):
        placed = isinstance(leaf, jax.Array) and leaf.sharding == sharding
        if placed or isinstance(leaf, bool | int | float):
            return leaf
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda i: leaf[i])

    return jax.tree.map(place, tree)


def assemble(rows: PyTree, num: int, mesh: Mesh) -> PyTree:
    """Global arrays [num, ...], split over the mesh, of what each process has of them.

    rows: leaves [len(local_rows(num, mesh)), ...]
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def place(leaf):
        shape = (num, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(place, rows)


def local_rows(num: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a split axis of length `num` this process's devices hold."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    slices = sharding.addressable_devices_indices_map((num,)).values()
    return np.unique(np.concatenate([np.arange(num)[own] for (own,) in slices]))


def locally() -> contextlib.AbstractContextManager:
    """What follows runs on this process's devices alone; one process has them all."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    return jax.set_mesh(local_mesh())


def local(tree: PyTree) -> PyTree:
    """Replicated leaves as arrays on this process's devices alone; no collective."""
    if jax.process_count() == 1:
        return tree
    mesh = local_mesh()
    host = jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree)
    return jax.device_put(host, replicated(mesh))


def portable(tree: PyTree, mesh: Mesh) -> PyTree:
    """Leaves that lie on some of the devices of a mesh as arrays of the host, so that a
    program on all of them takes them; others as they are.

    All processes have the same, of several.
    """
    if jax.process_count() == 1:
        return tree
    devices = set(mesh.devices.flat)

    def moved(leaf):
        if not isinstance(leaf, jax.Array) or leaf.sharding.device_set >= devices:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return np.asarray(leaf)

    return jax.tree.map(moved, tree)


def gathered(tree: PyTree) -> PyTree:
    """Leaves that are spread over processes whole on each, as arrays of the host.

    Others as they are. All processes call it together.
    """
    if jax.process_count() == 1:
        return tree
    spread, others = {}, {}
    leaves, treedef = jax.tree.flatten(tree)
    for i, leaf in enumerate(leaves):
        is_spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        (spread if is_spread else others)[i] = leaf
    if spread:
        mesh = next(iter(spread.values())).sharding.mesh
        with jax.set_mesh(mesh):
            found = _everywhere(mesh)(spread)
        spread = {i: np.asarray(leaf.addressable_data(0)) for i, leaf in found.items()}
    found = spread | others
    return jax.tree.unflatten(treedef, [found[i] for i in range(len(leaves))])


@functools.cache
def _everywhere(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """The compiled identity whose outputs every device holds whole."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def broadcast(tree: PyTree) -> PyTree:
    """Host arrays of process 0 on every process, bit for bit.

    The others give arrays of the same forms.
    """
    if jax.process_count() == 1:
        return tree

    def send(leaf):
        # As bytes: the sum that carries them would turn -0.0 into 0.0.
        content = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        sent = multihost_utils.broadcast_one_to_all(content)
        return np.asarray(sent).view(leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(send, tree)


def broadcast_text(text: str) -> str:
    """The text of process 0, which is not empty, on every process."""
    content = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast(np.int64(len(content))))
    if jax.process_index():
        content = np.zeros(length, np.uint8)
    return broadcast(content).tobytes().decode()


def agree(text: str) -> bool:
    """Whether process 0 has the same text as this one, on every process."""
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return bool(np.array_equal(own, broadcast(own)))


def shard(x: Array, axis: int = 0) -> Array:
    """Constrains a batch axis to `data`, inside a computation under `jax.set_mesh`.

    The identity where no mesh is set, or where the mesh does not divide the axis.
    Draws at the global shape need it: an unconstrained draw is replicated, and every
    device then does all the work that follows from it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AXIS not in mesh.axis_names or x.shape[axis] % mesh.shape[AXIS]:
        return x
    spec = [None] * x.ndim
    spec[axis] = AXIS
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def whole(x: Array) -> Array:
    """Constrains an array to lie whole on every device, where `shard` would split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AXIS not in mesh.axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def mapped(function: Callable[[PyTree], Array], rows: PyTree) -> Array:
    """function(rows) of a function of each row by itself: [N, ...] -> [N, ...].

    Every device maps the rows that it holds.
    """
    mesh = jax.sharding.get_abstract_mesh()
    num = len(jax.tree.leaves(rows)[0])
    if mesh.empty or AXIS not in mesh.axis_names or num % mesh.shape[AXIS]:
        return function(rows)
    split = PartitionSpec(AXIS)
    return jax.shard_map(function, in_specs=split, out_specs=split)(rows)


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
    start_timeout: int = _START_TIMEOUT,
    preemptible: bool = False,
) -> None:
    """Joins this process to the others, before anything touches a device.

    coordinator: HOST:PORT of process 0. None, as the two numbers then are: the cluster
        (TPU, SLURM, Open MPI, Kubernetes) knows.
    heartbeat_timeout: seconds of silence after which a process counts as dead; the
        runtime then ends the others.
    start_timeout: seconds to wait until all have started.
    preemptible: SIGTERM is left to `jax.experimental.multihost_utils.
        reached_preemption_sync_point`; else it ends the process.

    Raises ValueError where the settings do not fit each other or no cluster is found.
    """
    _check_flags(
        coordinator, num_processes, process_id, heartbeat_timeout, start_timeout
    )
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_timeout,
            initialization_timeout=start_timeout,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except ValueError as error:
        raise ValueError(
            f"no cluster found ({error}): give --coordinator, --num_processes and "
            "--process_id, or start the processes by srun, mpirun or on TPU hosts"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"the processes did not all join in {start_timeout} s ({str(error)[:200]}): "
            "start them all, check that the address of process 0 can be reached and "
            "that every process has another --process_id"
        ) from error
    stopped = threading.Event()
    listener = threading.Thread(target=_listen, args=(stopped,), daemon=True)
    listener.start()

    # Runs before the runtime shuts down, which registered itself earlier.
    @atexit.register
    def stop():
        stopped.set()
        listener.join()


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return _runtime.global_state.process_id == 0


def done() -> None:
    """Returns in the main process at once, and in the others once it has called it.

    So that what the main one does by itself in the end may still fail for all.
    """
    if (client := _runtime.global_state.client) is None:
        return
    if is_main():
        client.key_value_set(_DONE, "")
    else:
        client.blocking_key_value_get(_DONE, 1000 * _SHUTDOWN_TIMEOUT)


def fail(reason: str) -> None:
    """Ends all processes with status 1, the others after they have printed the reason.

    Returns where there is one process only.
    """
    client = _runtime.global_state.client
    if client is None:
        return
    _failing.set()
    own = _runtime.global_state.process_id
    # Another may have failed before.
    with contextlib.suppress(Exception):
        client.key_value_set(_FAILURE, f"{own} {reason}")
    # Until all listeners have looked: connections close with this process, and what
    # follows from that elsewhere is not the reason.
    time.sleep(2 * _POLL_SECONDS)
    _leave(client, own)


def _check_flags(coordinator, num_processes, process_id, *timeouts) -> None:
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    words = " ".join(f"{k}={v}" for k, v in given.items() if v is not None)
    if words and None in given.values():
        raise ValueError(
            f"{words}: give --coordinator, --num_processes and --process_id together, "
            "or only --distributed where a cluster knows them"
        )
    if words:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(
                f"--coordinator={coordinator}: give HOST:PORT of process 0"
            )
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"{words}: processes are numbered 0 to --num_processes - 1"
            )
    if min(timeouts) < 1:
        raise ValueError("--heartbeat_timeout and --start_timeout: give at least 1 s")


def raise_peer_failure() -> None:
    """Ends this process with the reason where another has failed; else returns."""
    state = _runtime.global_state
    try:
        words = state.client.key_value_try_get(_FAILURE)
    # Nothing there; or the runtime is gone, and ends this process by itself.
    except Exception:  # noqa: BLE001
        return
    failed, _, reason = words.partition(" ")
    if int(failed) != state.process_id:
        print(f"error: process {failed} ended: {reason}", file=sys.stderr)
        _leave(state.client, state.process_id)


def _listen(stopped: threading.Event) -> None:
    while not stopped.wait(_POLL_SECONDS) and not _failing.is_set():
        raise_peer_failure()


def _leave(client, process_id: int) -> NoReturn:
    """Ends without waiting for the others; the main process goes last.

    The runtime's store is in it: without that the others are aborted.
    """
    with contextlib.suppress(Exception):
        client.key_value_set(f"{_LEFT}/{process_id}", "")
    if is_main():
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in range(1, _runtime.global_state.num_processes):
            left = max(1, int(1000 * (deadline - time.monotonic())))
            # One that is dead or stuck is left to the heartbeat.
            with contextlib.suppress(Exception):
                client.blocking_key_value_get(f"{_LEFT}/{process}", left)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
