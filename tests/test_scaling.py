"""Collectives read from programs whose collectives are known, and the arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks import scaling
from megjax import distributed
from megjax.data.dataset import Dataset
from megjax.learners import wgan_gp
from megjax.networks import heads, mlp
from megjax.training.experiment import Experiment

pytestmark = pytest.mark.usefixtures("quick_compilation")

TEXT = """HloModule made_up

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(f32[] %a, f32[] %b)
}

%body (p: (s32[], f32[10])) -> (s32[], f32[10]) {
  %r = f32[10]{0} all-reduce(f32[10]{0} %x), to_apply=%sum
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %ar = (f32[3,4]{1,0}, bf16[5]{0}) all-reduce(%a, %b), to_apply=%sum
  %w = (s32[], f32[10]) while(%t), body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %ag = (f32[2]{0}, f32[8]{0}) all-gather-start(%c), dimensions={0}
  %agd = f32[8]{0} all-gather-done(%ag)
  %cp = f32[2,0]{1,0} collective-permute(%d)
}
"""


def test_collectives_of_a_text_by_hand():
    assert scaling.collectives(TEXT) == [
        ("all-reduce", 3 * 4 * 4 + 5 * 2, 1),
        ("all-reduce", 40, 6),
        ("all-gather", 32, 1),
        ("collective-permute", 0, 1),
    ]


@pytest.mark.parametrize(
    ("kind", "bytes_sent"),
    [
        ("all-reduce", 2 * 7 * 100),
        ("all-gather", 7 * 100),
        ("reduce-scatter", 7 * 800),
        ("all-to-all", 7 * 100),
        ("collective-permute", 800),
    ],
)
def test_bytes_around_a_ring(kind, bytes_sent):
    """Eight devices, a result of 800 bytes; a reduce-scatter's result is one share."""
    assert scaling.Collective(kind, 800, 1).sent(8) == pytest.approx(bytes_sent)
    assert scaling.Collective(kind, 800, 3).sent(1) in (0, 2400)


def test_one_reduction_of_a_known_program():
    mesh = distributed.data_mesh(jax.devices())
    x = jax.ShapeDtypeStruct(
        (64, 6), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P(distributed.AXIS))
    )
    with jax.set_mesh(mesh):
        program = jax.jit(lambda x: jnp.sum(x, axis=0)).lower(x).compile()
    assert scaling.collectives(program.as_text()) == [("all-reduce", 24, 1)]


def built(num_microbatches=1):
    """A WGAN-GP of perceptrons on the plane, and its config."""
    config = ConfigDict({"wgan_gp": {"num_microbatches": num_microbatches}})
    chosen = wgan_gp.Spec(
        heads.Energy(mlp.Trunk((32,))),
        mlp.Generator((32,), 2),
        latent_dim=3,
        num_energy_updates=2,
        num_microbatches=num_microbatches,
    )
    data = Dataset("plane", (2,), 50, np.zeros((50, 2), np.float32), lambda s, i: s[i])
    return config, Experiment(data, wgan_gp.wgan_gp(chosen), {})


def found(num_devices, batch_size, **changes):
    config, experiment = built(**changes)
    mesh = distributed.data_mesh(jax.devices()[:num_devices])
    program = scaling.compiled(experiment, mesh, batch_size, None)
    return scaling.cost(config, program, num_devices)


@pytest.mark.slow
def test_a_step_sends_its_gradients_and_divides_its_work():
    one, eight = found(1, 256), found(8, 256)
    assert one.sent == 0 and not one.collectives
    assert 7 < one.flops / eight.flops < 8.5
    # Two updates of the energy and one of the generator. XLA:CPU sums the energy's
    # gradients at data, at samples and of the penalty apart; beside them metrics.
    energy, generator = 3 * 32 + 33, 4 * 32 + 2 * 33
    reduced = sum(one.num_bytes * one.times for one in eight.collectives)
    assert 4 * (2 * energy + generator) <= reduced
    assert reduced < 4 * (2 * 3 * energy + generator) + 100
    assert eight.sent == pytest.approx(2 * 7 / 8 * reduced)


@pytest.mark.slow
def test_micro_batches_sum_their_gradients_one_by_one():
    whole, parts = found(8, 64), found(8, 64, num_microbatches=4)
    assert parts.flops is None
    assert max(one.times for one in parts.collectives) == 4
    assert 3.5 < parts.sent / whole.sent <= 4.1


def test_the_estimate_by_hand():
    cost = scaling.Cost(2e12, [], 3e9, 0, 0)
    seconds, times = scaling.estimate(cost, tflops=100, gbytes=300)
    assert seconds == pytest.approx(0.02 + 0.01) and times == pytest.approx(0.5)
