"""The start against closed forms; translation identities; options of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdae_jax.data.simulate import simulate
from pdae_jax.design.effects import effective_label
from pdae_jax.model.decoder import MAX_LOG_SCALE
from pdae_jax.model.linear import LinearModel, fit_means
from pdae_jax.model.model import linear_start, make_model
from pdae_jax.model.networks import make_mlp


@pytest.fixture(scope="module")
def linear_world():
    """x = B (z + W a), z ~ N(0, I): everything in closed form."""
    return simulate(
        jax.random.key(0),
        latent_dim=3,
        observed_dim=6,
        num_perturbations=3,
        labels=["p0", "p1", "p2", "p0+p1", "p1+p2"],
        cells_per_condition=4000,
        mixing="linear",
    )


NETWORKS = {"noise": "abducted", "noise_dim": 0, "observed_effects": True, "hidden": (16,), "activation": "silu"}


def start_of(data, latent_dim, noise_dim=0, linear=None):
    linear = fit_means(data) if linear is None else linear
    return linear_start(data.x, data.labels[data.condition_index], linear, latent_dim, noise_dim=noise_dim)


def started(data, latent_dim=3, linear=None, **options):
    model = make_model(data.num_features, data.num_perturbations, latent_dim=latent_dim, **NETWORKS | options)
    start = start_of(data, latent_dim, model.noise_dim, linear)
    return model, jax.jit(model.init)(jax.random.key(1), start)


def only_linear(params):
    """The parameters without what the MLPs add to the linear maps; scales of the noise are one."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if any(part.key == "out" for part in path) else leaf, params
    )


def some_linear_model():
    """Effects of three perturbations on six features that fit no data: nothing in a test holds by accident."""
    random = np.random.default_rng(0)
    return LinearModel(random.normal(size=(3, 6)), random.normal(size=6), 0.4, 0.1, None, 0.0, 0.0, np.zeros((2, 6)))


def test_linear_start_recovers_the_true_shift_in_a_linear_gaussian_world(linear_world):
    data, world, _ = linear_world
    start = start_of(data, 3)
    # Latents are known up to an orthogonal map: W W^T, and the shift seen in the observations, are not ambiguous.
    true = world.shift_matrix
    np.testing.assert_allclose(start.shift_matrix @ start.shift_matrix.T, true @ true.T, atol=0.15)
    observed = np.asarray(world.mixing(jnp.asarray(true)) - world.mixing(jnp.zeros((1, 3))))
    np.testing.assert_allclose(start.shift_matrix @ start.decoder_kernel, observed, atol=0.08)
    # three latents reach all there is to reach
    assert np.abs(start.observed).max() < 0.01


def test_the_start_splits_effects_into_what_latents_reach_and_the_rest(linear_world):
    data, _, _ = linear_world
    linear = fit_means(data)
    start = start_of(data, 1, linear=linear)
    effects = start.shift_matrix @ start.decoder_kernel + start.observed
    np.testing.assert_allclose(effects, linear.effects, atol=1e-4)
    assert np.abs(start.observed).max() > 0.1
    np.testing.assert_allclose(start.observed @ start.encoder_kernel, 0.0, atol=1e-4)


def test_base_latents_of_the_start_have_identity_covariance(linear_world):
    data, _, _ = linear_world
    start = start_of(data, 3)
    base = data.x @ start.encoder_kernel + start.encoder_bias
    base = base - effective_label(data.labels, start.saturation)[data.condition_index] @ start.shift_matrix
    np.testing.assert_allclose(np.cov(base.T), np.eye(3), atol=0.02)
    np.testing.assert_allclose(base.mean(axis=0), 0.0, atol=1e-3)


@pytest.mark.parametrize("observed_effects", [True, False])
@pytest.mark.slow
def test_translation_to_the_own_label_is_the_identity(linear_world, observed_effects):
    data, _, _ = linear_world
    model, params = started(data, 2, observed_effects=observed_effects)
    # not only at the start: random parameters
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    x, label = jnp.asarray(data.x[::40]), data.labels[data.condition_index[::40]]
    moved = model.translate(params, jax.random.key(2), x, label, label)
    np.testing.assert_allclose(moved, x, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "target"),
    [([0, 0, 0], [1, 0, 2]), ([1, 0, 2], [0, 0, 0]), ([1, 0, 0], [1, 1, 0.5]), ([1, 1, 0], [0, 1, 1])],
)
def test_the_start_moves_every_cell_as_the_linear_model_does(linear_world, source, target):
    data, _, _ = linear_world
    linear = some_linear_model()
    model, params = started(data, 2, linear=linear)
    x, source, target = jnp.asarray(data.x[:300]), np.array(source, np.float32), np.array(target, np.float32)
    expected = x + linear.predict(target) - linear.predict(source)
    for weights, tolerance in ((only_linear(params), 1e-4), (params, 0.1)):  # the MLPs start near zero
        moved = model.translate(weights, jax.random.key(2), x, source, target)
        np.testing.assert_allclose(moved, expected, atol=tolerance)
        back = model.translate(weights, jax.random.key(3), moved, target, source)
        np.testing.assert_allclose(back, x, atol=tolerance)


def test_the_start_is_the_linear_model_cut_at_the_floor(linear_world):
    data, _, _ = linear_world
    linear, floor = some_linear_model(), np.array([0.0, -1.0, -2.0, 0.0, 0.5, -0.5], np.float32)
    model, params = started(data, 2, linear=linear, floor=floor)
    x, source, target = np.maximum(data.x[:300], floor), np.zeros(3, np.float32), np.array([1, 0, 2], np.float32)
    moved = model.translate(only_linear(params), jax.random.key(2), jnp.asarray(x), source, target)
    expected = x + linear.predict(target)
    assert 0.1 < np.mean(expected < floor) < 0.9
    np.testing.assert_allclose(moved, np.maximum(expected, floor), atol=1e-4)


def test_latents_already_encoded_are_not_encoded_again(linear_world):
    data, _, _ = linear_world
    model, params = started(data, 2)
    x, source, target = jnp.asarray(data.x[:50]), jnp.zeros(3), jnp.array([1.0, 1.0, 0.0])
    z = model.encode(params, x)
    moved = model.translate_latent(params, jax.random.key(2), z, model.abduct(params, x, z), source, target)
    np.testing.assert_array_equal(moved, model.translate(params, jax.random.key(2), x, source, target))


def test_scale_is_bounded(linear_world):
    data, _, _ = linear_world
    model, params = started(data, 2)
    wild = jax.tree.map(lambda leaf: 100.0 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    params = {**params, "decoder": {**params["decoder"], "scale": wild["decoder"]["scale"]}}
    x, source, target = jnp.asarray(data.x[:500]), jnp.zeros(3), jnp.array([1.0, 1.0, 1.0])
    z, key = model.encode(params, x), jax.random.key(0)
    residual = np.asarray(x - model.decode(params, key, z))
    large = np.abs(residual) > 1e-2
    scale = (residual / np.asarray(model.abduct(params, x, z)))[large]
    assert np.exp(-MAX_LOG_SCALE) - 1e-3 <= scale.min() and scale.max() <= np.exp(MAX_LOG_SCALE) + 1e-3
    assert scale.max() / scale.min() > 2
    # what a translation does to the noise of a cell: the scale there over the scale here
    moved = model.translate(params, key, x, source, target)
    centre = model.decode(params, key, z + model.shift(params, source, target))
    effect = effective_label(target, params["shift"]["saturation"]) @ params["shift"]["observed"]
    carried = np.asarray(moved - centre - effect - params["shift"]["common"])
    ratio = (carried / residual)[large]
    bound = np.exp(2 * MAX_LOG_SCALE)
    assert 1 / bound - 1e-3 <= ratio.min() and ratio.max() <= bound + 1e-3
    assert ratio.max() > np.exp(MAX_LOG_SCALE) or ratio.min() < np.exp(-MAX_LOG_SCALE)


def test_drawn_noise_starts_with_the_spread_of_the_directions_left_out(linear_world):
    data, _, _ = linear_world
    start = start_of(data, 1, 2)
    kernel = np.asarray(start.decoder_kernel)
    # latent and noise together have the covariance of the data, which has rank 3
    latent = (data.x @ start.encoder_kernel + start.encoder_bias) @ kernel[:1]
    explained = np.cov(latent.T) + kernel[1:].T @ kernel[1:]
    np.testing.assert_allclose(explained, np.cov(data.x.T), atol=0.02)


def test_drawn_noise_is_the_papers_form(linear_world):
    data, _, _ = linear_world
    options = {"noise": "drawn", "noise_dim": 2, "observed_effects": False}
    model, params = started(data, 2, linear=some_linear_model(), **options)
    assert set(params["shift"]) == {"matrix"} and "scale" not in params["decoder"]
    # effects outside the latents and the gain of combinations are of abducted noise
    start = start_of(data, 2, 2, some_linear_model())
    other = start._replace(observed=start.observed + 1.0, common=start.common + 1.0, saturation=0.9)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(model.init)(jax.random.key(1), other), params)
    x, label, key = jnp.asarray(data.x[:100]), data.labels[0], jax.random.key(2)
    target = np.array([1, 1, 0], np.float32)
    moved = model.translate(params, key, x, label, target)
    latent = model.encode(params, x) + (target - label) @ params["shift"]["matrix"]
    np.testing.assert_array_equal(moved, model.decode(params, key, latent))
    again = model.translate(params, jax.random.key(3), x, label, target)
    assert float(jnp.abs(again - moved).max()) > 0.1
    with pytest.raises(ValueError, match="observed_effects=False"):
        make_model(6, 3, latent_dim=2, **NETWORKS | {"noise": "drawn"})


def test_more_latents_than_features_start_switched_off():
    data = simulate(jax.random.key(0), latent_dim=2, observed_dim=2, num_perturbations=2, cells_per_condition=50).data
    start = start_of(data, 4, 1)
    assert np.all(np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(start)])))
    assert float(np.abs(start.decoder_kernel[2:]).max()) == 0.0


@pytest.mark.parametrize("noise", ["abducted", "drawn"])
def test_floor_puts_mass_at_zero(linear_world, noise):
    data, _, _ = linear_world
    floor = np.array([0.0, -1.0, -2.0, 0.0, 0.0, 0.0], np.float32)
    model, params = started(data, 2, noise=noise, noise_dim=1, observed_effects=noise == "abducted", floor=floor)
    x = model.translate(params, jax.random.key(2), jnp.maximum(data.x[:400], floor), data.labels[0], data.labels[2])
    assert np.all(np.asarray(x) >= floor)
    assert 0.1 < float(jnp.mean(x == floor)) < 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"noise_dim": -1}, "noise_dim=-1"),
        ({"activation": "rleu"}, "rleu.*relu"),
        ({"noise": "abduct"}, "abduct.*abducted, drawn"),
    ],
)
def test_impossible_models_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_model(3, 2, **{"latent_dim": 2, **NETWORKS, **change})


def test_equal_arguments_give_one_model():
    """What is compiled for a model serves every fit of its shape."""
    floor = np.zeros(3, np.float32)
    first = make_model(3, 2, latent_dim=2, floor=floor, **NETWORKS)
    assert make_model(3, 2, latent_dim=2, floor=[0.0, 0.0, 0.0], **NETWORKS | {"hidden": [16]}) is first
    assert make_model(3, 2, latent_dim=2, floor=floor + 1, **NETWORKS) is not first


def test_mlp_with_skip_starts_as_its_linear_part():
    init, apply = make_mlp(4, 2, hidden=(32, 32), activation="silu", linear_skip=True)
    params = init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (200, 4))
    linear = x @ params["skip"]["kernel"] + params["skip"]["bias"]
    assert float(jnp.std(apply(params, x) - linear)) < 0.05 * float(jnp.std(linear))


@pytest.mark.parametrize("linear_skip", [True, False])
def test_mlp_starts_with_he_kernels_and_zero_biases(linear_skip):
    init, apply = make_mlp(50, 100, hidden=(200, 400), activation="relu", linear_skip=linear_skip)
    params = init(jax.random.key(0))
    for name, fan_in, variance in (("hidden_0", 50, 2.0), ("hidden_1", 200, 2.0), ("out", 400, 1.0)):
        near_zero = linear_skip and name == "out"
        expected = np.sqrt((1e-4 if near_zero else variance) / fan_in)
        np.testing.assert_allclose(np.std(params[name]["kernel"]), expected, rtol=0.05)
        assert not np.any(params[name]["bias"])
    # every number drawn by itself, and the scale of the input kept through the layers
    kernels = np.concatenate([np.ravel(params[name]["kernel"]) for name in ("hidden_0", "hidden_1")])
    assert len(np.unique(kernels)) > 0.99 * len(kernels)
    if not linear_skip:
        out = apply(params, jax.random.normal(jax.random.key(1), (500, 50)))
        assert 0.7 < float(jnp.std(out)) < 1.4
