"""What the simulation studies vary: worlds, designs and recipes. `study.py` runs them.

Every variant is trained on several worlds, with several replicas on each, and judged on conditions that chose nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from pdae_jax.data.simulate import Simulation
from pdae_jax.types import PerturbationData

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
# A small recipe too, far from the accuracy of the default, where there is much to be trained.
SMALL_RECIPE = {
    "latent_dim": 3,
    "reconstruction": 1.0,
    "contrast": 1.0,
    "likelihood": 0.0,
    "observed_effects": False,
    "hidden": (64, 64),
    "num_steps": 1500,
    "learning_rate": 2e-3,
    "eval_every": 500,
    "checkpoint_every": 500,
    "num_sources": 7,
    "num_targets": 7,
    "cells_per_source": 8,
    "cells_per_target": 32,
}


def fresh_cells(key: jax.Array, simulation: Simulation, labels: list[str], number: int) -> PerturbationData:
    """New cells of the truth under each label."""
    data, world = simulation.data, simulation.world
    keys = jax.random.split(key, len(labels))
    x = np.concatenate([np.asarray(world.sample(k, a, number)) for k, a in zip(keys, labels, strict=True)])
    return PerturbationData(
        x=x.astype(np.float32),
        condition_index=np.repeat(np.arange(len(labels), dtype=np.int32), number),
        labels=np.stack([world.label(a) for a in labels]),
        conditions=tuple(labels),
        perturbations=data.perturbations,
        features=data.features,
    )


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


def ablation() -> Iterator[Variant]:
    """One change of the small recipe at a time."""
    for changed in _ablation():
        yield changed._replace(recipe=SMALL_RECIPE | changed.recipe)


def _ablation() -> Iterator[Variant]:
    yield variant("reference")
    yield variant("contrast 0", contrast=0.0)
    yield variant("latents 2", latent_dim=2)
    yield variant("latents 4", latent_dim=4)
    yield variant("latents by effective rank", latent_dim=None)
    yield variant("pooled score", form="pooled")
    yield variant("pooled score, contrast 0", form="pooled", contrast=0.0)
    yield variant("width 128", hidden=(128, 128))
    yield variant("depth 3", hidden=(64, 64, 64))
    yield variant("16 cells a source", cells_per_source=16)
    yield variant("3 sources, 3 targets", num_sources=3, num_targets=3)
    yield variant("4,500 steps", num_steps=4500)
    yield variant("rate 5e-4", learning_rate=5e-4)
    yield variant("rate 5e-3", learning_rate=5e-3)
    yield variant("noise drawn", noise="drawn", observed_effects=False)
    yield variant("observed effects", observed_effects=True)
    yield variant("latents 6", latent_dim=6)
    yield variant("no averaging", average_decay=0.0)
    yield variant("gaussian kernels", kernel="gaussian")
    yield variant("beta 1.5", beta=1.5)
    yield variant("bootstrap")._replace(bootstrap=True)
    yield variant("width 32", hidden=(32, 32))
    yield variant("contrast 0.1", contrast=0.1)
    yield variant("reconstruction 0", reconstruction=0.0)
    yield variant("reconstruction 0.1", reconstruction=0.1)
    yield variant("beta 0.5", beta=0.5)
    yield variant("contrast 3", contrast=3.0)
    yield variant("contrast 10", contrast=10.0)
    yield variant("rate 1e-2", learning_rate=1e-2)
    yield variant("likelihood 0.1", likelihood=0.1)
    yield variant("likelihood 0.3", likelihood=0.3)
    yield variant("likelihood 1", likelihood=1.0)
    yield variant("likelihood 0.3, contrast 0", likelihood=0.3, contrast=0.0)
    yield variant("likelihood 0.3, latents 4", likelihood=0.3, latent_dim=4)


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


def accuracy() -> Iterator[Variant]:
    """Full size: ten features, four latents, ten training conditions; the default recipe, and more cells for longer."""
    singles = ("p0", "p1", "p2", "p3", "p4")
    triples = ("p0+p1+p2", "p1+p2+p3", "p2+p3+p4", "p0+p3+p4")
    world = {"latent_dim": 4, "observed_dim": 10, "num_perturbations": 5}
    default = Variant(
        name="default, 2000 cells",
        world=WORLD | world | {"cells_per_condition": 2000},
        train=(*singles, *triples),
        test=dict.fromkeys(("p0+p2", "p1+p3", "p2+p4", "p0+p4", "p0+p3"), "in span"),
        validation=("p1+p4",),
        recipe={"latent_dim": 4},
    )
    yield default
    double = {"cells_per_source": 32, "cells_per_target": 128}
    for cells, batches, changes in ((10_000, "", {}), (50_000, ", double batches", double)):
        yield default._replace(
            name=f"{cells} cells, 12000 steps{batches}",
            world=default.world | {"cells_per_condition": cells},
            recipe=default.recipe | {"num_steps": 12000} | changes,
        )
    yield default._replace(name="2000 cells, true map known", map_known=True)


STUDIES: dict[str, Callable[[], Iterator[Variant]]] = {
    "ablation": ablation,
    "conditions": conditions,
    "papers": papers,
    "accuracy": accuracy,
}


if __name__ == "__main__":
    raise SystemExit("This is no script. Run python experiments/lab/study.py, which uses it.")
