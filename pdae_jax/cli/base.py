"""What every config has. A config is this, with a data set, held-out conditions, and changes to the recipe."""

from typing import Any

from ml_collections import ConfigDict

from pdae_jax import build


def get_config(**recipe) -> ConfigDict:
    """Make the skeleton of a config; `recipe` changes single fields of `pdae_jax.Recipe`."""
    config = ConfigDict()
    config.seed = 0  # of everything random: world, start, batches, evaluation
    config.replicas = 1  # more: an ensemble, trained in one program
    config.data = ConfigDict()  # name, and the options of that data set
    config.split = ConfigDict()  # names of held-out conditions
    config.split.test = ()  # choose nothing, only judge
    config.split.validation = ()  # choose the step and test additivity
    config.fit = build.recipe_config(**recipe)
    config.evaluation = ConfigDict()
    config.evaluation.num_samples = 2000
    config.evaluation.source = "control"  # whose cells are translated; or condition -> source
    config.evaluation.comparators = ()  # trained for the comparison: "compositional", "compositional_with_source_label"
    return config


def shorten(config: Any) -> None:
    """Leave a few steps of a small model and a short evaluation, for ``:smoke``: to see that everything runs."""
    config.fit.update(num_steps=20, log_every=10, eval_every=10, checkpoint_every=10, hidden=(16, 16))
    config.evaluation.update(num_samples=200, most_in_sample=2)
