"""One mesh axis, `data`: state is replicated over it, batches are split along it.

The training step is one `jax.jit` in global view, so the code below is all the
parallelism there is; the compiler derives every collective.
"""

import jax
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
    """Places a copy of every leaf on every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


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
