"""The papers' experiments, one run each: worlds in the plane, with noise, and with assumptions violated.

make run CONFIG=experiments/configs/papers.py:plane                    in-span and off-support labels, two dimensions
make run CONFIG=experiments/configs/papers.py:20_features_noise_0.5    or :20_features_counts
make run CONFIG=experiments/configs/papers.py:mixture_base             or :correlated_base: base latents not N(0, I)
make run CONFIG=experiments/configs/papers.py:interactions_0.25        or :interactions_1: effects do not add up
make run CONFIG=experiments/configs/papers.py:conditions_singles       too few conditions; :cells_100: too few cells
make run CONFIG=experiments/configs/papers.py:labels_outside_the_span  what no data determine
make run CONFIG=experiments/configs/papers.py:smoke                    a few steps, to see that everything runs

One world is drawn by ``config.seed``, and the run folder has its report and figures; ``experiments/lab/study.py`` runs
the same over many worlds. Compared with the baselines and with two compositional autoencoders trained on these cells.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pdae_jax.cli import base
from pdae_jax.evaluation.compositional import COMPARATORS

SINGLES = ("p0", "p1", "p2", "p3")
TRIPLES = ("p0+p1+p2", "p1+p2+p3")
DOUBLES = ("p0+p1", "p0+p2", "p1+p2", "p1+p3", "p2+p3")


class Variant(NamedTuple):
    """One row of a study's table."""

    name: str
    world: dict[str, Any]  # options of simulate, labels aside
    train: tuple[str, ...]  # labels beside the control
    test: dict[str, str]  # label -> kind
    validation: tuple[str, ...]
    recipe: dict[str, Any]
    bootstrap: bool = False
    compared: bool = False  # with the trained comparator too
    map_known: bool = False  # nothing is trained: the true map with shifts estimated from its latents, a ceiling


# Three latents seen through six features: small, so that a study takes hours and not weeks.
WORLD = {
    "latent_dim": 3,
    "observed_dim": 6,
    "num_perturbations": 4,
    "cells_per_condition": 1000,
    "mixing": "network",
    "shift_scale": 1.75,
}


def variant(name: str, *, world: dict[str, Any] | None = None, **recipe: Any) -> Variant:
    """The small world and a recipe; triples and singles in training, doubles held out, one of them for validation."""
    return Variant(
        name=name,
        world=WORLD | (world or {}),
        train=(*SINGLES, *TRIPLES),
        test=dict.fromkeys(DOUBLES, "in span"),
        validation=("p0+p3",),
        recipe=recipe,
    )


def conditions() -> Iterator[Variant]:
    """Error against the number of training combinations and of cells per condition, default recipe."""
    ladder = {
        "singles": (),
        "singles, 1 triple": TRIPLES[:1],
        "singles, 2 triples": TRIPLES,
        "singles, 4 triples": (*TRIPLES, "p0+p2+p3", "p0+p1+p3"),
        "singles, 4 triples, half doses": (
            *TRIPLES, "p0+p2+p3", "p0+p1+p3", "p0:0.5", "p1:0.5", "p2:0.5", "p3:0.5",
        ),
    }  # fmt: skip
    for name, more in ladder.items():
        yield variant(f"conditions: {name}", latent_dim=3)._replace(train=(*SINGLES, *more))
    for cells in (100, 300, 1000, 3000, 10000):
        yield variant(f"cells: {cells}", world={"cells_per_condition": cells}, latent_dim=3)


def papers() -> Iterator[Variant]:
    """The papers' experiments: in the plane, with noise, and with the assumptions violated."""
    plane = {
        "latent_dim": 2,
        "observed_dim": 2,
        "num_perturbations": 3,
        "mixing": "complex_exponential",
        "cells_per_condition": 2000,
    }
    yield Variant(
        name="plane",
        world=WORLD | plane,
        train=("p0", "p1", "p2", "p0+p1"),
        test={
            "p0+p2": "in span", "p1+p2": "in span", "p0:0.5+p1:0.5": "in span",
            "p0:2+p1:2": "off support", "p0:-2": "off support", "p1:2.5": "off support",
        },
        validation=("p0+p1+p2",),
        recipe={"latent_dim": 2},
        compared=True,
    )  # fmt: skip
    worlds: dict[str, dict[str, Any]] = {
        "clean": {},
        "20 features, noise 0.5": {"observed_dim": 20, "noise": "gaussian", "noise_scale": 0.5},
        "20 features, counts": {"observed_dim": 20, "noise": "counts"},
        "mixture base": {"base": "mixture"},
        "correlated base": {"base": "correlated"},
        "interactions 0.25": {"interaction": 0.25},
        "interactions 1": {"interaction": 1.0},
    }
    for name, world in worlds.items():
        yield variant(name, world=world, latent_dim=3)._replace(compared=True)
    without = {"contrast": 0.0, "likelihood": 0.0}
    yield variant("mixture base, no Gaussian terms", world={"base": "mixture"}, latent_dim=3, **without)
    yield variant("labels outside the span", latent_dim=3)._replace(
        train=("p0", "p1", "p2", "p0+p1+p2"),
        test={"p0+p2": "in span", "p1+p2": "in span", "p0+p3": "outside", "p1+p3": "outside", "p2+p3": "outside"},
        validation=("p0+p1",),
        compared=True,
    )


VARIANTS = {each.name.replace(",", "").replace(":", "").replace(" ", "_"): each for each in (*papers(), *conditions())}


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
