"""The papers' experiments, one run each: worlds in the plane, with noise, and with assumptions violated.

make run CONFIG=experiments/configs/papers.py:plane                    in-span and off-support labels, two dimensions
make run CONFIG=experiments/configs/papers.py:20_features_noise_0.5    or :20_features_counts
make run CONFIG=experiments/configs/papers.py:mixture_base             or :correlated_base: base latents not N(0, I)
make run CONFIG=experiments/configs/papers.py:interactions_0.25        or :interactions_1: effects do not add up
make run CONFIG=experiments/configs/papers.py:conditions_singles       too few conditions; :cells_100: too few cells
make run CONFIG=experiments/configs/papers.py:labels_outside_the_span  what no data determine
make run CONFIG=experiments/configs/papers.py:smoke                    a few steps, to see that everything runs

Worlds and designs are those of ``experiments/lab/studies.py``, which `study.py` runs over many worlds; here one is
drawn by ``config.seed``, and the run folder has its report and figures. Compared with the baselines and with two
compositional autoencoders trained on the same cells.
"""

from experiments.lab import studies
from pdae_jax.cli import base
from pdae_jax.evaluation.compositional import COMPARATORS

VARIANTS = {
    variant.name.replace(",", "").replace(":", "").replace(" ", "_"): variant
    for study in (studies.papers, studies.conditions)
    for variant in study()
}


def get_config(arg: str = "clean"):
    """The argument picks the experiment; flags change values (``--config.seed=1`` draws another world)."""
    smoke = arg == "smoke"
    name = "clean" if smoke else arg
    if name not in VARIANTS:
        raise ValueError(f"Unknown argument {arg!r}; pass papers.py with one of {', '.join((*VARIANTS, 'smoke'))}.")
    variant = VARIANTS[name]
    config = base.get_config(**variant.recipe)
    config.data.name = "simulated"
    config.data.update(variant.world)
    config.data.labels = (*variant.train, *variant.validation, *variant.test)
    config.split.test = tuple(variant.test)
    config.split.validation = variant.validation
    config.evaluation.comparators = tuple(COMPARATORS)
    if smoke:
        config.data.cells_per_condition = 200
        base.shorten(config)
    return config
