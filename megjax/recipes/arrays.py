"""Models of an array that a user has at hand: what `megjax.fit` trains."""

from megjax.recipes import base, deep_directed, density, meg, wgan_gp
from megjax.training.experiment import Recipe


def config(learner, shape):
    """The fields of a learner on examples of a shape: convolutions on images.

    learner: meg, wgan_gp, deep_directed, or density of vectors. Rates decay and weights are averaged, so
    that a short run ends well; narrow enough for a CPU.
    """
    recipe = base.choice("learner", learner, **RECIPES)
    if learner == "density":
        fields = density.table_config()
        fields.held_out_share, fields.recipe = 0.0, recipe
        return fields
    fields = base.config()
    fields.examples = ""
    fields.recipe = recipe
    fields.remat = fields.default_init = False
    fields.train.num_steps = 6000
    vectors = len(shape) == 1
    fields.width = 128 if vectors else 64
    if vectors:
        fields.batch_size = 128
        fields.train.iterations_per_call_cpu = 50
        fields.train.compiler_options_cpu = base.compiler_options()
    own = (
        meg.in_nats()
        if vectors
        else meg.for_images(meg.width_of(fields), shape[-1], deep=shape[0] != 28)
    )
    own = own | {"latent_dim": 16}
    fields.norm = "batch" if vectors else "per_unit"
    fields[learner] = {
        "meg": lambda: meg.settings(**own),
        "wgan_gp": lambda: wgan_gp.settings(**meg.steady() | {"latent_dim": 16}),
        "deep_directed": lambda: deep_directed.steady(latent_dim=16),
    }[learner]()
    if learner == "deep_directed":
        fields.num_layers, fields.activation = 3, "elu"
        fields.energy_hidden, fields.generator_hidden = (256, 128, 128), (128, 128)
    return fields


def data(config):
    """The array is not kept: ValueError."""
    del config
    raise ValueError(
        "a model of megjax.fit does not keep its array, which this needs: train from a "
        "file instead, megjax.train('custom', overrides=['path=FILE.npy'])"
    )


def prepared(config, learner, data):
    """The training set; that of a density without the rows that choose its weights."""
    return density.split(data, config) if learner == "density" else data


def learner_of(method):
    """The learner function of a method's recipes, by the form of the examples."""

    def learner(config, shape, data=None):
        make = method.plane_learner if len(shape) == 1 else method.image_learner
        return make(config, shape, data)

    return learner


meg_on_arrays = Recipe(data, learner_of(meg))
wgan_gp_on_arrays = Recipe(data, learner_of(wgan_gp))
deep_directed_on_arrays = Recipe(data, learner_of(deep_directed))
density_on_arrays = Recipe(data, density.learner)
RECIPES = {
    "meg": meg_on_arrays,
    "wgan_gp": wgan_gp_on_arrays,
    "deep_directed": deep_directed_on_arrays,
    "density": density_on_arrays,
}
