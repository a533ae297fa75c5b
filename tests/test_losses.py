"""Two-sample statistics against scipy and loops; the grouped score against the ungrouped formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from scipy.spatial.distance import cdist

from pdae_jax import kernels, losses
from pdae_jax.model import make_model
from pdae_jax.types import Batch


def loop_energy_distance(x, y, beta, unbiased):
    """float64, by definition."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    within = [cdist(s, s) ** beta for s in (x, y)]
    pairs = [n * (n - 1), m * (m - 1)] if unbiased else [n * n, m * m]
    return 2 * (cdist(x, y) ** beta).mean() - within[0].sum() / pairs[0] - within[1].sum() / pairs[1]


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
@pytest.mark.parametrize(("d", "beta"), [(1, 1.0), (3, 0.5), (10, 1.0), (10, 1.5), (300, 1.0)])
def test_energy_distance_equals_float64_loop(d, beta, offset):
    rng = np.random.default_rng(0)
    x = (offset + rng.normal(size=(70, d))).astype(np.float32)
    y = (offset + 0.5 + 1.2 * rng.normal(size=(90, d))).astype(np.float32)
    for unbiased in (True, False):
        value = losses.energy_distance(x, y, beta=beta, unbiased=unbiased)
        np.testing.assert_allclose(value, loop_energy_distance(x, y, beta, unbiased), rtol=2e-5, atol=2e-6)


def test_energy_distance_equals_scipy_in_one_dimension():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 1)).astype(np.float32), rng.gamma(2.0, size=(150, 1)).astype(np.float32)
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2  # scipy returns the root of the V form
    np.testing.assert_allclose(losses.energy_distance(x, y, unbiased=False), expected, rtol=1e-5)


def test_tiles_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(103, 9)).astype(np.float32), rng.normal(size=(50, 9)).astype(np.float32) + 1

    def value_and_grad():
        return jax.jit(jax.value_and_grad(lambda x: losses.energy_distance(x, y)))(jnp.asarray(x))

    whole = value_and_grad()
    monkeypatch.setattr(losses, "TILE_ELEMENTS", 700)  # tiles of 6 to 14 rows, the last one padded
    tiled = value_and_grad()
    np.testing.assert_allclose(tiled[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(tiled[1], whole[1], atol=1e-7)


def test_zero_weights_mask_rows():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    padded = np.concatenate([y, np.full((7, 4), 5.0, np.float32)])
    weights = jnp.asarray(np.arange(27) < 20, jnp.float32)
    masked = losses.two_sample_statistic(x, padded, kernels.energy(), weights_y=weights)
    np.testing.assert_allclose(masked, losses.energy_distance(x, y), atol=2e-6)


def test_identical_samples_and_their_gradient():
    x = np.random.default_rng(4).normal(size=(40, 12)).astype(np.float32)
    assert abs(float(losses.energy_distance(x, x, unbiased=False))) < 1e-6
    gradient = jax.grad(lambda x: losses.energy_distance(x, x[::-1], unbiased=False))(jnp.asarray(x))
    assert np.all(np.isfinite(gradient))
    duplicates = jnp.ones((6, 12))
    assert np.all(np.isfinite(jax.grad(lambda x: losses.energy_distance(x, duplicates))(duplicates)))


@pytest.mark.parametrize("d", [3, 20])
def test_gradient_equals_finite_differences(d):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(15, d)), rng.normal(size=(12, d)) + 0.3
    gradient = jax.jit(jax.grad(lambda x: losses.energy_distance(x, y.astype(np.float32))))(jnp.asarray(x, jnp.float32))
    direction = rng.normal(size=x.shape)
    step = 1e-5
    ahead, behind = (loop_energy_distance(x + s * step * direction, y, 1.0, True) for s in (1, -1))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / (2 * step), rtol=1e-4)


def test_mmd_equals_loop_and_known_gaussian_value():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(60, 3)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32) + 0.5
    k = lambda a, b: np.exp(-(cdist(a, b) ** 2) / (2 * 1.3**2))  # noqa: E731
    expected = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    value = losses.mmd2(x, y, kernel=kernels.gaussian(1.3), unbiased=False)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    # Population value for N(0, 1) against N(1, 1), d = 1: E k = s / sqrt(s^2 + 2) exp(-delta^2 / (2 s^2 + 4)).
    x, y = rng.normal(size=(4000, 1)).astype(np.float32), 1 + rng.normal(size=(4000, 1)).astype(np.float32)
    population = 2 / np.sqrt(3) * (1 - np.exp(-1 / 6))
    np.testing.assert_allclose(losses.mmd2(x, y, kernel=kernels.gaussian(1.0)), population, rtol=0.1)


@pytest.mark.parametrize(
    "kernel", [kernels.gaussian([0.5, 2.0]), kernels.laplace(1.0), kernels.inverse_multiquadric(1.0)]
)
def test_every_kernel_separates_laws_and_vanishes_on_one(kernel):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(400, 5)).astype(np.float32), rng.normal(size=(400, 5)).astype(np.float32)
    assert abs(float(losses.mmd2(x, y, kernel=kernel))) < 0.01
    assert float(losses.mmd2(x, y + 1.0, kernel=kernel)) > 0.05


def test_energy_score_is_half_the_energy_distance_plus_a_constant():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(60, 6)).astype(np.float32) + 1
    spread = cdist(y, y).sum() / (60 * 59)
    expected = 0.5 * (loop_energy_distance(x, y, 1.0, True) + spread)
    np.testing.assert_allclose(losses.energy_score(x, y), expected, rtol=1e-5)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="3 features but y has 4"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"Sample y has shape \(1, 3\)"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="beta=2"):
        losses.energy_distance(np.zeros((5, 3), np.float32), np.zeros((5, 3), np.float32), beta=2.0)


# --- the objective -------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return make_model(5, 3, latent_dim=2, noise_dim=0, hidden=(8,), activation="tanh")


@pytest.fixture
def labelled():
    rng = np.random.default_rng(9)
    distinct = jnp.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], jnp.float32)
    group = jnp.asarray(rng.integers(0, 4, size=24))
    x = jnp.asarray(rng.normal(size=(24, 5)), jnp.float32)
    return x, group, distinct


def ungrouped(params, model, x, label):
    """The published loss by definition: row i is scored against every other row translated to i's label."""
    batch = x.shape[0]

    def one_target(i):
        predicted = model.translate(params, jax.random.key(0), x, label, jnp.broadcast_to(label[i], label.shape))
        others = jnp.arange(batch) != i
        pairs = others[:, None] & others[None, :] & ~jnp.eye(batch, dtype=bool)
        difference = predicted[:, None] - predicted[None, :]
        distance = jnp.sqrt(jnp.where(pairs, jnp.sum(difference**2, -1), 1.0))
        cross = jnp.sqrt(jnp.sum((predicted - x[i]) ** 2, -1))
        return jnp.sum(jnp.where(others, cross, 0)) / (batch - 1) - 0.5 * jnp.sum(jnp.where(pairs, distance, 0)) / (
            batch - 1
        ) / (batch - 2)

    return jnp.mean(jax.vmap(one_target)(jnp.arange(batch)))


def test_grouped_score_equals_the_ungrouped_loss_and_gradient(model, labelled):
    x, group, distinct = labelled
    label = distinct[group]
    params = jax.jit(model.init)(jax.random.key(1), x, label)

    def grouped(params):
        target = jnp.broadcast_to(distinct[:, None, :], (4, 24, 3))
        decoded = model.translate(params, jax.random.key(0), jnp.broadcast_to(x, (4, 24, 5)), label[None], target)
        return losses.grouped_score(decoded, x, group, kernels.energy())

    value, gradient = jax.jit(jax.value_and_grad(grouped))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(lambda p: ungrouped(p, model, x, label)))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected_gradient))
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * size)


def make_batch(labelled):
    x, _, distinct = labelled
    return Batch(x[:12].reshape(3, 4, 5), distinct[:3], x[12:].reshape(2, 6, 5), distinct[1:3])


def test_translation_scores_equal_the_scores_of_single_laws(model, labelled):
    batch = make_batch(labelled)
    predicted = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    score = jax.jit(losses.energy_score)
    pairwise = np.mean([[score(predicted[t, s], batch.x_target[t]) for s in range(3)] for t in range(2)])
    pooled = np.mean([score(predicted[t].reshape(12, 5), batch.x_target[t]) for t in range(2)])
    for form, expected in (("pairwise", pairwise), ("pooled", pooled)):
        score = jax.jit(functools.partial(losses.translation_score, kernel=kernels.energy(), form=form))
        np.testing.assert_allclose(score(predicted, batch.x_target), expected, rtol=1e-5)


def test_every_term_is_reported_and_weighted(labelled):
    model = make_model(5, 3, latent_dim=2, noise_dim=2, hidden=(8,))
    batch, x, label = make_batch(labelled), labelled[0], labelled[2][labelled[1]]
    params = jax.jit(model.init)(jax.random.key(1), x, label)
    weights = losses.LossWeights(1.0, 0.5, 0.7, 0.4, 0.1, 0.2, 0.3)
    loss = functools.partial(losses.pdae_loss, model=model, kernel=kernels.energy(), form="pooled", weights=weights)
    total, terms = jax.jit(lambda params: loss(params, key=jax.random.key(2), batch=batch))(params)
    values = [getattr(terms, name) for name in losses.LossWeights._fields]
    assert all(float(v) != 0.0 for v in values)
    np.testing.assert_allclose(total, np.dot(weights, values), rtol=1e-6)
    np.testing.assert_allclose(
        terms.group_lasso, np.linalg.norm(np.asarray(params["shift"]["matrix"]), axis=0).sum(), rtol=1e-5
    )


def test_permuting_cells_or_conditions_changes_nothing(model, labelled):
    batch, x, label = make_batch(labelled), labelled[0], labelled[2][labelled[1]]
    params = jax.jit(model.init)(jax.random.key(1), x, label)

    @jax.jit
    def loss(batch):
        return losses.pdae_loss(params, model, jax.random.key(2), batch, kernel=kernels.energy())[0]

    shuffled = Batch(
        batch.x_source[jnp.array([2, 0, 1])][:, jnp.array([3, 1, 0, 2])],
        batch.label_source[jnp.array([2, 0, 1])],
        batch.x_target[::-1][:, jnp.array([5, 4, 0, 1, 3, 2])],
        batch.label_target[::-1],
    )
    np.testing.assert_allclose(loss(shuffled), loss(batch), rtol=1e-5)


def test_latent_prior_vanishes_for_standard_normal_base_latents(model):
    key_z, key_prior = jax.random.split(jax.random.key(0))
    label = jnp.array([[0, 0, 0], [1, 0, 0]], jnp.float32)
    params = {"shift": {"matrix": jnp.array([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])}}
    base = jax.random.normal(key_z, (2, 800, 2))
    shifted = base + (label @ params["shift"]["matrix"])[:, None]
    assert abs(float(losses.latent_prior(params, model, key_prior, shifted, label))) < 0.01
    assert float(losses.latent_prior(params, model, key_prior, base, label)) > 0.3


def test_contrast_is_the_log_posterior_of_gaussian_discriminants(model, labelled):
    batch, params = make_batch(labelled), {"shift": {"matrix": jnp.array([[1.0, 0.5], [-0.3, 2.0], [0.0, 0.0]])}}
    latent = jax.random.normal(jax.random.key(3), (3, 4, 2))
    centres = np.asarray(batch.label_source @ params["shift"]["matrix"])
    density = np.stack([scipy.stats.multivariate_normal(c).logpdf(latent) for c in centres], axis=-1)  # [S, m, S]
    posterior = density - scipy.special.logsumexp(density, axis=-1, keepdims=True)
    expected = -np.mean([posterior[s, :, s] for s in range(3)])
    np.testing.assert_allclose(losses.contrast(params, model, latent, batch.label_source), expected, rtol=1e-5)


def test_contrast_prefers_the_true_chart_to_a_bent_one(model):
    """A volume-preserving bend keeps each condition's spread about the same, but not the linear log density ratios."""
    label = jnp.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], jnp.float32)
    params = {"shift": {"matrix": jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])}}
    z = jax.random.normal(jax.random.key(4), (3, 4000, 2)) + (label @ params["shift"]["matrix"])[:, None]
    bent = z.at[..., 1].add(0.6 * jnp.sin(2 * z[..., 0]))
    assert losses.contrast(params, model, z, label) < losses.contrast(params, model, bent, label) - 0.01


def test_sources_agree_where_the_model_is_exact_and_disagree_in_different_charts():
    model = make_model(2, 2, latent_dim=2, noise_dim=0, hidden=(4,))
    label = jnp.array([[0, 0], [1, 0], [0, 1]], jnp.float32)
    params = jax.jit(model.init)(
        jax.random.key(0), jax.random.normal(jax.random.key(1), (90, 2)), jnp.repeat(label, 30, 0)
    )
    params["shift"]["matrix"] = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    base = jax.random.normal(jax.random.key(2), (3, 100, 2))
    exact = base + (label @ params["shift"]["matrix"])[:, None]
    mirrored = exact.at[2].set(4.0 - exact[2])  # the same law at its own label only if its shift were mirrored too
    mirrored = mirrored.at[2, :, 0].add(1.5)

    def disagreement(latent):
        key = jax.random.key(5)
        return float(losses.source_disagreement(params, model, key, latent, label, kernels.energy(), 6))

    assert abs(disagreement(exact)) < 0.05
    assert disagreement(mirrored) > 0.2
