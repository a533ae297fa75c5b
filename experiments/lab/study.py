"""Simulation studies: every variant on several worlds, several replicas each, judged on held-out conditions.

python experiments/lab/study.py --study=ablation                     one change of the recipe at a time
python experiments/lab/study.py --study=ablation --variants=reference,"contrast 0" --worlds=2
python experiments/lab/study.py --study=papers                       plane, noise, violated assumptions, all comparators

One row per world, replica, method and held-out condition goes to experiments/lab/results/<study>.csv as it is finished;
the same command goes on where it was broken off. `study_tables.py` makes the tables and figures.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import app, flags, logging
from jaxtyping import Float

from experiments.lab.studies import STUDIES, Variant, fresh_cells
from pdae_jax import Recipe, evaluate, fit, fit_ensemble, hold_out, simulate, two_sample_tests
from pdae_jax.compiled import cache_compilations
from pdae_jax.data.simulate import Simulation
from pdae_jax.evaluation.compositional import COMPARATORS, fit_comparators
from pdae_jax.losses import energy_distance
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import predict
from pdae_jax.training.validate import MAX_CELLS, make_validator
from pdae_jax.types import PerturbationData

STUDY = flags.DEFINE_enum("study", None, list(STUDIES), "which one", required=True)
VARIANTS = flags.DEFINE_list("variants", None, "names of variants; default all")
WORLDS = flags.DEFINE_integer("worlds", 12, "number of worlds")
FIRST_WORLD = flags.DEFINE_integer("first_world", 1000, "seed of the first world")
REPLICAS = flags.DEFINE_integer("replicas", 5, "fits per world; 1: no ensemble of them")
COMPARED_WORLDS = flags.DEFINE_integer("compared_worlds", 2, "first worlds that comparators are trained on too")
OUT = flags.DEFINE_string("rows", None, "table; default experiments/lab/results/<study>.csv")

SAMPLES = 5000  # true cells of a condition; as many are predicted, where the control has as many
TEST_CELLS = 1000  # of a two-sample test: five tests of a condition share no true cell
LEVEL = 0.05
COLUMNS = (
    "study", "variant", "world", "replica", "condition", "kind", "method", "energy_distance", "control_distance",
    "n_true", "rejected", "verdict", "residual", "outside", "tested_error", "expected_error",
    "source_disagreement", "replica_disagreement", "kept", "seconds",
)  # fmt: skip


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    path = pathlib.Path(OUT.value or f"experiments/lab/results/{STUDY.value}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if path.exists():
        rows = pd.read_csv(path)
        if list(rows) != list(COLUMNS):
            raise ValueError(f"{path} has other columns than this version writes. Pass another file as --rows.")
        done = set(rows[["variant", "world"]].itertuples(index=False, name=None))
    chosen = chosen_variants(list(STUDIES[STUDY.value]()), VARIANTS.value)
    for variant in chosen:
        for seed in range(FIRST_WORLD.value, FIRST_WORLD.value + WORLDS.value):
            if (variant.name, seed) in done:
                continue
            table = run_world(
                variant,
                seed,
                REPLICAS.value,
                thorough=STUDY.value != "ablation",
                test_at_n=STUDY.value == "accuracy",
            )
            table.insert(0, "study", STUDY.value)
            table = table.reindex(columns=list(COLUMNS))
            table.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.5g")
            model = table[(table.method == "pdae") & (table.replica != "ensemble")]
            share = (model.energy_distance / model.control_distance).mean()
            print(f"{variant.name}, world {seed}: {share:.4f}, {table.seconds.max():.1f} s", flush=True)


def chosen_variants(variants: Sequence[Variant], names: Sequence[str] | None) -> list[Variant]:
    """Those of the names given, all by default; ``ValueError`` for a name that no variant has."""
    known = [variant.name for variant in variants]
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"--variants names {name!r}, which the study has not. Pass some of {known}; a name with a comma needs "
                f"quotes of its own: --variants='\"4,500 steps\",reference'."
            )
    return [variant for variant in variants if names is None or variant.name in names]


def run_world(variant: Variant, seed: int, num_replicas: int, *, thorough: bool, test_at_n: bool) -> Any:
    """Train the replicas of one variant on one world and judge each; thorough: verdicts, ensemble, comparators too."""
    key_world, key_fit, key_truth, key_judge = jax.random.split(jax.random.key(seed), 4)
    labels = [*variant.train, *variant.validation]
    simulation = simulate(key_world, labels=labels, **variant.world)
    train, validation = hold_out(simulation.data, list(variant.validation))
    test = fresh_cells(key_truth, simulation, list(variant.test), SAMPLES)
    if variant.map_known:
        table = ceiling(simulation, train, test, key_judge)
        return table.assign(variant=variant.name, world=seed, kind=table.condition.map(variant.test), seconds=0.0)
    recipe = Recipe().override(**variant.recipe)
    options: dict[str, Any] = {"key": key_fit, "validation": validation, "recipe": recipe, "progress": False}
    start = time.perf_counter()
    if num_replicas == 1:
        ensemble, replicas, kept = None, [fit(train, **options)], [True]
    else:
        ensemble = fit_ensemble(train, num_replicas=num_replicas, bootstrap=variant.bootstrap, **options)
        replicas, kept = ensemble.replicas, [found.kept for found in ensemble.diagnosis]
    seconds = time.perf_counter() - start
    if not thorough:
        return quick_table(replicas, kept, test, key_judge, with_baselines=variant.name == "reference").assign(
            variant=variant.name, world=seed, kind="in span", seconds=round(seconds, 2)
        )
    tables: list[Any] = []
    for r, replica in enumerate(replicas):
        others: dict[str, Any] = {} if r == 0 else {"baselines": []}
        if r == 0 and variant.compared and seed < FIRST_WORLD.value + COMPARED_WORLDS.value:
            others["methods"] = fit_comparators(list(COMPARATORS), train, **options)
        tables.append(judge(replica, test, **others).assign(replica=r, kept=kept[r]))
    tables[0] = tables[0].assign(replica=tables[0].method.map(lambda m: 0 if m == "pdae" else "none"))
    judged: dict[Any, Any] = dict(enumerate(replicas))
    if ensemble is not None:
        judged["ensemble"] = ensemble
        together = judge(ensemble, test, baselines=[])
        tables.append(together[together.method == "pdae"].assign(replica="ensemble", kept=True))
    table: Any = pd.concat(tables)
    table = table[(table.method != "oracle_half") | (table.replica == "none")]
    if test_at_n:
        table["rejected"] = np.nan
        for name, fitted in judged.items():
            predict_one = functools.partial(predict_cells, fitted)
            for condition, share in share_rejected(predict_one, test, key_judge).items():
                rows = (table.replica == name) & (table.condition == condition) & (table.method == "pdae")
                table.loc[rows, "rejected"] = share
    kinds = {condition: variant.test[label] for condition, label in zip(test.conditions, variant.test, strict=True)}
    table = table.rename(columns={"value": "energy_distance"})
    distance = table[table.method == "control"].set_index("condition").energy_distance
    return table.assign(
        control_distance=table.condition.map(distance),
        variant=variant.name,
        world=seed,
        kind=table.condition.map(kinds),
        seconds=round(seconds, 2),
    )


def quick_table(
    replicas: Sequence[Fitted], kept: Sequence[bool], test: PerturbationData, key: jax.Array, *, with_baselines: bool
) -> Any:
    """Energy distances of all replicas, in one compiled call each."""
    first, rows = replicas[0], []
    validator = make_validator(key, first.model, first.view, first.design, first.train, test)
    for r, replica in enumerate(replicas):
        about = {"method": "pdae", "replica": r, "kept": kept[r], "n_true": MAX_CELLS}
        rows += [
            about | {"condition": c, "energy_distance": float(e), "control_distance": float(d)}
            for c, e, d in zip(test.conditions, validator.errors(replica.params), validator.control, strict=True)
        ]
    table = pd.DataFrame(rows)
    if not with_baselines:
        return table
    others = judge(first, test).rename(columns={"value": "energy_distance"})
    others = others[others.method != "pdae"].assign(replica="none")
    distance = table.groupby("condition").control_distance.first()
    return pd.concat([table, others.assign(control_distance=others.condition.map(distance))])


def judge(fitted: Any, test: PerturbationData, **options: Any) -> Any:
    """Energy distances of a model, or of an ensemble, and of what it is compared with."""
    return evaluate(fitted, test, num_samples=SAMPLES, metrics=["energy_distance"], progress=False, **options)


def ceiling(simulation: Simulation, train: PerturbationData, test: PerturbationData, key: jax.Array) -> Any:
    """What is left when the map is known: control cells moved by shifts that are regressed on the true latents.

    As `oracle_map`; and as `truth` fresh cells of the true law, which nothing can beat.
    """
    rows = simulation.data.labels[simulation.data.condition_index]
    trained = np.isin(simulation.data.condition_index, [simulation.data.index(c) for c in train.conditions])
    design = np.column_stack([np.ones(len(rows)), rows])
    shifts = np.linalg.lstsq(design[trained], simulation.latents[trained])[0][1:]
    control = simulation.latents[simulation.data.condition_index == simulation.data.index(train.control)]

    def moved(key: jax.Array, label: Float[np.ndarray, " k"], n: int = TEST_CELLS) -> np.ndarray:
        key_rows, key_noise = jax.random.split(key)
        chosen = np.asarray(jax.random.permutation(key_rows, len(control)))[:n]
        return np.asarray(simulation.world.observe(key_noise, jnp.asarray(control[chosen] + label @ shifts)))

    def truth(key: jax.Array, label: Float[np.ndarray, " k"], n: int = TEST_CELLS) -> np.ndarray:
        return np.asarray(simulation.world.sample(key, label, n))

    rows = []
    for method, predict_one in {"oracle_map": moved, "truth": truth}.items():
        rejected = share_rejected(predict_one, test, key)
        for number, condition in enumerate(test.conditions):
            true = test.cells(condition)
            samples = predict_one(jax.random.fold_in(key, number), test.label(condition), SAMPLES)
            rows.append(
                {
                    "condition": condition,
                    "method": method,
                    "energy_distance": float(energy_distance(samples, true)),
                    "control_distance": float(energy_distance(train.cells(train.control)[:SAMPLES], true)),
                    "rejected": rejected[condition],
                    "n_true": len(true),
                    "replica": "none",
                }
            )
    return pd.DataFrame(rows)


def predict_cells(fitted: Any, key: jax.Array, label: Float[np.ndarray, " k"]) -> Float[np.ndarray, "n d"]:
    """What is tested: as many cells as the test takes."""
    return predict(fitted, label, key=key, num_samples=TEST_CELLS).samples


def share_rejected(predict_one: Callable, test: PerturbationData, key: jax.Array) -> dict[str, float]:
    """For every held-out condition, the share of energy tests that tell predicted from true cells at `LEVEL`.

    One test for every `TEST_CELLS` true cells, each against as many cells predicted for it.
    """
    share = {}
    for number, condition in enumerate(test.conditions):
        key_condition = jax.random.fold_in(key, number)
        true, pairs = test.cells(condition), {}
        for t in range(len(true) // TEST_CELLS):
            predicted = predict_one(jax.random.fold_in(key_condition, t), test.label(condition))
            pairs[f"{condition}, test {t}"] = (predicted, true[t * TEST_CELLS : (t + 1) * TEST_CELLS])
        key_tests = jax.random.fold_in(key_condition, len(pairs))  # those before are of predictions
        share[condition] = float((two_sample_tests(pairs, key=key_tests).p_value <= LEVEL).mean())
    return share


if __name__ == "__main__":
    app.run(main)
