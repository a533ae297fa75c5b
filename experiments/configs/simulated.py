"""Simulated worlds with known truth.

make run                                                   10-d world, 10 training and 5 held-out conditions
make run CONFIG=experiments/configs/simulated.py:chain     the same, but combinations at the edge of the support
make run CONFIG=experiments/configs/simulated.py:plane     2-d world, mixing = complex exponential
make run CONFIG=experiments/configs/simulated.py:smoke     a few steps, to see that everything runs
"""

from pdae_jax.cli import base


def get_config(arg: str = "default"):
    """The argument picks the world; flags change values (``--config.seed=1`` draws another world)."""
    if arg == "plane":
        return _plane()
    config = base.get_config(latent_dim=4)
    singles = [f"p{i}" for i in range(5)]
    if arg == "chain":  # doubles from singles and other doubles: on the edge of what was measured
        training = [*singles, "p0+p1", "p1+p2", "p2+p3", "p3+p4"]
        config.split.test = ("p0+p2", "p1+p3", "p2+p4", "p0+p4", "p1+p4")
        config.split.validation = ("p0+p3",)
    else:  # doubles from singles and triples: between what was measured
        training = [*singles, "p0+p1+p2", "p1+p2+p3", "p2+p3+p4", "p0+p3+p4"]
        config.split.test = ("p0+p2", "p1+p3", "p2+p4", "p0+p4", "p0+p3")
        config.split.validation = ("p1+p4",)
    config.data.name = "simulated"
    config.data.latent_dim = 4
    config.data.observed_dim = 10
    config.data.num_perturbations = len(singles)
    config.data.labels = (*training, *config.split.validation, *config.split.test)
    config.data.cells_per_condition = 2000
    config.data.mixing = "network"
    config.data.nonlinearity = 1.0
    config.data.shift_scale = 1.75
    if arg == "smoke":
        config.data.cells_per_condition = 200
        base.shorten(config)
    elif arg not in ("default", "chain"):
        raise ValueError(f"Unknown argument {arg!r}; pass simulated.py, or simulated.py:chain, :plane or :smoke.")
    return config


def get_sweep():
    """How many latents? Two seeds each: two worlds, and two starts."""
    for latent_dim in (2, 3, 4, 5):
        for seed in (0, 1):
            yield {"fit.latent_dim": latent_dim, "seed": seed}


def get_space():
    """For ``--search=random`` and ``optuna``."""
    return {
        "fit.latent_dim": [2, 3, 4, 5],
        "fit.hidden": [(64, 64, 64), (128, 128, 128)],
        "fit.learning_rate": ("log", 1e-4, 2e-2),
        "fit.contrast": ("uniform", 0.0, 2.0),
        "fit.reconstruction": ("uniform", 0.05, 1.0),
    }


def _plane():
    config = base.get_config()
    config.data.name = "simulated"
    config.data.latent_dim = 2
    config.data.observed_dim = 2
    config.data.num_perturbations = 3
    config.data.labels = ("p0", "p1", "p2", "p0+p1", "p0+p2", "p1+p2")
    config.data.cells_per_condition = 2000
    config.data.mixing = "complex_exponential"
    config.split.test = ("p0+p1", "p1+p2")
    config.split.validation = ("p0+p2",)
    return config
