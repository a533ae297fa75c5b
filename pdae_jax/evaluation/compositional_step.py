"""One training step of the compositional autoencoder of `compositional.py`: networks, losses, adversary."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from pdae_jax.model.model import Model
from pdae_jax.model.networks import make_mlp, with_skip
from pdae_jax.training.prepare import Program
from pdae_jax.training.step import Metrics, TrainState, averaged
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import dissimilarity_matrix
from pdae_jax.two_sample.scores import batch_score
from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import DeviceData

ADVERSARY_STEPS = 2  # per step of the autoencoder, as in CPA
MIN_STD = 0.03  # of the decoder, in the model's units: where cells lie on a manifold the likelihood has no maximum


class Networks(NamedTuple):
    """Pure functions of ``params``; `model` has the protocol of a pdae model, its decoder draws from the Gaussian."""

    model: Model
    unravel: Callable  # vector -> params
    unravel_adversary: Callable  # vector -> params of the adversary
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


class Opponents(NamedTuple):
    """The ``opt_state`` of a `TrainState`: the two optimisers, and the network that only one of them is after."""

    autoencoder: optax.OptState
    adversary: Float[Array, " weights"]
    of_adversary: optax.OptState


class StepCells(NamedTuple):
    """Cells of one step, by condition."""

    x: Float[Array, "sources m features"]
    label: Float[Array, "sources 1 perturbations"]
    index: Int[Array, "sources m"]  # of the condition
    same: Float[Array, " sources"]  # as in `Batch`


class Weights(NamedTuple):
    """Weights of the terms beside the reconstruction; a term with weight 0 is not computed."""

    adversary: float = 0.0
    prior: float = 0.0


def gaussian_nll(
    x: Float[Array, "*batch d"], mean: Float[Array, "*batch d"], std: Float[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    r"""Return the negative log density :math:`\tfrac12 \log 2\pi + \log\sigma + \tfrac12 ((x - \mu) / \sigma)^2`."""
    return 0.5 * math.log(2 * math.pi) + jnp.log(std) + 0.5 * ((x - mean) / std) ** 2


def condition_entropy(
    logits: Float[Array, "*batch classes"], index: Int[Array, "*batch"], most: float = math.inf
) -> Float[Array, ""]:
    """Return the mean over cells of the cross-entropy of the condition they are of, cut at `most` for each cell."""
    return jnp.mean(jnp.minimum(optax.softmax_cross_entropy_with_integer_labels(logits, index), most))


def prior_distance(
    key: Array, basal: Float[Array, "sources m k"], same: Float[Array, " sources"] | None = None
) -> Float[Array, ""]:
    """Return the energy distance (U form) of the basal states of each condition to as many draws of N(0, I), mean over
    them.

    `same` as in `Batch`.
    """
    kernel, normal = kernels.energy(1.0), jax.random.normal(key, basal.shape, basal.dtype)
    m = basal.shape[1]
    within = jnp.sum(dissimilarity_matrix(kernel, normal), axis=(1, 2)) / (m * (m - 1))
    return jnp.mean(2.0 * batch_score(basal, normal, kernel, 1.0 / m if same is None else same) - within)


def _split(key: Array, step: Array) -> tuple[Array, Array, Array]:
    """Keys of a step: of the prior, of its cells, and of the cells of each step of the adversary."""
    key_prior, key_cells, key_adversary = jax.random.split(jax.random.fold_in(key, step), 3)
    return key_prior, key_cells, jax.random.split(key_adversary, ADVERSARY_STEPS)


def step_keys(key: Array, step: Array) -> Array:
    """Return keys of all cells that a step draws, for `view.stream`."""
    _, key_cells, keys_adversary = _split(key, step)
    return jnp.concatenate([key_cells[None], keys_adversary])


def make_compositional_step(
    networks: Networks,
    optimizer: optax.GradientTransformation,
    sample: Callable,
    weights: Weights,
    average_decay: float,
    num_conditions: int,
) -> Callable[[TrainState, DeviceData], tuple[TrainState, Metrics]]:
    """Make ``step(state, data) -> (state, metrics)``: the adversary descends its loss, then the autoencoder ascends
    it.
    """

    def adversary_loss(adversary: Array, basal: Array, index: Array, most: float = math.inf) -> Array:
        return condition_entropy(networks.classify(networks.unravel_adversary(adversary), basal), index, most)

    def loss(vector: Array, adversary: Array, key: Array, cells: StepCells) -> tuple[Array, Terms]:
        params, zero = networks.unravel(vector), jnp.zeros(())
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

    def update_adversary(params: dict, rivals: Opponents, cells: StepCells) -> Opponents:
        basal = networks.basal(params, cells.x, cells.label)
        gradient = jax.grad(adversary_loss)(rivals.adversary, basal, cells.index)
        updates, opt_state = optimizer.update(gradient, rivals.of_adversary, rivals.adversary)
        adversary = jnp.asarray(optax.apply_updates(rivals.adversary, updates))
        return rivals._replace(adversary=adversary, of_adversary=opt_state)

    def draw(key: Array, data: DeviceData) -> StepCells:
        batch = sample(key, data)
        index = jnp.broadcast_to(batch.source[:, None], batch.x_source.shape[:2])
        return StepCells(batch.x_source, batch.label_source[:, None, :], index, batch.same_source)

    def step(state: TrainState, data: DeviceData) -> tuple[TrainState, Metrics]:
        key_prior, key_cells, keys_adversary = _split(state.key, state.step)
        rivals = state.opt_state
        if weights.adversary:
            own, keys = networks.unravel(state.params), keys_adversary
            rivals, _ = jax.lax.scan(lambda r, key: (update_adversary(own, r, draw(key, data)), None), rivals, keys)
        gradient_fn = jax.grad(loss, has_aux=True)
        gradient, terms = gradient_fn(state.params, rivals.adversary, key_prior, draw(key_cells, data))
        updates, opt_state = optimizer.update(gradient, rivals.autoencoder, state.params)
        params = jnp.asarray(optax.apply_updates(state.params, updates))
        average = averaged(state, params, average_decay)
        state = TrainState(state.step + 1, state.key, params, average, rivals._replace(autoencoder=opt_state))
        return state, Metrics(terms, jnp.linalg.norm(gradient))

    return step


def make_networks(
    key_decoder: Array, key_adversary: Array, program: Program, train: PerturbationData, subtract_label: bool
) -> tuple[Networks, Float[Array, " parameters"], Float[Array, " weights"]]:
    """Make the encoder and embedding of the pdae model with their start; its decoder with a second output; the
    adversary.

    The last two are vectors: the parameters of the autoencoder and of the adversary at the start.
    """
    frame, start = program.frame, program.frame.unravel(program.state.train.params)
    recipe, pdae = program.plan.recipe, frame.model
    nets = {"activation": recipe.activation, "linear_skip": True}
    d, k = pdae.num_features, pdae.latent_dim
    init_decoder, decode_both = make_mlp(k, 2 * d, hidden=tuple(reversed(recipe.hidden)), **nets)
    init_adversary, classify = make_mlp(
        k, train.num_conditions, hidden=recipe.hidden, activation=recipe.activation, linear_skip=False
    )
    floor = program.plan.view.floor_of_model

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
        return x if floor is None else jnp.maximum(x, jnp.asarray(floor))

    def translate(params, key, x, label_from, label_to, size=None):
        return decode(params, key, basal(params, x, label_from) + effect(params, label_to))

    decoder = init_decoder(key_decoder)
    skip = {name: jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, d)]) for name, v in start["decoder"]["skip"].items()}
    decoder = with_skip(decoder, **skip)
    model = pdae._replace(decode=decode, translate=translate)
    params = {"encoder": start["encoder"], "shift": start["shift"], "decoder": decoder}
    vector, unravel = ravel_pytree(params)
    adversary, unravel_adversary = ravel_pytree(init_adversary(key_adversary))
    networks = Networks(model, unravel, unravel_adversary, basal, effect, distribution, classify)
    return networks, vector, adversary
