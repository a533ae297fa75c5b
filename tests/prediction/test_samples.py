"""Predictions: shapes, names, sources, batches; and the verdict against linear algebra and known supports."""

import dataclasses
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pdae_jax
from pdae_jax import predict as predict_function
from pdae_jax.cli.check import unmeasured_doubles
from pdae_jax.data.simulate import simulate
from pdae_jax.design.design import design_of, make_design
from pdae_jax.labels import parse_label
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.reporting import report
from pdae_jax.types import PerturbationData

predict_module = importlib.import_module("pdae_jax.prediction.samples")

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def fitted():
    """The additive start of a linear world, untrained: exact there, and built in a second."""
    data = simulate(
        jax.random.key(0),
        latent_dim=3,
        observed_dim=3,
        num_perturbations=4,
        labels=["p0", "p1", "p2", "p0+p1"],  # p3 was never measured
        cells_per_condition=800,
        mixing="linear",
        shift_scale=3.0,
    ).data
    return pdae_jax.fit(data, key=KEY, latent_dim=3, hidden=(4,), stop_step=0)


def test_samples_come_in_the_users_units_with_names(fitted):
    prediction = predict_function(fitted, "p1+p0", key=KEY)
    assert prediction.features == fitted.train.features
    assert prediction.samples.shape == (800, 3)
    np.testing.assert_array_equal(prediction.label, [1, 1, 0, 0])
    np.testing.assert_allclose(prediction.samples.mean(0), fitted.train.cells("p0+p1").mean(0), atol=0.2)


def test_every_way_to_write_a_label_gives_the_same_samples(fitted):
    ways = ["p0+p2:0.5", {"p2": 0.5, "p0": 1.0}, [1.0, 0.0, 0.5, 0.0], np.array([1.0, 0.0, 0.5, 0.0])]
    samples = [predict_function(fitted, way, key=KEY, num_samples=20).samples for way in ways]
    assert all(np.array_equal(samples[0], other) for other in samples[1:])


@pytest.mark.parametrize("source", ["control", "p2", "all"])
def test_all_sources_lead_to_the_same_law_where_the_model_is_exact(fitted, source):
    prediction = predict_function(fitted, "p0+p1", key=KEY, source=source, num_samples=1500)
    assert prediction.source == source
    reference = predict_function(fitted, "p0+p1", key=KEY, num_samples=800)
    assert abs(float(pdae_jax.losses.energy_distance(prediction.samples, reference.samples))) < 0.03


def test_source_cells_are_used_equally_often(fitted):
    deterministic = predict_function(fitted, "p0", key=KEY, num_samples=2400).samples
    _, counts = np.unique(deterministic, axis=0, return_counts=True)
    assert np.all(counts == 3)


def test_batches_are_the_prediction_in_bounded_pieces(fitted):
    number = 2 * 4096 + 5
    blocks = list(pdae_jax.predict_batches(fitted, "p0+p2", key=KEY, num_samples=number))
    assert [len(block) for block in blocks] == [4096, 4096, 5]
    whole = predict_function(fitted, "p0+p2", key=KEY, num_samples=number).samples
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


# --- the verdict ---------------------------------------------------------------------------------------------------


def test_identification_is_membership_in_the_span(fitted):
    verdict = pdae_jax.check_guarantee(fitted.train, "p1+p2")
    assert verdict.identified and verdict.residual < 1e-6 and verdict.supported is None
    differences = fitted.train.labels
    combined = sum(w * differences[fitted.train.index(c)] for c, w in verdict.weights.items())
    np.testing.assert_allclose(combined, [0, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(verdict.leverage, np.linalg.norm(np.linalg.pinv(differences.T) @ [0, 1, 1, 0]) ** 2)


def test_an_unmeasured_perturbation_is_not_identified_and_predicted_by_its_identified_part(fitted):
    verdict = pdae_jax.check_guarantee(fitted, "p0+p3")
    assert verdict.level == "not identified"
    np.testing.assert_allclose(verdict.residual, 1 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(
        design_of(fitted.train).identified_part(np.array([1, 0, 0, 1], np.float32)), [1, 0, 0, 0], atol=1e-6
    )
    samples = [predict_function(fitted, label, key=KEY, num_samples=30).samples for label in ("p0+p3", "p0")]
    np.testing.assert_allclose(samples[0], samples[1], atol=1e-4)


def test_an_identified_label_is_predicted_as_it_is():
    """The gain of a combination counts its doses: rounding must not add any."""
    random = np.random.default_rng(0)
    labels = np.concatenate([np.zeros((1, 30)), np.eye(30), random.integers(0, 2, (40, 30))]).astype(np.float32)
    names = tuple(str(e) for e in range(len(labels)))
    train = PerturbationData(
        np.zeros((len(labels), 1), np.float32), np.arange(len(labels), dtype=np.int32), labels, names,
        tuple(f"p{i}" for i in range(30)), ("x",), "0",
    )  # fmt: skip
    pair = np.zeros(30, np.float32)
    pair[[3, 17]] = 1.0
    np.testing.assert_array_equal(design_of(train).identified_part(pair), pair)
    # the part of a label that is determined has no stray doses either
    known = train.select([name for name in names if labels[int(name), 17] == 0])
    assert np.count_nonzero(design_of(known).identified_part(pair)) == 1


def test_support_is_full_at_training_labels_and_lost_far_away(fitted):
    near = pdae_jax.check_guarantee(fitted, "p0+p1")
    far = pdae_jax.check_guarantee(fitted, {"p0": 3.0, "p2": 3.0})
    assert near.supported and near.outside < 0.12
    assert not far.supported and far.outside > 0.95
    assert far.level == "unsupported"


def test_additivity_is_untested_without_left_out_combinations(fitted):
    verdict = pdae_jax.check_guarantee(fitted, "p0+p1")
    assert not verdict.assumption_tested and verdict.level == "untested"
    assert "untested" in verdict.summary()
    held_out = dataclasses.replace(
        fitted,
        validation=fitted.train.select(["p0+p1"]),
        validation_errors={"p0+p1": {"pdae": 0.02, "control": 1.0}},
    )
    tested = pdae_jax.check_guarantee(held_out, "p0+p1")
    assert tested.level == "trusted" and tested.tested == ("p0+p1",)
    # the same error is too large for a label that hardly goes anywhere
    small = pdae_jax.check_guarantee(held_out, {"p0": 0.1})
    assert small.level == "imprecise" and "too small" in small.summary()
    for verdict, label in ((tested, "p0+p1"), (small, {"p0": 0.1})):
        moved = pdae_jax.predict(fitted, label, key=KEY, num_samples=400).samples
        effect = float(pdae_jax.losses.energy_distance(moved, fitted.train.cells("control")))
        assert abs(0.02 / verdict.expected_error - effect) < 0.05 * max(effect, 0.2)
    refuted = dataclasses.replace(held_out, validation_errors={"p0+p1": {"pdae": 0.9, "control": 1.0}})
    assert pdae_jax.check_guarantee(refuted, "p0+p1").level == "refuted"


def trusted(**changes):
    """A verdict in which nothing is wrong, but for the changes."""
    known = {"identified": True, "residual": 0.0, "weights": {"p0": 1.0}, "leverage": 2.0, "supported": True}
    numbers = {"latent_rank": 3, "latent_dim": 3, "outside": 0.05, "tested_error": 0.01, "expected_error": 0.01}
    return Verdict(condition="p0", **(known | numbers | {"tested": ("p0+p1",)} | changes))


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "trusted", "Identified"),
        ({"leverage": 1e14}, "poorly determined", "multiply the error of measured effects by 1e\\+07"),
        ({"latent_rank": 2, "latent_dim": 10}, "rank deficient", "span 2 of 10 latent dimensions"),
        ({"latent_rank": None}, "trusted", "Identified"),  # not asked
        ({"identified": False, "leverage": 1e14, "residual": 0.5}, "not identified", "50% of the label"),
    ],
)
def test_the_level_knows_leverage_and_rank(changes, level, words):
    verdict = trusted(**changes)
    assert verdict.level == level in report.VERDICTS
    assert re.search(words, verdict.summary())


@pytest.mark.parametrize(
    ("label", "status", "level"),
    [
        ("p0+p1", "measured", "trusted"),
        ("p1:0.1+p2", "between", "dose not measured"),
        ("p1:-1", "beyond", "beyond the measured doses"),
        ("p0+p2:1.5", "beyond", "beyond the measured doses"),
        ("p3", "beyond", "not identified"),  # never given
        ("control", "measured", "trusted"),
    ],
)
def test_a_dose_that_was_never_measured_is_not_trusted(fitted, label, status, level):
    for unit in (1.0, 1e-6):  # mM and nM
        train = dataclasses.replace(fitted.train, labels=fitted.train.labels * np.float32(unit))
        verdict = pdae_jax.check_guarantee(train, fitted.train.label(label) * np.float32(unit))
        assert verdict.dose_status == status
    nothing_else = trusted(identified=verdict.identified, dose_status=status)
    assert nothing_else.level == level
    assert nothing_else.summary().startswith(f"p0: {level}. {report.LEVELS[level].cause(nothing_else)} ")


def test_doses_of_a_series_are_compared_one_by_one():
    design = make_design(np.array([[0, 0], [0.1, 0], [1, 0], [0, -2], [0.1, -2]], np.float32), ("A", "B"))
    found = [
        design.dose_status(np.array(label, np.float32))
        for label in ([0.1 * (1 + 1e-7), 0], [1, -2], [0.5, -2], [0, -1])
    ]
    assert found == ["measured", "measured", "between", "between"]
    assert [design.dose_status(np.array(label, np.float32)) for label in ([2, 0], [0, 1], [0.5, -3])] == ["beyond"] * 3


def test_the_level_its_cause_and_what_to_do_come_first():
    """In words of those who measure cells; those of the method, and the weights, are details."""
    for changes in (
        {}, {"identified": False, "residual": 0.5}, {"leverage": 1e14}, {"latent_rank": 2}, {"supported": False},
        {"tested": (), "tested_error": None}, {"tested_error": 0.2}, {"expected_error": 0.2},
        {"source_disagreement": 0.3}, {"dose_status": "between"}, {"dose_status": "beyond"},
    ):  # fmt: skip
        verdict = trusted(**changes)
        first, _, details = verdict.summary().partition(" Details: ")
        assert first.startswith(f"p0: {verdict.level}. ") and first.endswith(report.LEVELS[verdict.level].advice)
        assert not re.search("latents|leverage|span |label|rho|energy distance|None|nan", first)
        assert "(p0)" in details or not verdict.identified
        assert report.VERDICTS[verdict.level].endswith(report.LEVELS[verdict.level].advice)


def test_leverage_multiplies_the_squared_error_of_effects():
    """What the bound of the level is about: the effect of A is the difference of two doses that are nearly the same."""
    random, labels = np.random.default_rng(0), np.array([[0, 0], [1, 1], [1, 0.8]], np.float32)
    names = ("control", "1", "2")
    train = PerturbationData(
        np.zeros((3, 1), np.float32), np.arange(3, dtype=np.int32), labels, names, ("a", "b"), ("x",)
    )
    verdict = pdae_jax.check_guarantee(train, "b")
    np.testing.assert_allclose(verdict.leverage, 2 / 0.2**2, rtol=1e-5)
    assert verdict.identified and verdict.level == "poorly determined"
    # least squares on effects measured with errors of variance 1
    measured = labels[1:].astype(float) @ [3.0, 1.0] + random.normal(size=(4000, 2))
    slopes = np.linalg.solve(labels[1:].astype(float), measured.T)
    np.testing.assert_allclose(np.var(slopes[1]), verdict.leverage, rtol=0.1)


def test_latent_rank_counts_the_dimensions_that_are_shifted(fitted):
    assert pdae_jax.check_guarantee(fitted, "p0").latent_rank == 3
    one = fitted.params | {
        "shift": fitted.params["shift"] | {"matrix": jnp.outer(jnp.array([1.0, 2.0, 3.0, 0.0]), jnp.ones(3))}
    }
    verdict = pdae_jax.check_guarantee(dataclasses.replace(fitted, params=one), "p0")
    assert verdict.latent_rank == 1 and verdict.level == "rank deficient"


@pytest.mark.slow
def test_nonnegative_predictions_are_exact_zeros_or_positive():
    """In the user's units: a zero that comes back as 3e-8 is no zero to a histogram or an interval."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, size=(400, 120)).astype(np.float32)
    counts[0] = 1.0  # no feature is constant
    data = pdae_jax.from_arrays(counts, conditions=["ctrl"] * 200 + ["A"] * 200, control="ctrl")
    options = {"key": KEY, "latent_dim": 2, "hidden": (4,), "stop_step": 0}
    fitted = pdae_jax.fit(data, **options)
    assert fitted.recipe.nonnegative
    # a label far away, so that zeros are made and lost
    samples = predict_function(fitted, {"A": 3.0}, key=KEY).samples
    assert samples.min() == 0.0
    positive = samples[samples > 0]
    assert positive.min() > 1e-6 and 0.01 < np.mean(samples == 0) < 0.9


def test_predictions_beyond_the_measured_range_are_reported_and_warned_about(fitted, caplog):
    usual = predict_function(fitted, "p0", key=KEY)
    assert 0.5 < usual.reach < predict_module.MAX_REACH
    low, high = fitted.train.x.min(axis=0), fitted.train.x.max(axis=0)
    expected = np.abs(usual.samples - (low + high) / 2) / ((high - low) / 2)
    np.testing.assert_allclose(usual.reach, expected.max(), rtol=1e-4)
    with caplog.at_level("WARNING"):
        far = predict_function(fitted, {"p0": 30.0}, key=KEY)
    assert far.reach > predict_module.MAX_REACH
    assert "p0:30" in caplog.text and "Such cells were never seen" in caplog.text


def test_doses_that_were_not_measured_are_named_with_those_that_were(fitted):
    train = dataclasses.replace(fitted.train, labels=fitted.train.labels * np.float32([100, 1, 1, 1]))
    verdict = pdae_jax.check_guarantee(train, "p0+p2")  # without a dose, which is then 1
    assert verdict.new_doses == ("p0 at 1 (measured: 100)",)
    assert "A dose lies between the measured ones: p0 at 1 (measured: 100)." in verdict.summary()
    asked = unmeasured_doubles(train)
    assert asked and all(("p0:100" in name) == ("p0" in name) for name in asked)
    assert all(not pdae_jax.check_guarantee(train, name).new_doses for name in asked if "p3" not in name)


def test_names_joined_by_another_separator_are_told_how():
    with pytest.raises(KeyError, match=r"Unknown perturbation 'p0\+p1'. Names are joined by ' & ' here: 'p0 & p1'"):
        parse_label("p0+p1", ["p0", "p1"], separator=" & ")
