r"""A compositional perturbation autoencoder (CPA; Lotfollahi et al., Mol Syst Biol 2023), to compare with.

.. math:: z = g(x), \quad x \mid z, a \sim N\big(\mu(z + a E), \operatorname{diag}\, \sigma^2(z + a E)\big)

Reconstruction by the Gaussian likelihood; the basal state `z` is meant to carry nothing of the label `a`: either an
adversary that guesses the condition from it is to fail, or the basal states of every condition are to follow
`N(0, I)`. Everything else is that of `fit`: networks, linear start, batches, optimiser, averaged parameters.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.compiled import as_door
from pdae_jax.data.checks import check_same_columns, check_training_data
from pdae_jax.design.design import Design
from pdae_jax.evaluation.baselines import _draw
from pdae_jax.evaluation.compositional_step import (
    Networks,
    Opponents,
    Weights,
    make_compositional_step,
    make_networks,
    step_keys,
)
from pdae_jax.labels import LabelLike
from pdae_jax.prediction.samples import BATCH
from pdae_jax.randomness import make_random
from pdae_jax.recipe import Recipe
from pdae_jax.runs.track import History, Progress
from pdae_jax.settings import Whole
from pdae_jax.training.member import Member
from pdae_jax.training.optimizer import make_optimizer
from pdae_jax.training.plan import Request, check_request, make_plan
from pdae_jax.training.prepare import prepare
from pdae_jax.training.state import start_errors, with_errors, with_start
from pdae_jax.training.step import TrainState
from pdae_jax.training.train import train_members
from pdae_jax.training.validate import make_validator
from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import make_sampler
from pdae_jax.view.stream import feed
from pdae_jax.view.view import View

LEARNING_RATE = 5e-3  # where the recipe has none
DISENTANGLE = ("adversarial", "prior", "none")


@dataclasses.dataclass(frozen=True, eq=False)
class Compositional:
    """The result of `fit_compositional`; `samples` is a method for `evaluate`."""

    networks: Networks
    params: dict  # averaged over steps; those that were kept where there is a validation set
    view: View
    design: Design
    train: PerturbationData  # in the user's units
    recipe: Recipe
    history: list[dict[str, Any]]

    def basal(self, x: Float[np.ndarray, "cells features"], label: LabelLike) -> Float[np.ndarray, "cells latent"]:
        """Return the basal states of cells of one condition, in the user's units."""
        own = jnp.asarray(self.design.row(self.train.label(label)))
        return np.asarray(self.networks.basal(self.params, jnp.asarray(self.view.into(x)), own))

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
        """Return the source cells encoded, given the embedding of the target label, and drawn from the decoder's
        Gaussian.

        Args:
            key: the same source cells as a baseline draws with it, and the decoder's noise.
            train: whose cells are moved; the features and perturbations of the fit.
            label: target.
            num_samples: cells to return.
            source: condition whose cells are moved; None: the control.
            floor: clip below.
        """
        check_same_columns(train, self.train, "given")
        num_samples = Whole().checked("num_samples", num_samples)
        start = source or train.control
        rows = train.rows[train.index(start)]
        rows = rows[_draw(make_random(key), len(rows), num_samples)]
        labels = [jnp.asarray(self.design.row(train.label(name))) for name in (start, label)]

        def translate(seen: np.ndarray, _: np.ndarray | None) -> np.ndarray:
            moved = [
                _translate(self.networks.model, self.params, jax.random.fold_in(key, i), seen[i : i + BATCH], *labels)
                for i in range(0, num_samples, BATCH)
            ]
            return np.concatenate([np.asarray(block) for block in moved])

        samples = self.view.translated(translate, train.x[rows], key, train.sizes(rows)).astype(train.x.dtype)
        return samples if floor is None else np.maximum(samples, floor)


_translate = jax.jit(
    lambda model, params, key, x, label_from, label_to: model.translate(params, key, x, label_from, label_to),
    static_argnums=0,
)


@as_door()
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
    progress: bool | Progress | None = None,
    **options: Any,
) -> Compositional:
    """Train a compositional perturbation autoencoder with the means of a pdae `Recipe`.

    The adversary classifies the CONDITION. A classifier of each perturbation by itself passes over doses and over
    basal states that differ between combinations only; the cross-entropy over conditions is at chance exactly where
    the basal state is independent of the label, whatever labels are.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key.
        recipe: hyperparameters, those of the objective and `noise_dim` excepted; `num_steps` is found as for `fit`. A
            batch has `num_sources` conditions and as many cells of each as `fit` draws for a source and a target
            together.
        disentangle: ``adversarial``, ``prior``, or ``none`` (an autoencoder with an embedding that it need not use).
        adversary_weight: times the adversary's cross-entropy, beside the likelihood per feature.
        prior_weight: times the energy distance to N(0, I).
        subtract_label: the basal state is `g(x) - a E` with the cell's own label, as in pdae. False, as in CPA: it is
            `g(x)`, and the encoder must take out of a cell what the perturbation did without knowing which it was;
            where conditions overlap, it can only discard what the label tells something about.
        validation: conditions that are never trained on; parameters are kept by the same rule as in `fit`.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        **options: single fields of the recipe.

    Raises:
        ValueError: unusable data, an unknown way to disentangle, a negative weight.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss, or the error on a validation condition, became NaN or infinite; names the steps.
    """
    if disentangle not in DISENTANGLE:
        raise ValueError(f"disentangle={disentangle!r} is not known; pass one of {', '.join(DISENTANGLE)}.")
    for name, weight in (("adversary_weight", adversary_weight), ("prior_weight", prior_weight)):
        if not weight >= 0:
            raise ValueError(f"{name}={weight}, but it must be 0 or more: the sign is part of the objective.")
    recipe = (
        (recipe or Recipe())
        .override(**options)
        .override(noise="drawn", noise_dim=0, observed_effects=False, components=None)
    )
    check_training_data(train, validation)
    if recipe.patience and validation is None:
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    key_start, key_decoder, key_adversary, key_steps, key_validate = jax.random.split(key, 5)
    # streams: all keys are split here
    request = Request(train, key_start, recipe.override(patience=0), streams=1)
    program = prepare(make_plan(check_request(request)))
    frame, plan, view, design = program.frame, program.plan, program.plan.view, program.plan.design
    networks, params, adversary = make_networks(key_decoder, key_adversary, program, train, subtract_label)
    optimizer = make_optimizer(
        program.num_steps,
        learning_rate=LEARNING_RATE if recipe.learning_rate is None else recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        clip_norm=recipe.clip_norm,
    )
    weights = Weights(
        adversary=adversary_weight if disentangle == "adversarial" else 0.0,
        prior=prior_weight if disentangle == "prior" else 0.0,
    )
    plan = plan._replace(recipe=plan.recipe.override(patience=recipe.patience or 0))
    frame = frame._replace(plan=plan, unravel=networks.unravel)
    if validation:
        validator = make_validator(key_validate, networks.model, view, design, train, validation)
        frame = frame._replace(validator=validator)
    names = ("num_sources", "cells_per_source", "num_targets", "cells_per_target")
    sample = make_sampler(train.num_conditions, **dict(zip(names, _sizes(plan.recipe), strict=True)))
    step = make_compositional_step(networks, optimizer, sample, weights, recipe.average_decay, train.num_conditions)
    opponents = Opponents(optimizer.init(params), adversary, optimizer.init(adversary))
    # copies: a step donates its state
    start = TrainState(jnp.zeros((), jnp.int32), key_steps, params, jnp.copy(params), opponents)
    state = with_errors(program.state._replace(train=start, kept=jnp.copy(params)), frame.validator)
    state = with_start(state, start_errors(state, frame))
    data = feed(train, view, design, _sizes(plan.recipe), step_keys)
    member = Member(program._replace(frame=frame, step=step, data=data), state, History())
    train_members([member], progress=progress, name="fit_compositional")
    if member.error:
        raise FloatingPointError(member.error)
    params = frame.unravel(member.state.kept if validation else member.state.train.average)
    return Compositional(networks, params, view, design, train, plan.recipe, member.history.entries)


COMPARATORS = {"compositional": False, "compositional_with_source_label": True}  # name -> `subtract_label`


def fit_comparators(
    names: Sequence[str],
    train: PerturbationData,
    *,
    key: Array,
    validation: PerturbationData | None = None,
    recipe: Recipe | None = None,
    progress: bool | Progress | None = None,
) -> dict[str, Callable]:
    """Train methods to compare with, for ``evaluate(methods=)``.

    Args:
        names: ``compositional``, as published, and ``compositional_with_source_label``, whose encoder is told the label
            of each source cell.
        train: training conditions.
        key: typed PRNG key.
        validation: as in `fit_compositional`.
        recipe: that of the model they are compared with.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.

    Raises:
        ValueError: a name that is not known.
    """
    for name in names:
        if name not in COMPARATORS:
            raise ValueError(f"Unknown comparator {name!r}; known are {', '.join(COMPARATORS)}.")
    if recipe is not None and validation is None:
        recipe = recipe.override(patience=0)
    options: dict[str, Any] = {"key": key, "validation": validation, "recipe": recipe, "progress": progress}
    return {name: fit_compositional(train, subtract_label=COMPARATORS[name], **options).samples for name in names}


def _sizes(recipe: Recipe) -> tuple[int, int, int, int]:
    """As many cells a step as `fit` draws for sources and targets together."""
    return recipe.num_sources, recipe.cells_per_source + recipe.cells_per_target, 1, 1
