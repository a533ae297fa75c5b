"""Real interactions of Norman et al. 2019, cells simulated around them (semi-real; `pdae_jax.data.norman_pairs`).

    make run CONFIG=experiments/configs/norman_pairs.py        30 of 126 pairs held out, 15 for validation
    make run CONFIG=experiments/configs/norman_pairs.py:2      another split of the pairs, by its seed

231 conditions, 100 cells each, 300 genes. The recipe is the default one.
"""

from pdae_jax.cli import base
from pdae_jax.data.norman_pairs import split_pairs


def get_config(arg: str = "1"):
    """The argument is the seed of the split; ``smoke`` trains a few steps on few genes."""
    if arg != "smoke" and not arg.isdigit():
        raise ValueError(f"Unknown argument {arg!r}; pass norman_pairs.py, norman_pairs.py:<seed> or :smoke.")
    config = base.get_config()
    config.data.name = "norman_pairs"
    config.split.test, config.split.validation = map(tuple, split_pairs(1 if arg == "smoke" else int(arg)))
    config.evaluation.metrics = ("energy_distance", "mean_l2", "r2_mean", "pearson_delta")
    config.evaluation.splits = ("test", "validation")
    if arg == "smoke":
        config.data.update(genes=40, cells_per_condition=20, control_cells=100)
        base.shorten(config)
    return config
