"""Many fits at once: settings, seeds and left-out conditions as members of a population.

What a member trains with (`step.Settings`) is a value of the compiled step, so members that differ in nothing else
share a program, and on an accelerator they run side by side in it. They take places in a pool: when a member ends, by
its last step, its patience or an error, the next one takes its place, and when no more wait and half of the places are
empty the pool goes on with half as many, where that saves more time than compiling costs. So a member that stops early
costs nothing afterwards, and memory is bounded by the number of places, whatever the size of the population.

Every member ends as its own `fit` does, to rounding: same key, same start, same batches.
"""

import contextlib
import math
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.data.components import Components
from pdae_jax.data.sample import DeviceData, padded_to
from pdae_jax.data.split import hold_out
from pdae_jax.model.fitted import Fitted
from pdae_jax.recipe import Recipe
from pdae_jax.runs.track import Progress, make_progress
from pdae_jax.training.last_step import best_step, choice_key, combinations_to_leave_out
from pdae_jax.training.loop import check_request, fitted_of
from pdae_jax.training.pool import Member, places_for, run_pool, step_key
from pdae_jax.training.prepare import Parts, step_of
from pdae_jax.training.recovery import identity_of, key_data, open_run, stop_of_folder, told_to_stop
from pdae_jax.training.reduction import with_components
from pdae_jax.training.requests import Outcome, Request
from pdae_jax.training.starts import Starts
from pdae_jax.types import PerturbationData, Table

LEAVE_OUT = "leave_out"  # in a setting: names of training conditions that validate its members
BOOTSTRAP = "bootstrap"  # in a setting: its members see resampled cells


class Population(NamedTuple):
    """What `fit_population` returns."""

    table: Table  # one row a member: settings, replica, validation error, kept step, steps taken, error
    members: tuple[Fitted | None, ...]  # in the order of the table; None where one failed, and the table says why

    @property
    def best(self) -> Fitted:
        """The member with the smallest error on its validation conditions, as a fraction of the control's."""
        shares = self.table["validation_share"].to_numpy(float)
        if np.all(np.isnan(shares)):
            raise ValueError(
                "No member has validation conditions that differ from the control. Pass some as validation=."
            )
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
            one for each device that JAX has, as a CPU gains nothing by more.
        workdir: folder in which each member has the folder of its run, ``000``, ``001`` and so on. Interrupted, the
            same call goes on there.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        **options: fields of the recipe for all members.

    Returns:
        A table and the members, replicas of a setting one after the other. A member whose loss or error becomes NaN or
        infinite has failed, and the others go on.

    Raises:
        ValueError: no settings, unusable data, or a workdir that holds a different run.
        TypeError: an option that the recipe does not have.
        FloatingPointError: every member failed; the message is that of the first.
    """
    if isinstance(settings, Mapping):
        raise TypeError(f"settings is {settings!r}. Pass a list with one dict of recipe fields for each member.")
    if not settings:
        raise ValueError("No settings. Pass one dict of recipe fields for each member; [{}] is the default recipe.")
    if num_replicas < 1:
        raise ValueError(f"num_replicas={num_replicas}, but it must be at least 1.")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once={at_once}, but at least 1 member must train at a time.")
    base, requests = (recipe or Recipe()).override(**options), []
    splits: dict[tuple[str, ...] | None, tuple[PerturbationData, PerturbationData | None]] = {None: (train, validation)}
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
                    bootstrap=bool(setting.get(BOOTSTRAP, False)),
                )
            )
    outcomes = train_requests(requests, at_once=at_once, progress=progress)
    if all(outcome.fitted is None for outcome in outcomes):
        raise FloatingPointError(f"Every member failed. The first: {outcomes[0].error}")
    return Population(_table(settings, num_replicas, outcomes), tuple(outcome.fitted for outcome in outcomes))


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
    """The sum of errors on validation conditions over that of predicting no effect; NaN where that is not positive.

    Not a mean of ratios: conditions without an effect have a control's distance around zero.
    """
    control = sum(each["control"] for each in errors.values())
    return max(sum(each["pdae"] for each in errors.values()), 0.0) / control if control > 0 else math.nan


def train_requests(
    requests: Sequence[Request],
    *,
    at_once: int | None = None,
    progress: bool | Progress | None = None,
    name: str = "population",
    tolerant: bool = False,
) -> list[Outcome]:
    """Train all fits that are asked for; those that share a program take turns in its places.

    Args:
        requests: with the same objects for the same data, which then are on the device once.
        at_once: see `fit_population`.
        progress: as there; a population that first chooses how long to train has two bars.
        name: of the bar.
        tolerant: a request that cannot be started is recorded as failed, too, and does not end the others.
    """
    asked, failed = list(requests), {}
    components: list[Components | None] = [None] * len(requests)

    @contextlib.contextmanager
    def of_request(row: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever is wrong with this one
            if not tolerant:
                raise
            failed[row] = f"{type(error).__name__}: {error}"

    for row, request in enumerate(requests):
        with of_request(row):
            source = check_request(request.train, request.validation, request.source, request.recipe)
            recipe, components[row] = request.recipe, request.components
            if request.components is None:
                recipe, components[row] = with_components(recipe, request.train, request.workdir)
            asked[row] = request._replace(source=source, recipe=recipe)
    good = [row for row in range(len(asked)) if row not in failed]
    chosen = _chosen_stops([asked[row] for row in good], [components[row] for row in good], at_once, progress)
    starts, members = Starts(), {}
    with contextlib.ExitStack() as folders:  # they are free again however this ends
        stop = folders.enter_context(told_to_stop(any(request.workdir is not None for request in requests)))
        for row, last in zip(good, chosen, strict=True):
            if isinstance(last, str):
                failed[row] = last
                continue
            with of_request(row):
                request = asked[row]._replace(recipe=asked[row].recipe.override(stop_step=last))
                members[row] = _member(starts.parts(request, components[row]), request)
                folders.callback(members[row].close)
        _pad(list(members.values()))
        _run(list(members.values()), at_once, progress, name, stop)
    return [
        Outcome(None, error=failed[row]) if row in failed else _outcome(request, members[row])
        for row, request in enumerate(asked)
    ]


def _member(parts: Parts, request: Request) -> Member:
    identity = identity_of(parts.frame.recipe, request.key, request.source)
    if request.bootstrap:
        identity["bootstrap"] = True
    run, state, history = open_run(
        parts, identity, request.train, request.validation, request.workdir, dict(request.config)
    )
    return Member(parts, state, history, run, step_of(state))


def _pad(members: Sequence[Member]) -> None:
    """Cells of members with one step but other conditions left out get one shape: one program, and one pool."""
    rows: dict[Any, int] = {}
    in_memory = [(member, member.parts.data) for member in members if isinstance(member.parts.data, DeviceData)]
    for member, data in in_memory:
        assert data.x is not None
        rows[member.parts.step] = max(rows.get(member.parts.step, 0), data.x.shape[0])
    padded: dict[Any, DeviceData] = {}
    for member, data in in_memory:
        which = (id(data), rows[member.parts.step])
        if which not in padded:
            padded[which] = padded_to(data, rows[member.parts.step])
        member.parts = member.parts._replace(data=padded[which])


def _run(
    members: Sequence[Member],
    at_once: int | None,
    progress: bool | Progress | None,
    name: str,
    stop: threading.Event,
) -> None:
    pools: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        if not member.finished:
            pools.setdefault(step_key(member), []).append(member)
    bar = make_progress(progress, name)

    def told(loss: float = math.nan) -> None:
        # a member that stopped early has no steps left
        total = sum(member.step if member.finished else member.parts.num_steps for member in members)
        bar.update(sum(member.step for member in members), total, loss)

    told()
    for pool in pools.values():
        run_pool(pool, places_for(pool, at_once), told, stop)
    bar.close()


def _outcome(request: Request, member: Member) -> Outcome:
    if member.error:
        return Outcome(None, steps=member.step, error=member.error)
    frame, run = member.parts.frame, member.run
    fitted = fitted_of(
        frame, member.state, request.train, request.validation, member.history.entries, run.path if run else None
    )
    kept = int(member.state.kept_step) if frame.validator else member.step
    return Outcome(fitted, kept, member.step)


def _chosen_stops(
    requests: Sequence[Request],
    components: Sequence[Components | None],
    at_once: int | None,
    progress: bool | Progress | None,
) -> list[int | str | None]:
    """The last step of each fit, found as `loop.with_stop` does, all choices in one population; or why it failed."""
    stops: list[int | str | None] = [request.recipe.stop_step for request in requests]
    splits: dict[Any, Any] = {}
    choices = []
    for row, request in enumerate(requests):
        if request.validation is not None or stops[row] is not None:
            continue
        stops[row] = stop_of_folder(request.workdir)
        if stops[row] is not None:
            continue
        which = (id(request.train), tuple(np.ravel(key_data(request.key))))
        if which not in splits:
            left_out = combinations_to_leave_out(request.train, request.key)
            splits[which] = hold_out(request.train, left_out) if left_out else None
        if splits[which] is not None:
            rest, judged = splits[which]
            choices.append((row, rest, judged))
    if not choices:
        return stops
    starts = Starts()  # a fit that chooses has the schedule of the fit proper
    asked = [
        Request(rest, choice_key(requests[row].key), starts.resolved(requests[row], components[row]), judged)
        for row, rest, judged in choices
    ]
    outcomes = train_requests(asked, at_once=at_once, progress=progress, name="choice")
    for (row, _, _), outcome in zip(choices, outcomes, strict=True):
        stops[row] = best_step(outcome.fitted) if outcome.fitted else outcome.error
    return stops
