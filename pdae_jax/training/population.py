"""Many fits at once: settings, seeds and left-out conditions as members of a population.

Rates, weights and the other values of the compiled step (`step.VALUES`) share a program; `train` trains them.

Every member ends as its own `fit` does, to rounding: same key, same start, same batches.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.design.split import hold_out
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import check_key
from pdae_jax.recipe import Recipe
from pdae_jax.runs.track import Progress
from pdae_jax.settings import Flag, Whole
from pdae_jax.training.plan import Outcome, Request
from pdae_jax.training.resume import streams_of_folder
from pdae_jax.training.train import train_requests
from pdae_jax.types import PerturbationData, Table

LEAVE_OUT = "leave_out"  # in a setting: names of training conditions that validate its members
BOOTSTRAP = "bootstrap"  # in a setting: its members see resampled cells

_NOT_VALIDATED = "No member has validation conditions that differ from the control. Pass some as validation=."


class Population(NamedTuple):
    """The result of `fit_population`."""

    table: Table  # one row a member: settings, replica, validation error, kept step, steps taken, error
    members: tuple[Fitted | None, ...]  # in the order of the table; None where one failed, and the table says why
    settings: tuple[Mapping[str, Any], ...]  # of each member, as they were given

    @property
    def best_setting(self) -> Mapping[str, Any]:
        """The setting with the smallest error on validation conditions, as a fraction of the control's.

        A mean over replicas, and over the conditions that were left out in turn (`leave_out`), where there are some:
        this is cross-validation. Settings with fewer members that did not fail come after the others.

        Raises:
            ValueError: no member has validation conditions that differ from the control.
        """
        rests = [{name: value for name, value in each.items() if name != LEAVE_OUT} for each in self.settings]
        groups = np.array([repr(sorted(rest.items())) for rest in rests])
        shares = self.table.groupby(groups, sort=False)["validation_share"]
        means: Any = shares.mean()
        found = means[shares.count() == max(shares.count().max(), 1)]
        if found.empty:
            raise ValueError(_NOT_VALIDATED)
        return rests[int(np.argmax(groups == found.idxmin()))]

    @property
    def best(self) -> Fitted:
        """The member with the smallest error on its validation conditions, as a fraction of the control's.

        Raises:
            ValueError: none has such conditions, or members were validated on different ones.
        """
        if len({_names(each[LEAVE_OUT]) if LEAVE_OUT in each else None for each in self.settings}) > 1:
            raise ValueError(
                "Members were validated on different conditions, so their errors do not compare. Pass best_setting to "
                "fit, with all conditions."
            )
        shares = self.table["validation_share"].to_numpy(float)
        if np.all(np.isnan(shares)):
            raise ValueError(_NOT_VALIDATED)
        found = self.members[int(np.nanargmin(shares))]
        assert found is not None
        return found


def fit_population(
    train: PerturbationData,
    settings: Sequence[Mapping[str, Any]],
    *,
    key: Array,
    validation: PerturbationData | None = None,
    source: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    num_replicas: int = 1,
    at_once: int | None = None,
    workdir: str | pathlib.Path | None = None,
    progress: bool | Progress | None = None,
    **options: Any,
) -> Population:
    """Train a model with each of several settings; those that share a compiled program train in one.

    Rates, decay, weights of the loss (0 apart), number of steps, exponents and bandwidths of the kernel, seeds and
    left-out conditions share a program; latent dimension, widths and sizes of the batch have one each.

    Args:
        train: training conditions, the control among them.
        settings: of each member: fields of the recipe, ``{"learning_rate": 1e-3}``. With ``"leave_out": [names]`` a
            member trains without these conditions and is validated on them, instead of on `validation`. With
            ``"bootstrap": True`` it sees as many cells of each condition, drawn with replacement.
        key: typed PRNG key. Replica 0 of every setting has it, and is ``fit(train, key=key, validation=validation,
            **setting)`` to rounding; replica r has ``fold_in(key, r)``.
        validation: conditions that are never trained on, as in `fit`.
        source: as in `fit`; members with conditions of their own to leave out start from the control.
        recipe: what the settings change; default `Recipe()`.
        num_replicas: fits of each setting.
        at_once: members that train at the same time. None: as many as fit into the memory of an accelerator; on a CPU
            one for each device that JAX has, as a CPU gains nothing by more. Of ``rbg`` keys always one: side by side
            they would draw what the first of them draws.
        workdir: folder in which each member has the folder of its run, ``000``, ``001`` and so on. Interrupted, the
            same call goes on there.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        **options: fields of the recipe for all members.

    Returns:
        A table and the members, replicas of a setting one after the other. A member whose loss or error becomes NaN or
        infinite has failed, and the others go on.

    Raises:
        ValueError: no settings, unusable data, or a workdir that holds a different run.
        RuntimeError: another process works in the folder of a member.
        TypeError: an option that the recipe does not have.
        FloatingPointError: every member failed; the message is that of the first.
    """
    check_key(key)
    if isinstance(settings, Mapping):
        raise TypeError(f"settings is {settings!r}. Pass a list with one dict of recipe fields for each member.")
    if not settings:
        raise ValueError("No settings. Pass one dict of recipe fields for each member; [{}] is the default recipe.")
    num_replicas = Whole().checked("num_replicas", num_replicas)
    at_once = None if at_once is None else Whole().checked("at_once", at_once)
    base, requests = (recipe or Recipe()).override(**options), []
    splits: dict[tuple[str, ...] | None, tuple[PerturbationData, PerturbationData | None]] = {None: (train, validation)}
    # of one that an earlier version began, also for the members that it had not begun
    streams = None if workdir is None else streams_of_folder(pathlib.Path(workdir) / f"{0:03d}")
    for setting in settings:
        names = _names(setting[LEAVE_OUT]) if LEAVE_OUT in setting else None
        if names not in splits:  # members with the same split share its data
            splits[names] = hold_out(train, list(names or ()))
        rest, judged = splits[names]
        own = base.override(**{name: value for name, value in setting.items() if name not in (LEAVE_OUT, BOOTSTRAP)})
        for replica in range(num_replicas):
            requests.append(
                Request(
                    train=rest,
                    key=key if replica == 0 else jax.random.fold_in(key, replica),
                    recipe=own,
                    validation=judged,
                    source=source if names is None else None,
                    workdir=None if workdir is None else pathlib.Path(workdir) / f"{len(requests):03d}",
                    streams=streams,
                    bootstrap=Flag().checked(BOOTSTRAP, setting.get(BOOTSTRAP, False)),
                )
            )
    outcomes = train_requests(requests, at_once=at_once, progress=progress)
    if all(outcome.fitted is None for outcome in outcomes):
        raise FloatingPointError(f"Every member failed. The first: {outcomes[0].error}")
    return Population(
        _table(settings, num_replicas, outcomes),
        tuple(outcome.fitted for outcome in outcomes),
        tuple(settings[number // num_replicas] for number in range(len(outcomes))),
    )


def _names(left_out: str | Sequence[str]) -> tuple[str, ...]:
    return (left_out,) if isinstance(left_out, str) else tuple(left_out)


def _table(settings: Sequence[Mapping[str, Any]], num_replicas: int, outcomes: Sequence[Outcome]) -> Table:
    import pandas as pd

    rows = []
    for number, outcome in enumerate(outcomes):
        errors = [each["pdae"] for each in outcome.errors.values()]
        results = {
            "replica": number % num_replicas,
            "validation_energy_distance": np.mean(errors) if errors else math.nan,
            "validation_share": share_of_control(outcome.errors),
            "kept_step": outcome.kept_step,
            "steps": outcome.steps,
            "error": outcome.error,
        }
        rows.append({"member": number, **settings[number // num_replicas], **results})
    return pd.DataFrame(rows)


def share_of_control(errors: Mapping[str, Mapping[str, float]]) -> float:
    """Return the sum of errors on validation conditions over that of predicting no effect; NaN where that is not
    positive.

    Not a mean of ratios: conditions without an effect have a control's distance around zero.
    """
    control = sum(each["control"] for each in errors.values())
    return max(sum(each["pdae"] for each in errors.values()), 0.0) / control if control > 0 else math.nan
