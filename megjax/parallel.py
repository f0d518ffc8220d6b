"""One mesh axis, `data`: state is replicated over it, batches are split along it.

The training step is one `jax.jit` in global view, so the code below is all the
parallelism there is; the compiler derives every collective.
"""

import contextlib
import hashlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from megjax.types import Array, PyTree

AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh over `devices`, by default all of them."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of everything that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places a copy of every leaf on every device of the mesh.

    Leaves are host arrays that all processes have alike, or `replicate`d before.
    """
    sharding = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(leaf):
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
    return jax.set_mesh(data_mesh(jax.local_devices()))


def local(tree: PyTree) -> PyTree:
    """Replicated leaves as arrays on this process's devices alone; no collective."""
    if jax.process_count() == 1:
        return tree
    mesh = data_mesh(jax.local_devices())
    host = jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree)
    return jax.device_put(host, replicated(mesh))


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
