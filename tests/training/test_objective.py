"""The objective: grouped against ungrouped, every term against its definition, symmetry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from pdae_jax import kernels, losses
from pdae_jax.model.linear import fit_means
from pdae_jax.model.model import linear_start, make_model
from pdae_jax.training import objective
from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import Batch
from pdae_jax.view.units import Standardizer
from pdae_jax.view.view import View

NETWORKS = {"noise": "abducted", "noise_dim": 0, "observed_effects": True, "hidden": (8,), "activation": "silu"}


@pytest.fixture
def model():
    return make_model(5, 3, latent_dim=2, **NETWORKS | {"activation": "tanh"})


def init(model, key, x, label):
    """Parameters at the start of a fit to these cells."""
    x, label = np.asarray(x), np.asarray(label)
    labels, index = np.unique(label, axis=0, return_inverse=True)
    names = tuple(str(e) for e in range(len(labels)))
    data = PerturbationData(
        x, index.astype(np.int32), labels, names, tuple("abc"[: label.shape[1]]), tuple("abcde"[: x.shape[1]]), "0"
    )
    start = linear_start(x, label, fit_means(data), model.latent_dim, noise_dim=model.noise_dim)
    return jax.jit(model.init)(key, start)


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
        # row i is translated to its own label, which is the identity: no square root of its zero
        cross = jnp.sqrt(jnp.where(others, jnp.sum((predicted - x[i]) ** 2, -1), 1.0))
        return jnp.sum(jnp.where(others, cross, 0)) / (batch - 1) - 0.5 * jnp.sum(jnp.where(pairs, distance, 0)) / (
            batch - 1
        ) / (batch - 2)

    return jnp.mean(jax.vmap(one_target)(jnp.arange(batch)))


@pytest.mark.slow
def test_grouped_score_equals_the_ungrouped_loss_and_gradient(model, labelled):
    x, group, distinct = labelled
    label = distinct[group]
    params = init(model, jax.random.key(1), x, label)

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
    return Batch(x[:12].reshape(3, 4, 5), distinct[:3], x[12:].reshape(2, 6, 5), distinct[1:3], jnp.arange(3))


def test_translation_scores_equal_the_scores_of_single_laws(model, labelled):
    batch = make_batch(labelled)
    predicted = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    score = jax.jit(losses.energy_score)
    pairwise = np.mean([[score(predicted[t, s], batch.x_target[t]) for s in range(3)] for t in range(2)])
    pooled = np.mean([score(predicted[t].reshape(12, 5), batch.x_target[t]) for t in range(2)])
    for form, expected in (("pairwise", pairwise), ("pooled", pooled)):
        score = jax.jit(functools.partial(objective.translation_score, kernel=kernels.energy(), form=form))
        np.testing.assert_allclose(score(predicted, batch.x_target), expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["pairwise", "pooled"])
@pytest.mark.slow
def test_repeated_cells_do_not_shrink_the_spread(form):
    """Three cells, each in the batch twice, score as the three do."""
    cells, y = jax.random.normal(jax.random.key(0), (2, 4, 3, 5)), jax.random.normal(jax.random.key(1), (2, 6, 5))
    twice = jnp.concatenate([cells, cells], axis=2)
    score = functools.partial(objective.translation_score, y=y, kernel=kernels.energy(), form=form)
    np.testing.assert_allclose(score(twice, same=jnp.full(4, 1 / 3)), score(cells), rtol=1e-5)
    assert score(twice) > score(cells) + 0.01


@pytest.mark.parametrize("noise", ["abducted", "drawn"])
def test_every_term_is_reported_and_weighted(labelled, noise):
    model = make_model(
        5, 3, latent_dim=2, **NETWORKS | {"noise": noise, "noise_dim": 2, "observed_effects": noise == "abducted"}
    )
    batch, x, label = make_batch(labelled), labelled[0], labelled[2][labelled[1]]
    params = init(model, jax.random.key(1), x, label)
    weights = objective.LossWeights(0.5, 0.4, 0.6)
    loss = functools.partial(objective.pdae_loss, model=model, kernel=kernels.energy(), form="pooled", weights=weights)
    total, terms = jax.jit(lambda params: loss(params, key=jax.random.key(2), batch=batch))(params)
    values = [getattr(terms, name) for name in objective.LossWeights._fields]
    assert all(float(v) != 0.0 for v in (terms.translation, *values))
    np.testing.assert_allclose(total, terms.translation + np.dot(weights, values), rtol=1e-6)
    none = loss(params, key=jax.random.key(2), batch=batch, weights=objective.LossWeights(0.0, 0.0, 0.0))
    np.testing.assert_allclose(none[0], terms.translation, rtol=1e-5)


def test_translations_of_the_loss_are_those_of_the_model(model, labelled):
    batch, x, label = make_batch(labelled), labelled[0], labelled[2][labelled[1]]
    params = init(model, jax.random.key(1), x, label)
    weights, key = objective.LossWeights(1.0, 0.0, 0.0), jax.random.key(2)
    _, terms = objective.pdae_loss(params, model, key, batch, kernel=kernels.energy(), weights=weights, form="pairwise")
    scores = [
        losses.energy_score(model.translate(params, key, batch.x_source[s], batch.label_source[s], target), y)
        for target, y in zip(batch.label_target, batch.x_target, strict=True)
        for s in range(3)
    ]
    np.testing.assert_allclose(terms.translation, np.mean(scores), rtol=1e-5)
    decoded = model.decode(params, key, model.encode(params, batch.x_source))
    np.testing.assert_allclose(
        terms.reconstruction, np.mean(np.linalg.norm(decoded - batch.x_source, axis=-1)), rtol=1e-5
    )


@pytest.mark.parametrize("form", ["pairwise", "pooled"])
@pytest.mark.parametrize("counted", [False, True], ids=["cells", "counts"])
def test_targets_in_turn_give_value_and_gradient_of_all_together(model, labelled, form, counted):
    batch, x, label = make_batch(labelled), labelled[0], labelled[2][labelled[1]]
    if counted:
        view = View(Standardizer(np.full(5, -0.2, np.float32), np.full(5, 0.7, np.float32)), None, np.zeros(()))
        batch = batch._replace(size=jnp.exp(batch.x_source[..., 0]), view=view)
    params = init(model, jax.random.key(1), x, label)

    @functools.partial(jax.jit, static_argnums=1)
    def found(params, in_turn):
        options = {"kernel": kernels.energy(), "form": form, "weights": objective.LossWeights(0.5, 0.4, 0.0)}
        loss = functools.partial(objective.pdae_loss, in_turn=in_turn, **options)
        return jax.value_and_grad(loss, has_aux=True)(params, model, jax.random.key(2), batch)

    (value, terms), gradient = found(params, False)
    (value_in_turn, terms_in_turn), gradient_in_turn = found(params, True)
    np.testing.assert_allclose(value_in_turn, value, rtol=1e-6)
    np.testing.assert_allclose(terms_in_turn.translation, terms.translation, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradient_in_turn, gradient)


def test_permuting_cells_or_conditions_changes_nothing(model, labelled):
    batch, x, label = make_batch(labelled), labelled[0], labelled[2][labelled[1]]
    params = init(model, jax.random.key(1), x, label)
    weights = objective.LossWeights(reconstruction=1.0, contrast=1.0, likelihood=0.0)

    @jax.jit
    def loss(batch):
        key, kernel = jax.random.key(2), kernels.energy()
        return objective.pdae_loss(params, model, key, batch, kernel=kernel, weights=weights, form="pairwise")[0]

    shuffled = Batch(
        batch.x_source[jnp.array([2, 0, 1])][:, jnp.array([3, 1, 0, 2])],
        batch.label_source[jnp.array([2, 0, 1])],
        batch.x_target[::-1][:, jnp.array([5, 4, 0, 1, 3, 2])],
        batch.label_target[::-1],
        batch.source[jnp.array([2, 0, 1])],
    )
    np.testing.assert_allclose(loss(shuffled), loss(batch), rtol=1e-5)


@pytest.fixture
def additive():
    """A model whose effects are of the latents only: parameters of the shift are one matrix."""
    return make_model(5, 3, latent_dim=2, **NETWORKS | {"observed_effects": False, "activation": "tanh"})


def test_contrast_is_the_log_posterior_of_gaussian_discriminants(additive, labelled):
    batch, params = make_batch(labelled), {"shift": {"matrix": jnp.array([[1.0, 0.5], [-0.3, 2.0], [0.0, 0.0]])}}
    latent = jax.random.normal(jax.random.key(3), (3, 4, 2))
    centres = np.asarray(batch.label_source @ params["shift"]["matrix"])
    density = np.stack([scipy.stats.multivariate_normal(c).logpdf(latent) for c in centres], axis=-1)  # [S, m, S]
    posterior = density - scipy.special.logsumexp(density, axis=-1, keepdims=True)
    expected = -np.mean([posterior[s, :, s] for s in range(3)])
    np.testing.assert_allclose(objective.contrast(params, additive, latent, batch.label_source), expected, rtol=1e-5)


def test_contrast_prefers_the_true_chart_to_a_bent_one(additive):
    """A volume-preserving bend keeps each condition's spread about the same, but not the linear log density ratios."""
    label = jnp.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], jnp.float32)
    params = {"shift": {"matrix": jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])}}
    z = jax.random.normal(jax.random.key(4), (3, 4000, 2)) + (label @ params["shift"]["matrix"])[:, None]
    bent = z.at[..., 1].add(0.6 * jnp.sin(2 * z[..., 0]))
    assert objective.contrast(params, additive, z, label) < objective.contrast(params, additive, bent, label) - 0.01


@pytest.mark.slow
def test_likelihood_has_the_gradient_of_the_log_density_on_a_linear_surface():
    """Four features on a plane, encoder and decoder inverse to each other: the density is a Gaussian's."""
    model = make_model(4, 2, latent_dim=2, **NETWORKS | {"observed_effects": False, "hidden": (3,)})
    label = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    key_kernel, key_x, key_sign = jax.random.split(jax.random.key(5), 3)
    kernel = jax.random.normal(key_kernel, (4, 2))
    tangents = jnp.linalg.qr(kernel)[0]
    x = 1.5 * jax.random.normal(key_x, (3, 4000, 2)) @ tangents.T + label[:, None, :1]
    params = init(model, jax.random.key(0), x.reshape(-1, 4), jnp.repeat(label, 4000, axis=0))
    params = jax.tree.map(jnp.zeros_like, params)
    params["encoder"]["skip"]["kernel"] = kernel
    params["decoder"]["skip"]["kernel"] = jnp.linalg.pinv(kernel)
    params["shift"]["matrix"] = jnp.array([[1.0, -0.5], [0.3, 2.0]])

    def negative_log_density(kernel, matrix):
        base = x @ kernel - (label @ matrix)[:, None]
        return jnp.mean(0.5 * jnp.sum(base**2, axis=-1)) - jnp.linalg.slogdet(tangents.T @ kernel)[1]

    def ours(params):
        return objective.likelihood(params, model, key_sign, x, model.encode(params, x), label)

    gradient = jax.jit(jax.grad(ours))(params)
    expected = jax.grad(negative_log_density, argnums=(0, 1))(kernel, params["shift"]["matrix"])
    np.testing.assert_allclose(gradient["encoder"]["skip"]["kernel"], expected[0], atol=0.03)
    np.testing.assert_allclose(gradient["shift"]["matrix"], expected[1], rtol=1e-4, atol=1e-5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["decoder"]))
    # the formula does not hold where the encoder is too steep for the decoder: a cell weighs less there, or nothing
    for times, weight in ((1.5, np.exp(-0.25)), (5.0, np.exp(-16.0))):
        params["encoder"]["skip"]["kernel"] = times * kernel
        base = times * x @ kernel - (label @ params["shift"]["matrix"])[:, None]
        unweighted = jnp.mean(x[..., :, None] * base[..., None, :], axis=(0, 1)) - jnp.linalg.pinv(kernel).T
        steep = jax.jit(jax.grad(ours))(params)["encoder"]["skip"]["kernel"]
        np.testing.assert_allclose(steep / weight, unweighted, atol=0.03)
