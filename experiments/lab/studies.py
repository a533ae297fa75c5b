"""What the simulation studies vary: worlds, designs and recipes. `study.py` runs them.

Every variant is trained on several worlds, with several replicas on each, and judged on conditions that chose nothing.
Those of the papers, and of fewer conditions and cells, are in `experiments/configs/papers.py`, which runs each once.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from experiments.configs.papers import WORLD, Variant, conditions, papers, variant
from pdae_jax.data.simulate import Simulation
from pdae_jax.types import PerturbationData

# A small recipe, far from the accuracy of the default, where there is much to be trained.
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
