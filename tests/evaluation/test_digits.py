"""The classifier of 8x8 digits on real digits, on copies of them and on noise."""

import jax
import numpy as np
import pytest

from megjax.data import images
from megjax.evaluation import digits, fidelity


def sampler(pixels):
    """Draws of given images, with replacement."""

    def draw(key, state, num):
        rows = np.asarray(jax.random.choice(key, len(pixels), (num,)))
        return fidelity.Draws(np.asarray(images.normalised(pixels[rows])), {"a": 1.0})

    return draw


@pytest.fixture(scope="module")
def found():
    pixels, labels = images.digits_labelled()
    noise = np.random.RandomState(0).randint(0, 256, pixels.shape, dtype=np.uint8)
    sets = {"": pixels, "ones": pixels[labels == 1], "noise": noise}
    samplers = {name: sampler(value) for name, value in sets.items()}
    return digits.digits(samplers, num_samples=1000)(jax.random.key(0), None).metrics


def test_real_digits_have_the_figures_of_real_digits(found):
    assert found["classifier_accuracy"] > 0.97
    assert found["classifier_confidence"] > 0.94
    assert found["confidence"] > 0.9 and found["rarest_class"] > 0.07
    assert found["frechet"] < found["half_against_half"] < 0.1


def test_copies_are_seen_to_be_copies(found):
    assert found["nearest_to_data"] == 0 and found["noise_nearest_to_data"] > 1.5


def test_a_lost_class_and_noise_are_seen(found):
    assert found["ones_rarest_class"] == 0 and found["ones_class_entropy"] < 0.3
    assert found["ones_frechet"] > 10 * found["frechet"]
    assert found["noise_confidence"] < 0.4 and found["noise_frechet"] > 2
    assert found["ones_a"] == 1
