"""One training step of the compositional autoencoder of `compositional.py`: networks, losses, adversary."""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from pdae_jax.data.sample import DeviceData
from pdae_jax.data.units import zero_floor
from pdae_jax.model.model import Model
from pdae_jax.model.networks import make_mlp, with_skip
from pdae_jax.recipe import Recipe
from pdae_jax.training.prepare import Parts
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import dissimilarity_matrix
from pdae_jax.two_sample.scores import kernel_score
from pdae_jax.types import PerturbationData

ADVERSARY_STEPS = 2  # per step of the autoencoder, as in CPA
MIN_STD = 0.03  # of the decoder, in the model's units: where cells lie on a manifold the likelihood has no maximum


class Networks(NamedTuple):
    """Pure functions of ``params``; `model` has the protocol of a pdae model, its decoder draws from the Gaussian."""

    model: Model
    basal: Callable  # (params, x [..., features], label) -> [..., latent]
    effect: Callable  # (params, label) -> [..., latent], the embedding of the label
    distribution: Callable  # (params, z [..., latent]) -> mean, standard deviation [..., features]
    classify: Callable  # (adversary params, z) -> logits [..., conditions]


class Terms(NamedTuple):
    """Means over the cells of a batch, before weighting."""

    total: Float[Array, ""]
    reconstruction: Float[Array, ""]  # Gaussian negative log-likelihood per feature
    adversary: Float[Array, ""]  # its cross-entropy, the log of the number of conditions at chance; 0 without one
    prior: Float[Array, ""]  # energy distance of basal states to N(0, I), mean over conditions; 0 where not used


class State(NamedTuple):
    """What is carried from step to step."""

    step: Int[Array, ""]
    key: Array  # step t uses fold_in(key, t)
    params: dict
    average: dict  # exponential moving average of params: what predicts
    adversary: dict
    opt_state: optax.OptState
    adversary_opt_state: optax.OptState


class Cells(NamedTuple):
    """Of one step, by condition."""

    x: Float[Array, "sources m features"]
    label: Float[Array, "sources 1 perturbations"]
    index: Int[Array, "sources m"]  # of the condition
    same: Float[Array, " sources"]  # as in `Batch`


class Weights(NamedTuple):
    """Of the terms beside the reconstruction; a term with weight 0 is not computed."""

    adversary: float = 0.0
    prior: float = 0.0


def gaussian_nll(
    x: Float[Array, "*batch d"], mean: Float[Array, "*batch d"], std: Float[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    r"""Negative log density :math:`\tfrac12 \log 2\pi + \log\sigma + \tfrac12 ((x - \mu) / \sigma)^2`."""
    return 0.5 * math.log(2 * math.pi) + jnp.log(std) + 0.5 * ((x - mean) / std) ** 2


def condition_entropy(
    logits: Float[Array, "*batch classes"], index: Int[Array, "*batch"], most: float = math.inf
) -> Float[Array, ""]:
    """Mean over cells of the cross-entropy of the condition they are of, cut at `most` for each cell."""
    return jnp.mean(jnp.minimum(optax.softmax_cross_entropy_with_integer_labels(logits, index), most))


def prior_distance(
    key: Array, basal: Float[Array, "sources m k"], same: Float[Array, " sources"] | None = None
) -> Float[Array, ""]:
    """Energy distance (U form) of the basal states of each condition to as many draws of N(0, I), mean over them.

    `same` as in `Batch`.
    """
    kernel, normal = kernels.energy(1.0), jax.random.normal(key, basal.shape, basal.dtype)
    m = basal.shape[1]
    within = jnp.sum(dissimilarity_matrix(kernel, normal), axis=(1, 2)) / (m * (m - 1))
    return jnp.mean(2.0 * kernel_score(basal, normal, kernel, same=same) - within)


def make_compositional_step(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    sample: Callable,
    weights: Weights,
    recipe: Recipe,
    num_conditions: int,
) -> Callable[[State, DeviceData], tuple[State, Terms]]:
    """``step(state, data) -> (state, terms)``: the adversary descends its loss, then the autoencoder ascends it."""

    def adversary_loss(adversary: dict, basal: Array, index: Array, most: float = math.inf) -> Array:
        return condition_entropy(networks.classify(adversary, basal), index, most)

    def loss(params: dict, adversary: dict, key: Array, cells: Cells) -> tuple[Array, Terms]:
        zero = jnp.zeros(())
        basal = networks.basal(params, cells.x, cells.label)
        mean, std = networks.distribution(params, basal + networks.effect(params, cells.label))
        reconstruction = jnp.mean(gaussian_nll(cells.x, mean, std))
        # No cell is rewarded beyond chance: an adversary that is not perfect could be wrong without bound, and the
        # two would run away from each other. Against the best adversary the cut changes nothing at the optimum.
        chance = math.log(num_conditions)
        entropy = adversary_loss(adversary, basal, cells.index, chance) if weights.adversary else zero
        prior = prior_distance(key, basal, cells.same) if weights.prior else zero
        total = reconstruction - weights.adversary * entropy + weights.prior * prior
        return total, Terms(total, reconstruction, entropy, prior)

    def update_adversary(state: State, cells: Cells) -> State:
        basal = networks.basal(state.params, cells.x, cells.label)
        gradient = jax.grad(adversary_loss)(state.adversary, basal, cells.index)
        updates, opt_state = optimizer.update(gradient, state.adversary_opt_state, state.adversary)
        adversary = cast(dict, optax.apply_updates(state.adversary, updates))
        return state._replace(adversary=adversary, adversary_opt_state=opt_state)

    def draw(key: Array, data: DeviceData) -> Cells:
        batch = sample(key, data)
        row = jnp.argmax(jnp.all(batch.label_source[:, None] == data.labels, axis=-1), axis=1)
        index = jnp.broadcast_to(row[:, None], batch.x_source.shape[:2])
        return Cells(batch.x_source, batch.label_source[:, None, :], index, batch.same_source)

    def step(state: State, data: DeviceData) -> tuple[State, Terms]:
        key_prior, key_cells, key_adversary = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        if weights.adversary:
            keys = jax.random.split(key_adversary, ADVERSARY_STEPS)
            state, _ = jax.lax.scan(lambda carry, key: (update_adversary(carry, draw(key, data)), None), state, keys)
        gradient_fn = jax.grad(loss, has_aux=True)
        gradient, terms = gradient_fn(state.params, state.adversary, key_prior, draw(key_cells, data))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(dict, optax.apply_updates(state.params, updates))
        # as in `train.make_train_step`
        decay = jnp.minimum(recipe.average_decay, (1.0 + state.step) / (10.0 + state.step))
        average = cast(dict, optax.incremental_update(params, state.average, 1.0 - decay))
        return state._replace(step=state.step + 1, params=params, average=average, opt_state=opt_state), terms

    return step


def make_networks(
    key_decoder: Array, key_adversary: Array, parts: Parts, train: PerturbationData, subtract_label: bool
) -> tuple[Networks, dict, dict]:
    """Encoder and embedding of the pdae model with their start; its decoder with a second output; the adversary."""
    recipe, pdae = parts.recipe, parts.model
    nets = {"activation": recipe.activation, "linear_skip": True}
    d, k = pdae.num_features, pdae.latent_dim
    init_decoder, decode_both = make_mlp(k, 2 * d, hidden=tuple(reversed(recipe.hidden)), **nets)
    init_adversary, classify = make_mlp(
        k, train.num_conditions, hidden=recipe.hidden, activation=recipe.activation, linear_skip=False
    )
    floor = zero_floor(parts.standardizer) if recipe.nonnegative else None

    def effect(params, label):
        return pdae.shift(params, jnp.zeros_like(label), label)

    def basal(params, x, label):
        z = pdae.encode(params, x)
        return z - effect(params, label) if subtract_label else z

    def distribution(params, z):
        both = decode_both(params["decoder"], z)
        return both[..., :d], jax.nn.softplus(both[..., d:]) + MIN_STD

    def decode(params, key, z):
        mean, std = distribution(params, z)
        x = mean + std * jax.random.normal(key, mean.shape, mean.dtype)
        return x if floor is None else jnp.maximum(x, floor)

    def translate(params, key, x, label_from, label_to):
        return decode(params, key, basal(params, x, label_from) + effect(params, label_to))

    start = parts.unravel(parts.state.train.params)
    decoder = init_decoder(key_decoder)
    skip = {name: jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, d)]) for name, v in start["decoder"]["skip"].items()}
    decoder = with_skip(decoder, **skip)
    model = pdae._replace(decode=decode, translate=translate)
    params = {"encoder": start["encoder"], "shift": start["shift"], "decoder": decoder}
    return Networks(model, basal, effect, distribution, classify), params, init_adversary(key_adversary)
