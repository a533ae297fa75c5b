"""Samples against one target: the numbers of `statistics` and `permutation`, and of loops in float64."""

import jax
import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist, pdist

from pdae_jax import kernels, losses
from pdae_jax.two_sample import host_distances, target
from pdae_jax.two_sample.host_distances import HostCells, centre_of, matrix_across, matrix_within
from pdae_jax.two_sample.permutation import two_sample_test
from pdae_jax.two_sample.target import Against, Halvings, Target

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)


def kernel(distances, scale):
    return np.mean([np.exp(-(distances**2) / (2 * (c * scale) ** 2)) for c in (0.5, 1.0, 2.0)], axis=0).mean()


def loops(x, y, scale):
    """Energy distance and squared MMD, U form, in float64 by definition."""
    own, other, across = pdist(x), pdist(y), cdist(x, y)
    energy = 2 * across.mean() - own.mean() - other.mean()
    return energy, kernel(own, scale) + kernel(other, scale) - 2 * kernel(across, scale)


@pytest.fixture(params=[1000, 30])
def rows(request, monkeypatch):
    """Of a matrix at once: more than all samples have, and fewer."""
    for module in (host_distances, target):
        monkeypatch.setattr(module, "ROWS", request.param)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 70, 3), (70, 40, 12), (91, 30, 300), (2, 3, 40)])
def test_agrees_with_loops_and_with_losses(n, m, d, rows):
    x, y = 1.2 * RANDOM.normal(size=(n, d)), RANDOM.normal(size=(m, d)) + 0.3
    against = Against(x, Target(y, KEY))
    scale = against.target.scale
    energy, mmd = loops(x, y, scale)
    assert scale == pytest.approx(np.median(pdist(y)), rel=1e-6)
    assert against.energy_distance == pytest.approx(energy, rel=1e-5)
    assert against.mmd == pytest.approx(mmd, rel=1e-4)
    assert against.energy_distance == pytest.approx(float(losses.energy_distance(x, y)), rel=1e-5)
    gaussian = kernels.gaussian([0.5 * scale, scale, 2 * scale])
    assert against.mmd == pytest.approx(float(losses.mmd2(x, y, kernel=gaussian)), rel=1e-4)
    assert {type(against.energy_distance), type(against.mmd), type(against.p_value)} == {float}


@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 12), (20, 90, 3), (2, 3, 40), (90, 61, 30)])
@pytest.mark.parametrize("max_cells", [500, 25])
def test_p_values_are_those_of_the_permutation_test(n, m, d, max_cells, rows):
    for shift in (0.0, 0.1, 0.2):
        x, y = RANDOM.normal(size=(n, d)) + shift, RANDOM.normal(size=(m, d))
        found = Against(x, Target(y, KEY, max_cells=max_cells)).p_value
        assert found == two_sample_test(x, y, key=KEY, max_cells=max_cells).p_value


@pytest.mark.parametrize("number", [40, 71, 5])
def test_halvings_are_one_half_against_the_other(number, rows):
    y = RANDOM.normal(size=(number, 12)) + 50.0
    orders, half = np.stack([RANDOM.permutation(number) for _ in range(4)]), number // 2
    halvings = Halvings(Target(y, KEY), orders, KEY)
    exact = [loops(y[o[:half]], y[o[half : 2 * half]], halvings.target.scale) for o in orders]
    np.testing.assert_allclose(np.transpose(halvings.statistics), exact, rtol=1e-4, atol=1e-5)
    if number % 2 == 0:  # the halves that the test takes are these
        own = [two_sample_test(y[o[:half]], y[o[half:]], key=KEY).p_value for o in orders]
        np.testing.assert_allclose(halvings.p_values, own, atol=5 * np.sqrt(0.5 / 999))


def test_level_of_halvings_and_of_samples_that_share_relabellings():
    """Each has its level, though the draws are shared: by halvings of few cells and of more than a test takes."""
    random, p = np.random.default_rng(1), {"against": [], "halvings": [], "some": []}
    for key in jax.random.split(jax.random.key(1), 200):
        y = random.exponential(size=(41, 2))
        shared = Target(y, key)
        p["against"] += [Against(random.exponential(size=(30, 2)), shared).p_value for _ in range(2)]
        for name, most in (("halvings", 500), ("some", 12)):
            orders = np.stack([random.permutation(41) for _ in range(2)])
            p[name] += list(Halvings(Target(y, key, max_cells=most), orders, key).p_values)
    for name, values in p.items():
        for level in (0.05, 0.2, 0.5):  # samples of one target depend on each other: every second is enough
            found = np.array(values)[::2]
            assert scipy.stats.binomtest(int(np.sum(found <= level)), len(found), level).pvalue > 1e-3, (name, level)


@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_pairs_that_are_nearly_one_cell_keep_their_digits(share):
    """Copies within a sample and across, of some cells or of all, exact or off by little; zeros are exact."""
    centres = RANDOM.normal(size=(5, 200))
    y = RANDOM.normal(size=(150, 200))
    near = RANDOM.random(150) < share
    y[near] = centres[RANDOM.integers(5, size=near.sum())] + 1e-3 * RANDOM.normal(size=(near.sum(), 200))
    x = np.concatenate([y[:50], y[:40], y[100:] + 0.1])
    x, y = (sample.astype(np.float32).astype(np.float64) for sample in (x, y))
    cells = [HostCells.of(sample, centre_of(y)) for sample in (x, y)]
    for found, exact in ((matrix_across(*cells), cdist(x, y)), (matrix_within(cells[0]), cdist(x, x))):
        np.testing.assert_allclose(found, exact, rtol=2e-4, atol=1e-6)
        assert not found[exact == 0].any()
    against = Against(x, Target(y, KEY))
    energy, mmd = loops(x, y, against.target.scale)
    assert against.energy_distance == pytest.approx(energy, rel=1e-4, abs=1e-5)
    assert against.mmd == pytest.approx(mmd, rel=1e-3, abs=1e-6)


def test_samples_of_one_profile():
    y, profile = RANDOM.normal(size=(60, 30)), RANDOM.normal(size=30)
    for copies in (2, 300):
        against = Against(np.tile(profile, (copies, 1)), Target(y, KEY))
        exact = loops(np.tile(profile, (2, 1)), y, against.target.scale)
        assert (against.energy_distance, against.mmd) == pytest.approx(exact, rel=1e-4)
    assert against.p_value == 0.001
    still = Target(np.tile(profile, (5, 1)), KEY)
    same = Against(still.cells, still)
    assert (same.energy_distance, same.p_value, still.median) == (0.0, 1.0, 0.0)
    assert np.isnan(same.mmd)  # no bandwidth


def test_an_offset_and_a_unit_change_nothing():
    x, y = RANDOM.normal(size=(60, 20)), RANDOM.normal(size=(50, 20)) + 0.25
    orders = np.stack([RANDOM.permutation(50) for _ in range(2)])

    def outcome(scale, offset):
        against = Against(scale * x + offset, Target(scale * y + offset, KEY))
        halvings = Halvings(against.target, orders, KEY)
        numbers = [against.energy_distance, against.target.scale, *halvings.statistics[0]]
        return [*np.array(numbers) / scale, against.mmd, *halvings.statistics[1], against.p_value, *halvings.p_values]

    usual = outcome(1.0, 0.0)
    for scale, offset in ((1.0, 1e6), (1e-30, 0.0), (1e-22, 0.0), (1e20, 0.0), (1e30, 0.0)):
        np.testing.assert_allclose(outcome(scale, offset), usual, rtol=1e-4, atol=1e-6)
    # of one sample only
    far = Against(1e25 * x, Target(y, KEY))
    assert far.energy_distance == pytest.approx(loops(1e25 * x, y, 1.0)[0], rel=1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_has_none(wrong):
    x, y = RANDOM.normal(size=(20, 15)), RANDOM.normal(size=(20, 15))
    bad = x.copy()
    bad[3, 4] = wrong
    for pair in ((bad, y), (y, bad)):
        against = Against(pair[0], Target(pair[1], KEY))
        assert np.isnan([against.energy_distance, against.mmd, against.p_value]).all()


def test_samples_that_do_not_fit():
    with pytest.raises(ValueError, match="3 features but y has 4"):
        Against(np.zeros((5, 3)), Target(np.zeros((5, 4)), KEY))
    with pytest.raises(ValueError, match="Sample y has shape"):
        Against(np.zeros((5, 3)), Target(np.zeros((1, 3)), KEY))
