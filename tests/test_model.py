"""The model's start against closed forms; translation identities; options of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdae_jax.data.simulate import simulate
from pdae_jax.model import linear_start, make_model
from pdae_jax.networks import make_mlp


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


def test_linear_start_recovers_the_true_shift_in_a_linear_gaussian_world(linear_world):
    data, world, _ = linear_world
    label = jnp.asarray(data.labels[data.condition_index])
    start = linear_start(jnp.asarray(data.x), label, 3, 0)
    # Latents are known up to an orthogonal map: W W^T, and the shift seen in the observations, are not ambiguous.
    true = world.shift_matrix
    np.testing.assert_allclose(start.shift_matrix @ start.shift_matrix.T, true @ true.T, atol=0.15)
    observed = np.asarray(world.mixing(jnp.asarray(true)) - world.mixing(jnp.zeros((1, 3))))
    np.testing.assert_allclose(start.shift_matrix @ start.decoder_kernel, observed, atol=0.08)


def test_linear_start_is_the_same_in_numpy_and_compiled(linear_world):
    data, _, _ = linear_world
    label = data.labels[data.condition_index]
    host = linear_start(data.x, label, 3, 2)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in host)
    compiled = jax.jit(linear_start, static_argnums=(2, 3))(data.x, label, 3, 2)
    # directions are known up to their sign
    for start in (host, compiled):
        kernel = np.asarray(start.decoder_kernel)
        np.testing.assert_allclose(
            start.shift_matrix @ kernel[:3], host.shift_matrix @ host.decoder_kernel[:3], atol=1e-3
        )
        np.testing.assert_allclose(
            kernel[3:].T @ kernel[3:], host.decoder_kernel[3:].T @ host.decoder_kernel[3:], atol=1e-3
        )
        latent = data.x @ np.asarray(start.encoder_kernel) + np.asarray(start.encoder_bias)
        np.testing.assert_allclose(latent @ kernel[:3] + start.decoder_bias, data.x, atol=5e-3)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_labels_collinear_but_for_rounding_start_with_the_shortest_shifts(asarray):
    # two drugs that are always dosed 1:3, which single precision does not hold exactly
    doses = np.array([[0.0, 0.0], [0.1, 0.3], [0.7, 2.1], [0.9, 2.7], [1.3, 3.9]], np.float32)
    label = np.repeat(doses, 500, axis=0)
    x = np.random.default_rng(0).normal(size=(len(label), 3)).astype(np.float32) + label[:, 1:] * np.float32([2, 1, 0])
    start = linear_start(asarray(x), asarray(label), 1, 0)
    shift = np.asarray(start.shift_matrix)
    np.testing.assert_allclose(shift[1], 3 * shift[0], rtol=1e-3)
    assert 0.1 < np.abs(shift[1, 0]) < 10


def test_zero_shift_is_reconstruction_and_the_start_reconstructs_linear_data(linear_world):
    data, _, _ = linear_world
    x, label = jnp.asarray(data.x), jnp.asarray(data.labels[data.condition_index])
    model = make_model(6, 3, latent_dim=3, noise_dim=2, hidden=(16,))
    params = jax.jit(model.init)(jax.random.key(1), x, label)
    key = jax.random.key(2)
    moved = model.translate(params, key, x, label, label)
    np.testing.assert_array_equal(moved, model.decode(params, key, model.encode(params, x)))
    # 3 latents of 6 features, no noise: the linear part is exact, the MLP starts near zero
    assert float(jnp.mean((moved - x) ** 2)) < 1e-3 * float(jnp.mean(x**2))


def test_translation_there_and_back(linear_world):
    data, _, _ = linear_world
    x, label = jnp.asarray(data.x), jnp.asarray(data.labels[data.condition_index])
    model = make_model(6, 3, latent_dim=3, noise_dim=0, hidden=(16,))
    params = jax.jit(model.init)(jax.random.key(1), x, label)
    key, target = jax.random.key(2), jnp.array([1.0, 0.0, 0.5])
    there = model.translate(params, key, x[:100], label[:100], target)
    back = model.translate(params, key, there, target, label[:100])
    assert float(jnp.mean((back - x[:100]) ** 2)) < 1e-3 * float(jnp.var(x))
    assert float(jnp.mean((there - x[:100]) ** 2)) > 0.1 * float(jnp.var(x))


def test_noise_starts_with_the_spread_of_the_directions_left_out(linear_world):
    data, _, _ = linear_world
    x, label = jnp.asarray(data.x), jnp.asarray(data.labels[data.condition_index])
    start = jax.jit(linear_start, static_argnums=(2, 3))(x, label, 1, 2)
    kernel = np.asarray(start.decoder_kernel)
    # latent and noise together have the covariance of the data, which has rank 3
    latent = (x @ start.encoder_kernel + start.encoder_bias) @ kernel[:1]
    explained = np.cov(np.asarray(latent).T) + kernel[1:].T @ kernel[1:]
    np.testing.assert_allclose(explained, np.cov(np.asarray(x).T), atol=0.02)


def test_more_latents_than_features_start_switched_off():
    x = jax.random.normal(jax.random.key(0), (50, 2))
    start = linear_start(x, jnp.zeros((50, 1)), latent_dim=4, noise_dim=1)
    assert np.all(np.isfinite(np.concatenate([np.ravel(leaf) for leaf in start])))
    assert float(jnp.abs(start.decoder_kernel[2:]).max()) == 0.0


def test_floor_puts_mass_at_zero():
    floor = np.array([0.0, -1.0, -2.0], np.float32)
    model = make_model(3, 1, latent_dim=2, noise_dim=1, hidden=(8,), floor=floor)
    params = jax.jit(model.init)(jax.random.key(0), jax.random.normal(jax.random.key(1), (100, 3)), jnp.zeros((100, 1)))
    x = model.decode(params, jax.random.key(2), jax.random.normal(jax.random.key(3), (400, 2)))
    assert np.all(np.asarray(x) >= floor)
    assert 0.2 < float(jnp.mean(x[:, 0] == 0.0)) < 0.8


def test_plain_networks_start_at_random():
    model = make_model(3, 2, latent_dim=2, hidden=(8, 8), linear_skip=False)
    x, label = jax.random.normal(jax.random.key(1), (60, 3)), jnp.zeros((60, 2))
    first, second = (jax.jit(model.init)(jax.random.key(seed), x, label) for seed in (0, 1))
    assert "skip" not in first["encoder"] and "skip" not in first["decoder"]
    assert float(jnp.abs(first["shift"]["matrix"] - second["shift"]["matrix"]).max()) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"latent_dim": 0}, "latent_dim=0"), ({"noise_dim": -1}, "noise_dim=-1"), ({"activation": "rleu"}, "rleu.*relu")],
)
def test_impossible_models_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_model(3, 2, **{"latent_dim": 2, **change})


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
