r"""A compositional perturbation autoencoder (CPA; Lotfollahi et al., Mol Syst Biol 2023), to compare with.

.. math:: z = g(x), \quad x \mid z, a \sim N\big(\mu(z + a E), \operatorname{diag}\, \sigma^2(z + a E)\big)

Reconstruction by the Gaussian likelihood; the basal state `z` is meant to carry nothing of the label `a`: either an
adversary that guesses the condition from it is to fail, or the basal states of every condition are to follow
`N(0, I)`. Everything else is that of `fit`: networks, linear start, batches, optimiser, averaged parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pdae_jax import kernels
from pdae_jax.baselines import _draw, generator
from pdae_jax.data.sample import DeviceData, make_sampler
from pdae_jax.fitted import Standardizer, check_same_columns, check_training_data, zero_floor
from pdae_jax.kernels import dissimilarity_matrix
from pdae_jax.losses import kernel_score
from pdae_jax.model import Model
from pdae_jax.networks import make_mlp, with_skip
from pdae_jax.optimizer import make_optimizer
from pdae_jax.predict import BATCH
from pdae_jax.prepare import Parts, prepare
from pdae_jax.recipe import Recipe
from pdae_jax.track import make_progress
from pdae_jax.types import LabelLike, PerturbationData
from pdae_jax.validate import make_validator

DISENTANGLE = ("adversarial", "prior", "none")
ADVERSARY_STEPS = 2  # per step of the autoencoder, as in CPA
MIN_STD = 0.03  # of the decoder, in the model's units: where cells lie on a manifold the likelihood has no maximum


class Networks(NamedTuple):
    """Pure functions of ``params``; `model` has the protocol of a pdae model, its decoder draws from the Gaussian."""

    model: Model
    basal: Callable  # (params, x [..., features], label) -> [..., latent]
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


class Weights(NamedTuple):
    """Of the terms beside the reconstruction; a term with weight 0 is not computed."""

    adversary: float = 0.0
    prior: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Compositional:
    """What `fit_compositional` returns; `samples` is a method for `evaluate`."""

    networks: Networks
    params: dict  # averaged over steps; of the best evaluation where there is a validation set
    standardizer: Standardizer
    train: PerturbationData  # in the user's units
    recipe: Recipe
    history: list[dict[str, Any]]

    def basal(self, x: Float[np.ndarray, "cells features"], label: LabelLike) -> Float[np.ndarray, "cells latent"]:
        """Basal states of cells of one condition, in the user's units."""
        z = self.networks.basal(
            self.params, jnp.asarray(self.standardizer.forward(x), jnp.float32), jnp.asarray(self.train.label(label))
        )
        return np.asarray(z)

    def samples(
        self,
        key: Array,
        train: PerturbationData,
        label: LabelLike,
        num_samples: int,
        *,
        source: str | None = None,
        floor: float | None = None,
    ) -> Float[np.ndarray, "num_samples features"]:
        """Source cells encoded, given the embedding of the target label, and drawn from the decoder's Gaussian.

        Args:
            key: the same source cells as a baseline draws with it, and the decoder's noise.
            train: whose cells are moved; the features and perturbations of the fit.
            label: target.
            num_samples: cells to return.
            source: condition whose cells are moved; None: the control.
            floor: clip below.
        """
        check_same_columns(train, self.train, "given")
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}, but at least 1 sample must be asked for.")
        start = source or train.control
        cells = train.cells(start)
        x = self.standardizer.forward(cells[_draw(generator(key), len(cells), num_samples)]).astype(np.float32)
        labels = jnp.asarray(train.label(start)), jnp.asarray(train.label(label))
        moved = [
            _translate(self.networks.model, self.params, jax.random.fold_in(key, i), x[i : i + BATCH], *labels)
            for i in range(0, num_samples, BATCH)
        ]
        samples = self.standardizer.backward(np.concatenate([np.asarray(block) for block in moved]))
        samples = samples.astype(train.x.dtype)
        return samples if floor is None else np.maximum(samples, floor)


_translate = jax.jit(
    lambda model, params, key, x, label_from, label_to: model.translate(params, key, x, label_from, label_to),
    static_argnums=0,
)


def fit_compositional(
    train: PerturbationData,
    *,
    key: Array,
    recipe: Recipe | None = None,
    disentangle: str = "adversarial",
    adversary_weight: float = 5.0,
    prior_weight: float = 5.0,
    subtract_label: bool = False,
    validation: PerturbationData | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Compositional:
    """Train a compositional perturbation autoencoder with the means of a pdae `Recipe`.

    The adversary classifies the CONDITION. A classifier of each perturbation by itself passes over doses and over
    basal states that differ between combinations only; the cross-entropy over conditions is at chance exactly where
    the basal state is independent of the label, whatever labels are.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key.
        recipe: hyperparameters, those of the objective and `noise_dim` excepted. A batch has `num_sources` conditions
            and as many cells of each as `fit` draws for a source and a target together.
        disentangle: ``adversarial``, ``prior``, or ``none`` (an autoencoder with an embedding that it need not use).
        adversary_weight: times the adversary's cross-entropy, beside the likelihood per feature.
        prior_weight: times the energy distance to N(0, I).
        subtract_label: the basal state is `g(x) - a E` with the cell's own label, as in pdae. False, as in CPA: it is
            `g(x)`, and the encoder must take out of a cell what the perturbation did without knowing which it was;
            where conditions overlap, it can only discard what the label tells something about.
        validation: conditions that are never trained on; the parameters of the best evaluation are kept.
        progress: show a bar on stderr; None: if it is a terminal.
        **options: single fields of the recipe.

    Raises:
        ValueError: unusable data, an unknown way to disentangle, a negative weight.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss became NaN or infinite; names the steps.
    """
    if disentangle not in DISENTANGLE:
        raise ValueError(f"disentangle={disentangle!r} is not known; pass one of {', '.join(DISENTANGLE)}.")
    for name, weight in (("adversary_weight", adversary_weight), ("prior_weight", prior_weight)):
        if not weight >= 0:
            raise ValueError(f"{name}={weight}, but it must be 0 or more: the sign is part of the objective.")
    recipe = (recipe or Recipe()).override(**options).override(noise_dim=0)
    check_training_data(train, validation)
    if recipe.patience is not None and validation is None:
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    key_start, key_decoder, key_adversary, key_steps, key_validate = jax.random.split(key, 5)
    parts = prepare(key_start, train, None, recipe)
    networks, params, adversary = _make_networks(key_decoder, key_adversary, parts, train, subtract_label)
    optimizer = make_optimizer(
        recipe.num_steps,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        clip_norm=recipe.clip_norm,
        weight_decay=recipe.weight_decay,
    )
    weights = Weights(
        adversary=adversary_weight if disentangle == "adversarial" else 0.0,
        prior=prior_weight if disentangle == "prior" else 0.0,
    )
    step = make_compositional_step(
        networks, optimizer, _make_sampler(parts.recipe, train), weights, recipe, train.num_conditions
    )
    state = State(
        jnp.zeros((), jnp.int32),
        key_steps,
        params,
        jax.tree.map(jnp.copy, params),  # the steps donate both
        adversary,
        optimizer.init(params),
        optimizer.init(adversary),
    )
    errors = None
    if validation:
        errors = make_validator(key_validate, networks.model, parts.standardizer, train, validation).errors
    params, history = _train(step, state, parts, errors, progress)
    return Compositional(networks, params, parts.standardizer, train, parts.recipe, history)


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


def prior_distance(key: Array, basal: Float[Array, "sources m k"]) -> Float[Array, ""]:
    """Energy distance (U form) of the basal states of each condition to as many draws of N(0, I), mean over them."""
    kernel, normal = kernels.energy(1.0), jax.random.normal(key, basal.shape, basal.dtype)
    m = basal.shape[1]
    within = jnp.sum(dissimilarity_matrix(kernel, normal), axis=(1, 2)) / (m * (m - 1))
    return jnp.mean(2.0 * kernel_score(basal, normal, kernel) - within)


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

    def loss(params: dict, adversary: dict, key: Array, x: Array, label: Array, index: Array) -> tuple[Array, Terms]:
        zero = jnp.zeros(())
        basal = networks.basal(params, x, label)
        mean, std = networks.distribution(params, basal + _effect(params, label))
        reconstruction = jnp.mean(gaussian_nll(x, mean, std))
        # No cell is rewarded beyond chance: an adversary that is not perfect could be wrong without bound, and the
        # two would run away from each other. Against the best adversary the cut changes nothing at the optimum.
        chance = math.log(num_conditions)
        entropy = adversary_loss(adversary, basal, index, chance) if weights.adversary else zero
        prior = prior_distance(key, basal) if weights.prior else zero
        total = reconstruction - weights.adversary * entropy + weights.prior * prior
        return total, Terms(total, reconstruction, entropy, prior)

    def update_adversary(state: State, x: Array, label: Array, index: Array) -> State:
        basal = networks.basal(state.params, x, label)
        gradient = jax.grad(adversary_loss)(state.adversary, basal, index)
        updates, opt_state = optimizer.update(gradient, state.adversary_opt_state, state.adversary)
        adversary = cast(dict, optax.apply_updates(state.adversary, updates))
        return state._replace(adversary=adversary, adversary_opt_state=opt_state)

    def draw(key: Array, data: DeviceData) -> tuple[Array, Array, Array]:
        batch = sample(key, data)
        row = jnp.argmax(jnp.all(batch.label_source[:, None] == data.labels, axis=-1), axis=1)
        label = batch.label_source[:, None, :]  # [S, 1, K], beside cells [S, m, d]
        return batch.x_source, label, jnp.broadcast_to(row[:, None], batch.x_source.shape[:2])

    def step(state: State, data: DeviceData) -> tuple[State, Terms]:
        key_prior, key_cells, key_adversary = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        if weights.adversary:
            keys = jax.random.split(key_adversary, ADVERSARY_STEPS)
            state, _ = jax.lax.scan(lambda carry, key: (update_adversary(carry, *draw(key, data)), None), state, keys)
        gradient_fn = jax.grad(loss, has_aux=True)
        gradient, terms = gradient_fn(state.params, state.adversary, key_prior, *draw(key_cells, data))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = cast(dict, optax.apply_updates(state.params, updates))
        # as in `train.make_train_step`
        decay = jnp.minimum(recipe.average_decay, (1.0 + state.step) / (10.0 + state.step))
        average = cast(dict, optax.incremental_update(params, state.average, 1.0 - decay))
        return state._replace(step=state.step + 1, params=params, average=average, opt_state=opt_state), terms

    return step


def _effect(params: dict, label: Array) -> Array:
    return label @ params["shift"]["matrix"]


def _make_networks(
    key_decoder: Array, key_adversary: Array, parts: Parts, train: PerturbationData, subtract_label: bool
) -> tuple[Networks, dict, dict]:
    """Encoder and embedding of the pdae model with their start; its decoder with a second output; the adversary."""
    recipe, pdae = parts.recipe, parts.model
    nets = {"activation": recipe.activation, "linear_skip": recipe.linear_skip}
    d, k = pdae.num_features, pdae.latent_dim
    init_decoder, decode_both = make_mlp(k, 2 * d, hidden=tuple(reversed(recipe.hidden)), **nets)
    init_adversary, classify = make_mlp(
        k, train.num_conditions, hidden=recipe.hidden, activation=recipe.activation, linear_skip=False
    )
    floor = zero_floor(parts.standardizer) if recipe.nonnegative else None

    def basal(params, x, label):
        z = pdae.encode(params, x)
        return z - _effect(params, label) if subtract_label else z

    def distribution(params, z):
        both = decode_both(params["decoder"], z)
        return both[..., :d], jax.nn.softplus(both[..., d:]) + MIN_STD

    def decode(params, key, z):
        mean, std = distribution(params, z)
        x = mean + std * jax.random.normal(key, mean.shape, mean.dtype)
        return x if floor is None else jnp.maximum(x, floor)

    def translate(params, key, x, label_from, label_to):
        return decode(params, key, basal(params, x, label_from) + _effect(params, label_to))

    start = parts.state.train.params
    decoder = init_decoder(key_decoder)
    if recipe.linear_skip:
        skip = {name: jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, d)]) for name, v in start["decoder"]["skip"].items()}
        decoder = with_skip(decoder, **skip)
    model = pdae._replace(decode=decode, translate=translate)
    params = {"encoder": start["encoder"], "shift": start["shift"], "decoder": decoder}
    return Networks(model, basal, distribution, classify), params, init_adversary(key_adversary)


def _make_sampler(recipe: Recipe, train: PerturbationData) -> Callable:
    """As many cells a step as `fit` draws for sources and targets together."""
    return make_sampler(
        train.num_conditions,
        num_sources=recipe.num_sources,
        cells_per_source=recipe.cells_per_source + recipe.cells_per_target,
        num_targets=1,
        cells_per_target=1,
    )


def _train(
    step: Callable, state: State, parts: Parts, errors: Callable | None, show: bool | None
) -> tuple[dict, list[dict[str, Any]]]:
    """Chunks of scanned steps; averaged parameters of the last step, or of the best evaluation."""
    recipe, history, progress = parts.recipe, [], make_progress(show, "fit_compositional")
    best_params, best_value, since_best, done = None, math.inf, 0, 0
    progress.update(0, recipe.num_steps, math.nan)
    while done < recipe.num_steps and (recipe.patience is None or since_best < recipe.patience):
        length = min(recipe.log_every, recipe.num_steps - done)
        state, terms = _steps(step, length, state, parts.data)
        entry = {name: float(value) for name, value in jax.device_get(terms)._asdict().items()}
        if not all(map(math.isfinite, entry.values())):
            raise FloatingPointError(
                f"Between steps {done} and {done + length} the loss became NaN or infinite: {entry}. "
                f"Lower learning_rate or adversary_weight, or look for extreme values in the data."
            )
        done += length
        if errors and (done % recipe.eval_every == 0 or done == recipe.num_steps):
            value = entry["validation_energy_distance"] = float(jnp.mean(errors(state.average)))
            since_best += 1
            if value < best_value:
                best_params, best_value, since_best = jax.tree.map(jnp.copy, state.average), value, 0
        history.append({"step": done, **entry})
        progress.update(done, recipe.num_steps, entry["total"])
    progress.close()
    return best_params or state.average, history


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _steps(step: Callable, num_steps: int, state: State, data: DeviceData) -> tuple[State, Terms]:
    """`num_steps` steps in one compiled scan; terms are means over the steps."""
    state, terms = jax.lax.scan(lambda carry, _: step(carry, data), state, None, length=num_steps)
    return state, jax.tree.map(jnp.mean, terms)
