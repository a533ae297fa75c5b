"""Simulated screens of real size, counts of 1,000 genes: how long a run takes and how much memory it needs.

make run CONFIG=experiments/configs/screen.py              230 conditions, 390 cells each, half of 124 pairs held out
make run CONFIG=experiments/configs/screen.py:thousands    2,000 singles and 500 pairs, 100 cells each
make run CONFIG=experiments/configs/screen.py:smoke        a few steps, to see that everything runs
"""

import itertools

import numpy as np

from pdae_jax.cli import base

SIZES = {"norman": (105, 124, 390), "thousands": (2000, 500, 100), "smoke": (8, 6, 30)}  # singles, pairs, cells each


def get_config(arg: str = "norman"):
    """``norman``, the size of Norman et al. 2019, ``thousands`` of conditions, or ``smoke``."""
    if arg not in SIZES:
        raise ValueError(f"Unknown argument {arg!r}; pass screen.py:<one of {', '.join(SIZES)}>.")
    singles, pairs, cells = SIZES[arg]
    config = base.get_config()
    config.data.name = "simulated"
    config.data.num_perturbations = singles
    config.data.labels = _labels(singles, pairs)
    config.data.cells_per_condition = cells
    config.data.latent_dim = 20
    config.data.observed_dim = 1000
    config.data.noise = "counts"
    config.data.shift_scale = 10.0  # spread over all genes: large enough to be seen through the noise of counts
    config.split.protocol = "doubles"
    config.split.seed = 0
    if arg == "smoke":
        config.data.observed_dim = 30
        base.shorten(config)
    return config


def _labels(singles: int, pairs: int) -> tuple[str, ...]:
    """All singles, and pairs of the first of them: real screens pair a few that were chosen."""
    names = [f"p{i}" for i in range(singles)]
    paired = min(singles, 2 * int(np.ceil(np.sqrt(pairs))))
    every = ["+".join(pair) for pair in itertools.combinations(names[:paired], 2)]
    chosen = np.sort(np.random.default_rng(0).choice(len(every), pairs, replace=False))
    return (*names, *(every[row] for row in chosen))
