"""How far predictions differ, where the true difference is known in closed form."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

import pdae_jax
from pdae_jax.prediction.agreement import replica_disagreement, source_disagreement

CELLS = 100


@pytest.fixture(scope="module")
def fitted():
    return pdae_jax.fit(
        gaussian_cells(0), key=jax.random.key(0), latent_dim=2, hidden=(4,), standardize="none", stop_step=0
    )


def gaussian_cells(seed, perturbed=CELLS):
    """Standard normal cells under every label, in three dimensions."""
    names = np.repeat(["ctrl", "A", "B"], [CELLS, perturbed, perturbed])
    x = np.random.default_rng(seed).normal(size=(len(names), 3))
    return pdae_jax.from_arrays(x, conditions=names, control="ctrl")


def moving(fitted, train, shift):
    """A model that moves every cell by a fixed shift, whatever the label."""
    shift = np.asarray(shift, np.float32)
    model = fitted.model._replace(translate=lambda params, key, x, label_from, label_to, size: x + shift)
    return dataclasses.replace(fitted, model=model, train=train)


def gaussian_distance(shift):
    """Of N(0, I) and N(shift, I): differences are N(shift, 2 I), their lengths the root of 2 chi2."""
    far = np.sqrt(2) * stats.ncx2.expect(np.sqrt, args=(3, np.sum(np.square(shift)) / 2))
    return 2 * (far - np.sqrt(2) * stats.chi.mean(3))


def test_disagreements_are_those_of_the_laws(fitted):
    """Two replicas 0.3 apart, both 1 and more from the control, that the same 100 cells are moved by."""
    label, near, far = fitted.train.label("A+B"), [1.0, 0.0, 0.0], [1.3, 0.0, 0.0]
    shares, effects = [], []
    for seed in range(12):
        train = gaussian_cells(seed)
        first, second = moving(fitted, train, near), moving(fitted, train, far)
        shares.append(replica_disagreement((first, second), label, "ctrl"))
        effects.append(source_disagreement(first, label, "ctrl").effect)
        # identical laws do not differ at all
        assert replica_disagreement((first, first), label, "ctrl") < 1e-5
    expected = gaussian_distance([0.3, 0, 0]) / np.mean([gaussian_distance(near), gaussian_distance(far)])
    np.testing.assert_allclose(np.mean(shares), expected, rtol=0.1)
    np.testing.assert_allclose(np.mean(effects), gaussian_distance(near), rtol=0.1)


def test_an_effect_is_measured_without_the_pairs_of_a_cell_with_itself(fitted):
    """The control is the only source, so the law and the control are made of the same cells."""
    label, shift = fitted.train.label("A+B"), [0.5, 0.0, 0.0]
    models = [moving(fitted, gaussian_cells(seed, perturbed=10), shift) for seed in range(20)]
    found = [source_disagreement(model, label, "ctrl") for model in models]
    assert all(np.isnan(each.share) for each in found)
    np.testing.assert_allclose(np.mean([each.effect for each in found]), gaussian_distance(shift), rtol=0.1)


def test_a_verdict_that_is_kept_is_of_its_label_and_its_source(fitted):
    """Those of a copy that was asked in the other order; new cells are judged each time."""
    asked = [(label, source) for label in ("A", "A+B", "B+A") for source in ("control", "B", "all")]
    asked += [("A+B", np.full((40, 3), 9.0)), ("A+B", np.zeros((40, 3)))]
    copy = dataclasses.replace(fitted)
    others = [pdae_jax.check_guarantee(copy, label, source=source) for label, source in reversed(asked)]
    for _ in range(2):
        found = [pdae_jax.check_guarantee(fitted, label, source=source) for label, source in asked]
        assert repr(found) == repr(others[::-1])  # NaN is NaN there
    assert [each.condition for each in found] == [label for label, _ in asked]
    assert len({each.outside for each in found}) > 2
