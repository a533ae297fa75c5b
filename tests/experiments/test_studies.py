"""The simulation studies: their variants can be run, rows say what was judged, tables count what the rows say."""

import contextlib
import importlib
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from absl import flags

from experiments.lab.studies import STUDIES, Variant
from pdae_jax import Recipe, hold_out, simulate
from pdae_jax.labels import parse_label

TINY = Variant(
    name="tiny",
    world={"latent_dim": 2, "observed_dim": 3, "num_perturbations": 3, "cells_per_condition": 60, "mixing": "linear"},
    train=("p0", "p1", "p2", "p0+p1"),
    test={"p0+p2": "in span", "p1+p2": "in span"},
    validation=("p0+p1+p2",),
    recipe={
        "latent_dim": 2,
        "hidden": (8,),
        "num_steps": 20,
        "eval_every": 20,
        "checkpoint_every": 20,
        "log_every": 20,
    },
)


@pytest.fixture(scope="module")
def study():
    with contextlib.chdir(Path(__file__).parents[2]):
        module = importlib.import_module("experiments.lab.study")
    flags.FLAGS(["study", "--study=accuracy"])
    return module


@pytest.fixture(scope="module")
def tables():
    if "study" in flags.FLAGS:  # study.py has a flag of this name too
        delattr(flags.FLAGS, "study")
    return importlib.import_module("experiments.lab.study_tables")


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_variant_can_be_run(name):
    variants = list(STUDIES[name]())
    assert len({v.name for v in variants}) == len(variants)
    for variant in variants:
        Recipe().override(**variant.recipe)
        perturbations = [f"p{i}" for i in range(variant.world["num_perturbations"])]
        labels = [tuple(parse_label(a, perturbations)) for a in (*variant.train, *variant.validation, *variant.test)]
        assert len(set(labels)) == len(labels)  # nothing is judged that was trained on
        differences = np.array(labels)[: len(variant.train)]
        for label, kind in variant.test.items():
            inside = np.linalg.matrix_rank(np.vstack([differences, parse_label(label, perturbations)]))
            assert (kind == "outside") == (inside > np.linalg.matrix_rank(differences))


def test_variants_are_chosen_by_name(study):
    variants = list(STUDIES["ablation"]())
    assert [v.name for v in study.chosen_variants(variants, ["4,500 steps"])] == ["4,500 steps"]
    assert study.chosen_variants(variants, None) == variants
    with pytest.raises(ValueError, match=r"'4'.*quotes of its own"):
        study.chosen_variants(variants, ["4", "500 steps"])


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_rows_of_a_world(study, replicas):
    tested = replicas > 1
    table = study.run_world(TINY, 3, replicas, thorough=True, test_at_n=tested)
    model = table[table.method == "pdae"]
    fits = ["0"] if replicas == 1 else ["0", "1", "ensemble"]
    assert sorted(model.replica.astype(str)) == sorted(2 * fits)
    assert set(model.condition) == {"p0+p2", "p1+p2"} and set(model.kind) == {"in span"}
    assert model.verdict.notna().all() and ("rejected" in table) == tested
    if tested:
        assert set(model.rejected) <= {0, 0.2, 0.4, 0.6, 0.8, 1}  # of five tests
        assert table[table.method != "pdae"].rejected.isna().all()
    control = table[table.method == "control"].set_index("condition").energy_distance
    np.testing.assert_allclose(table.control_distance, control[table.condition], rtol=1e-6)
    assert {"additive", "linear_regression", "latent_additive", "ridge", "oracle_half"} <= set(table.method)


@pytest.mark.slow
def test_the_ceiling_is_low_where_effects_add_up_and_high_where_not(study):
    share, rejected = {}, {}
    for interaction in (0.0, 1.5):
        world = TINY.world | {"cells_per_condition": 2000, "interaction": interaction}
        simulation = simulate(jax.random.key(0), labels=[*TINY.train, *TINY.validation], **world)
        train, _ = hold_out(simulation.data, list(TINY.validation))
        test = study.fresh_cells(jax.random.key(1), simulation, list(TINY.test), study.SAMPLES)
        rows = study.ceiling(simulation, train, test, jax.random.key(2)).set_index("method")
        share[interaction] = (rows.energy_distance / rows.control_distance).groupby("method").max()
        assert share[interaction]["truth"] < 0.01
        rejected[interaction] = rows.rejected.groupby("method").mean()
        assert rejected[interaction]["truth"] <= 0.4  # ten tests at level 5 %: more than four is a chance of 6e-5
    assert share[0.0]["oracle_map"] < 0.01 < 0.1 < share[1.5]["oracle_map"]
    assert rejected[1.5]["oracle_map"] == 1


def test_accuracy_table_counts(tables):
    def row(replica, method, distance, rejected=np.nan, world=1):
        return {
            "variant": "v", "world": world, "replica": replica, "method": method, "condition": "a",
            "rejected": rejected, "energy_distance": distance, "control_distance": 2.0, "share": distance / 2.0,
        }  # fmt: skip

    rows = pd.DataFrame(
        [
            row("0", "pdae", 0.02, 0.0),
            row("1", "pdae", 0.04, 0.4),
            row("0", "pdae", 0.5, 1.0, world=2),
            row("1", "pdae", 0.08, 0.6, world=2),
            row("ensemble", "pdae", 0.02, 0.2),
            *(row("none", "additive", 0.4, world=w) for w in (1, 2)),
            *(row("none", "linear_regression", 0.8, world=w) for w in (1, 2)),
            row("none", "truth", 0.0, 0.05),
        ]
    )
    table = tables.accuracy_table(rows).set_index("")
    single = table.loc["v: single fits"]
    assert (single.worlds, single.fits, single["fits worse than it"]) == (2, 4, 1)
    assert (
        single["rejected, n = 1,000"] == "50% (20% to 80%)" and single["median"] == "3 %" and single.largest == "25 %"
    )
    assert single["against best baseline"] == "0.400"
    assert table.loc["v: ensembles"].fits == 1
    assert table.loc["the truth against itself"]["rejected, n = 1,000"] == "5% (5% to 5%)"
