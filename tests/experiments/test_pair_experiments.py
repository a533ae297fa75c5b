"""The scripts that predict held-out pairs of real data: what they compute, on data whose answer is known."""

import contextlib
import importlib
import warnings
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from absl import flags

import pdae_jax
from experiments.configs.bodenmiller import held_out_pairs
from pdae_jax.data.datasets import COMMON_CELL_TYPES, STIMULATIONS
from pdae_jax.evaluation.baselines import Method

REPOSITORY = Path(__file__).parents[2]


def script(name, *own_flags):
    """A script as a module; flags of the same names, of scripts imported before, are forgotten."""
    for flag in own_flags:
        if flag in flags.FLAGS:
            delattr(flags.FLAGS, flag)
    with warnings.catch_warnings(), contextlib.chdir(REPOSITORY):  # a config flag loads its default at once
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"experiments.{name}")


@pytest.fixture(scope="module")
def mapk():
    return script("lab.mapk_rnai", "workdir", "source", "num_samples")


@pytest.fixture(scope="module")
def leave():
    return script("lab.leave_pair_out", "config", "workdir", "num_pairs", "num_replicas")


def additive_world(*, interaction=0.0, cells=400):
    """Two features, four genes, all pairs: means add up but for `interaction` of a with b in the first feature."""
    random, genes = np.random.default_rng(0), "abcd"
    effects = {"a": (1.0, 0.0), "b": (0.0, 2.0), "c": (-1.0, 1.0), "d": (0.5, 0.5)}
    names = ["control", *genes, *(f"{g}+{h}" for i, g in enumerate(genes) for h in genes[i + 1 :])]
    x, conditions = [], []
    for name in names:
        mean = np.sum([effects[g] for g in name.split("+") if g in effects] + [(0.0, 0.0)], axis=0)
        noise = random.normal(size=(cells, 2))
        x.append(mean + [interaction * (name == "a+b"), 0.0] + noise - noise.mean(axis=0))
        conditions += [name] * cells
    return pdae_jax.from_arrays(np.concatenate(x), conditions, perturbations=list(genes))


def test_main_effects_are_those_of_the_training_pairs(mapk):
    labels = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=float)
    means = 2.0 + labels @ np.array([[1.0], [3.0], [-2.0]])
    np.testing.assert_allclose(mapk.main_effects(labels, means, np.array([[1.0, 0, 0]])), [[3.0]], atol=1e-9)


@pytest.mark.slow
def test_means_of_methods_agree_with_an_additive_world(mapk):
    train, test = pdae_jax.hold_out(additive_world(), "a+b")
    options = {"latent_dim": 2, "noise_dim": 0, "hidden": (8,), "num_steps": 1, "log_every": 1, "eval_every": 1}
    fitted = pdae_jax.fit(train, key=jax.random.key(0), checkpoint_every=1, **options)
    predicted = mapk.predict_means(fitted, test, source="all", num_samples=4000)
    for name in ("additive", "linear_regression", "two_way"):
        np.testing.assert_allclose(predicted[name], [[1.0, 2.0]], atol=1e-5)
    # the model starts at the linear one; what is left is the sampling of source cells
    np.testing.assert_allclose(predicted["pdae"], [[1.0, 2.0]], atol=0.15)


def test_error_table_against_numpy(mapk):
    data, random = additive_world(interaction=3.0).select(["a+b", "a+c", "c+d"]), np.random.default_rng(1)
    true = np.array([[4.0, 2.0], [0.0, 1.0], [-0.5, 1.5]])
    off = random.normal(size=(3, 2))
    predicted = {"additive": true + 2 * off, "two_way": true + off, "pdae": true + 0.5 * off}
    table = mapk.error_table(predicted, {"noise_of_wells": 0.1 * np.ones((3, 2))}, data)
    first = table[table["feature"] == data.features[0]].set_index("method")
    np.testing.assert_allclose(first.loc["two_way", "rmse"], np.sqrt(np.mean(off[:, 0] ** 2)), rtol=1e-5)
    np.testing.assert_allclose(
        first.loc["pdae", ["over_two_way", "over_two_way_low", "over_two_way_high"]].astype(float), 0.5, rtol=1e-4
    )
    np.testing.assert_allclose(first.loc["pdae", "over_additive"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(
        first.loc["additive", "correlation"], np.corrcoef(true[:, 0], true[:, 0] + 2 * off[:, 0])[0, 1], rtol=1e-5
    )
    assert first.loc["noise_of_wells", "rmse"] == pytest.approx(0.1)


def test_noise_of_wells_is_the_standard_error(mapk):
    data = additive_world(cells=100)
    noise = mapk.noises(data, data.select(["a+b"]), {"screen": 1})
    assert set(noise) == {"noise_of_wells"}  # one screen has nothing to compare with
    np.testing.assert_allclose(noise["noise_of_wells"], data.cells("a+b").std(axis=0, ddof=1)[None] / 10, rtol=1e-5)


def test_order_starts_with_what_chose_and_ends_with_the_test_of_the_config(leave):
    test, validation = held_out_pairs()
    order = leave.order_of_pairs()
    assert len(set(order)) == len(order) == len(STIMULATIONS) * len(COMMON_CELL_TYPES)
    assert set(order[:3]) == set(validation) and set(order[-5:]) == set(test)
    assert {leave.source_of(pair) for pair in order} == {"unstimulated", *COMMON_CELL_TYPES} - {"cd4+"}


def test_every_measured_pair_is_left_out_once_and_never_validates_itself(leave):
    pairs = leave.order_of_pairs()
    few = pairs[4]
    sizes = {name: 10 if name == few else 160 for name in (*pairs, "unstimulated", *COMMON_CELL_TYPES[1:])}
    names = [name for name, size in sizes.items() for _ in range(size)]
    data = pdae_jax.from_arrays(
        np.random.default_rng(0).normal(size=(len(names), 2)), names, control="unstimulated", separator=" & "
    )
    found = leave.folds(data)
    assert sorted(fold.pair for fold in found) == sorted(set(pairs) - {few})
    for fold in found:
        assert len({fold.pair, few, *fold.validation}) == 5
        train = data.select([c for c in data.conditions if c not in (fold.pair, *fold.validation)])
        assert pdae_jax.check_guarantee(train, data.label(fold.pair)).identified
    assert [fold.pair for fold in found if fold.searched] == [pair for pair in pairs[:6] if pair != few]


def test_non_additivity_of_a_known_interaction(leave, monkeypatch):
    monkeypatch.setattr(leave, "source_of", lambda pair: "a")
    for interaction, share in ((0.0, 0.0), (1.5, 0.6)):
        train, test = pdae_jax.hold_out(additive_world(interaction=interaction), ["a+b"])
        effect, missed = leave.non_additivity(train, test.cells("a+b"), "a+b")
        np.testing.assert_allclose([effect, missed], [np.hypot(interaction, 2.0), share], atol=1e-5)


def test_unmoved_cells_are_those_of_the_source(leave):
    data = additive_world(cells=20)
    moved = Method(leave.unmoved)(jax.random.key(0), data, "a+b", 20, source="a")
    np.testing.assert_array_equal(np.sort(moved, axis=0), np.sort(data.cells("a"), axis=0))


def test_summary_counts_pairs_against_the_best_baseline_of_each(leave):
    values = {
        "p": {"pdae": 0.1, "additive": 0.2, "unmoved": 0.9},
        "q": {"pdae": 0.3, "additive": 0.8, "unmoved": 0.2},
        "r": {"pdae": 0.2, "additive": 0.4, "unmoved": 0.5},
    }
    rows = [
        {"condition": pair, "method": method, "metric": "energy_distance", "value": value}
        for pair, methods in values.items()
        for method, value in {**methods, "oracle_half": 0.0}.items()
    ]
    facts = {"verdict": "trusted", "outside": 0.1, "effect": 1.0, "interaction": 0.2, "searched": "no"}
    text = leave.summarise(pd.DataFrame(rows).assign(**facts))
    assert "best baseline, additive: 0.50" in text
    assert (
        "better than additive on 100% of the pairs, and better than the best baseline of the pair itself on 67%" in text
    )
    (failed,) = [line for line in text.splitlines() if line.endswith("worse |")]
    assert failed.startswith("| q | 0.300 | 0.200 (unmoved)")


def test_rows_of_other_settings_are_refused(leave, tmp_path):
    leave.check_settings(tmp_path / "new" / "settings.json", {"seed": 0, "recipe": {"hidden": [8]}})
    leave.check_settings(tmp_path / "new" / "settings.json", {"seed": 0, "recipe": {"hidden": [8]}})
    with pytest.raises(ValueError, match=r"other settings of seed. Pass another --workdir"):
        leave.check_settings(tmp_path / "new" / "settings.json", {"seed": 1, "recipe": {"hidden": [8]}})
