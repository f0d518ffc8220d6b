"""Networks of the learned proposal: what scales and shifts one half of the noise.

Li, Chen and Sommer 2021 (proposal entropy), section 3.2, in the forms of its reference
code. Last layers start at zero, so that the sampler starts as MALA.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from flax.linen import initializers

from megjax.networks.layers import Convolution, TransposedConvolution
from megjax.types import Array, Key

GRADIENTS = ("displaced", "position", "none")
COUPLING_MASKS = ("random", "bisecting")


class Proposal(linen.Module):
    """The parameters of a proposal; functions of one example for `samplers.neural`.

    What `Vectors` and `Images` differ in they define: `conditioner(num_outputs, last)`,
    the network behind that many numbers per element, `last` its last activation; and
    `initial_masks()`, ones where a step keeps, bool [N, *shape].

    shape: of an example. width: of hidden layers. num_steps: N in the paper.
    gradient: where the sampler asks for dU: "displaced" at x + R(x, kept half) as the
        paper; "position" at x, its variant without R (that is R = 0; its code adds this
        gradient once, after the flow); "none" nowhere.
    bound: of |S|. The paper has none, and in float32 its inverse can then fail.
    learned_shrinkage: makes them easier where scales differ by orders of magnitude from place
        to place, as in funnels; not in the paper. Every step also takes a trained fraction
        of x off, so that a proposal can forget x whole without a network that makes x
        again; and networks see arcsinh of their inputs.
    initial_log_scale: logarithm of the factor of all moves, which is trained.
    """

    shape: tuple[int, ...]
    width: int
    num_steps: int
    gradient: str = "displaced"
    bound: float = 8.0
    learned_shrinkage: bool = False
    initial_log_scale: float = 0.0

    def setup(self):
        if self.gradient not in GRADIENTS:
            names = ", ".join(GRADIENTS)
            raise ValueError(f"gradient={self.gradient!r}: choose one of {names}.")
        init = initializers.constant(self.initial_log_scale)
        self.log_scale = self.param("log_scale", init, ())
        self.masks = self.variable("masks", "kept", self.initial_masks)
        if self.learned_shrinkage:
            shape = (self.num_steps, *self.shape)
            self.shares = self.param("shares", initializers.zeros, shape)
        self.coefficient_net = self.conditioner(3, jnp.tanh)
        if self.gradient == "displaced":
            self.displacement_net = self.conditioner(1, jax.nn.swish)

    @property
    def num_gradients(self) -> int:
        """Gradients of the target in a transition."""
        return num_gradients(self.gradient, self.num_steps)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Masks of the half that each step keeps first [N, *shape], and log scale.

        Touches every layer: `init` goes this way.
        """
        if self.is_initializing():
            for n in range(self.num_steps):
                self.coefficients(n, x, x, x)
                if self.gradient == "displaced":
                    self.displacement(n, x, x)
        return self.masks.value.astype(x.dtype), self.log_scale.astype(x.dtype)

    def coefficients(
        self, n: int, x: Array, kept: Array, gradient: Array
    ) -> tuple[Array, Array, Array]:
        """S, Q and T of step n, [*shape] each, from three of that shape.

        Both parts of a step share them.
        """
        inputs = (x, kept) if self.gradient == "none" else (x, kept, gradient)
        out = self.coefficient_net(n, self._seen(*inputs))
        scale, stretch, shift = jnp.split(out, 3, axis=-1)
        if self.learned_shrinkage:
            # Of a move, which is scale z, where z takes scale / 2N of a shift.
            whole = 2 * self.num_steps * jnp.exp(-2 * self.log_scale)
            shift += whole * self.shares[n] * x
        return self.bound * jnp.tanh(scale / self.bound), stretch, shift

    def displacement(self, n: int, x: Array, kept: Array) -> Array:
        """R of step n, two of [*shape] -> [*shape]."""
        return self.displacement_net(n, self._seen(x, kept)).reshape(self.shape)

    def _seen(self, *inputs: Array) -> Array:
        """What the networks see of [*shape] each: [..., the sum of their channels]."""
        if self.learned_shrinkage:
            # Before they are joined, so that XLA has arcsinh x once for all steps.
            inputs = map(jnp.arcsinh, inputs)
        return jnp.concatenate(tuple(inputs), axis=-1)


class Vectors(Proposal):
    """Perceptrons, and for every step a half of the dimensions (floor of d / 2).

    coupling_masks: "random" as in the paper; "bisecting" splits, at random, what earlier steps
        have kept together, until after ceil(log2 d) steps any two dimensions have been
        apart in one of them, and then begins again. Where the width of a dimension
        follows another's value, as in a funnel, only a step that parts the two can
        carry it along; random masks part them in every other step. Fewer steps leave some
        pairs together throughout, and chains that get stuck where these matter.

    Raises ValueError in one dimension, which cannot be split.
    """

    coupling_masks: str = "random"

    def setup(self):
        if self.coupling_masks not in COUPLING_MASKS:
            raise ValueError(
                f"coupling_masks={self.coupling_masks!r}: choose one of {', '.join(COUPLING_MASKS)}."
            )
        super().setup()

    def conditioner(self, num_outputs: int, last: Callable) -> linen.Module:
        return Perceptron(num_outputs * self.shape[0], self.width, self.num_steps, last)

    def initial_masks(self) -> Array:
        (dim,) = self.shape
        if dim < 2:
            raise ValueError(f"shape={self.shape}: a proposal needs two dimensions.")
        keys = jax.random.split(self.make_rng("params"), self.num_steps)
        if self.coupling_masks == "bisecting":
            return bisecting_masks(keys, dim)
        kept = jnp.arange(dim) < dim // 2
        return jax.vmap(lambda key: jax.random.permutation(key, kept))(keys)


def num_gradients(gradient: str, num_steps: int) -> int:
    """Gradients of the target in a transition; both directions count.

    At x alone it is one, since the chain keeps it.
    """
    return dict(zip(GRADIENTS, (4 * num_steps, 1, 0)))[gradient]


def bisecting_masks(keys: Key, dim: int) -> Array:
    """Masks of half of the coordinates, bool [N, dim], that part any two of dim within ceil(log2 dim) of them."""
    masks = []
    for n, key in enumerate(keys):
        if n % math.ceil(math.log2(dim)) == 0:
            groups = jnp.zeros(dim, jnp.int32)
        # Every second one in an order that has groups together.
        order = jnp.lexsort((jax.random.uniform(key, (dim,)), groups))
        kept = jnp.zeros(dim, bool).at[order[1::2]].set(True)
        groups = 2 * groups + kept
        masks.append(kept)
    return jnp.stack(masks)


class Images(Proposal):
    """Convolutions for [H, W, C] of even sides, and a checkerboard.

    The board alternates from channel to channel; it is the same in every step.
    Raises ValueError where a side is odd.
    """

    def conditioner(self, num_outputs: int, last: Callable) -> linen.Module:
        return ConvNet(num_outputs * self.shape[-1], self.width, self.num_steps, last)

    def initial_masks(self) -> Array:
        if self.shape[0] % 2 or self.shape[1] % 2:
            raise ValueError(f"shape={self.shape}: a proposal needs even sides.")
        board = np.indices(self.shape).sum(axis=0) % 2 == 0
        return jnp.asarray(np.broadcast_to(board, (self.num_steps, *self.shape)))


class Perceptron(linen.Module):
    """Step n, x [m] -> [features]: first and last layers per step, shared between.

    last: activation of the last hidden layer; the others have swish.
    """

    features: int
    width: int
    num_steps: int
    last: Callable

    def setup(self):
        steps = range(self.num_steps)
        zeros = initializers.zeros
        self.inputs = [linen.Dense(self.width) for _ in steps]
        self.middle = [linen.Dense(self.width) for _ in range(3)]
        self.outputs = [linen.Dense(self.features, kernel_init=zeros) for _ in steps]

    def __call__(self, n: int, x: Array) -> Array:
        h = self.inputs[n](x)
        for layer in self.middle:
            h = layer(jax.nn.swish(h))
        return self.outputs[n](self.last(h))


class ConvNet(linen.Module):
    """Step n, x [H, W, C] -> [H, W, features]: once down by two, once up.

    The paper's code goes down and up by average pooling and transposed convolutions.
    First and last layers per step, as in `Perceptron`; the last act on single pixels.
    """

    features: int
    width: int
    num_steps: int
    last: Callable

    def setup(self):
        steps = range(self.num_steps)
        zeros = initializers.zeros
        self.inputs = [Convolution(self.width, 3, 1, 1) for _ in steps]
        self.down = Convolution(2 * self.width, 4, 2, 1)
        self.middle = Convolution(2 * self.width, 3, 1, 1)
        self.up = TransposedConvolution(self.width, 4, 2, 1)
        self.outputs = [linen.Dense(self.features, kernel_init=zeros) for _ in steps]

    def __call__(self, n: int, x: Array) -> Array:
        fine = jax.nn.swish(self.inputs[n](x[None]))
        coarse = jax.nn.swish(self.down(fine))
        coarse = jax.nn.swish(self.middle(coarse))
        # The detail that the small map has lost goes around it.
        return self.outputs[n](self.last(fine + self.up(coarse)))[0]
