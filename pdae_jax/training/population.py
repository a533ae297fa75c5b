"""Many fits at once: settings, seeds and left-out conditions as members of a population.

What a member trains with (`step.Settings`) is a value of the compiled step, so members that differ in nothing else
share a program, and on an accelerator they run side by side in it. They take places in a pool: when a member ends, by
its last step, its patience or an error, the next one takes its place, and when no more wait and half of the places are
empty the pool goes on with those that are taken, where that saves more time than compiling costs. So a member that
stops early costs nothing afterwards. Memory for training is bounded by the number of places, and what the host keeps of
members that train or wait by `MOST_OPEN`, whatever the size of the population; members with other conditions left out
have cells of their own.

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
from pdae_jax.runs.folder import check_free
from pdae_jax.runs.track import Progress, make_progress
from pdae_jax.training.last_step import best_step, choice_folder, errors_by_step, fold_of, folds_to_leave_out
from pdae_jax.training.loop import check_request, fitted_of
from pdae_jax.training.pool import Member, places_for, run_pool, step_key
from pdae_jax.training.prepare import Parts, step_of
from pdae_jax.training.recovery import identity_of, key_data, open_run, stop_of_folder, told_to_stop
from pdae_jax.training.reduction import with_components
from pdae_jax.training.requests import Outcome, Request
from pdae_jax.training.starts import Starts
from pdae_jax.types import PerturbationData, Table

MOST_OPEN = 128  # members that are prepared, and have their folders open, at a time
LEAVE_OUT = "leave_out"  # in a setting: names of training conditions that validate its members
BOOTSTRAP = "bootstrap"  # in a setting: its members see resampled cells


_NOT_VALIDATED = "No member has validation conditions that differ from the control. Pass some as validation=."


class Population(NamedTuple):
    """What `fit_population` returns."""

    table: Table  # one row a member: settings, replica, validation error, kept step, steps taken, error
    members: tuple[Fitted | None, ...]  # in the order of the table; None where one failed, and the table says why
    settings: tuple[Mapping[str, Any], ...]  # of each member, as they were given

    @property
    def best_setting(self) -> Mapping[str, Any]:
        """The setting with the smallest error on validation conditions, as a fraction of the control's.

        A mean over replicas, and over the conditions that were left out in turn (`leave_out`), where there are some:
        this is cross-validation. Settings with fewer members that did not fail come after the others.
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
        """The member with the smallest error on its validation conditions, as a fraction of the control's."""
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
        tolerant: requests that cannot be started, or break down, are recorded as failed and do not end the others.
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
            if request.workdir is not None:
                check_free(request.workdir)
            recipe, components[row] = request.recipe, request.components
            if request.components is None:
                recipe, components[row] = with_components(recipe, request.train, request.workdir)
            asked[row] = request._replace(source=source, recipe=recipe)
    good = [row for row in range(len(asked)) if row not in failed]
    chosen = _chosen_stops([asked[row] for row in good], [components[row] for row in good], at_once, progress, tolerant)
    failed |= {row: last for row, last in zip(good, chosen, strict=True) if isinstance(last, str)}
    stops = dict(zip(good, chosen, strict=True))
    outcomes, batches = {}, _batches(asked, [row for row in good if row not in failed])
    for number, batch in enumerate(batches):
        starts, members = Starts(), {}
        with contextlib.ExitStack() as folders:  # they are free again however this ends
            stop = folders.enter_context(told_to_stop(any(asked[row].workdir is not None for row in batch)))
            for row in batch:
                with of_request(row):
                    request = asked[row]._replace(recipe=asked[row].recipe.override(stop_step=stops[row]))
                    members[row] = _member(starts.parts(request, components[row]), request)
                    folders.callback(members[row].close)
            _pad(list(members.values()))
            of_bar = name if len(batches) == 1 else f"{name} {number + 1}/{len(batches)}"
            _run(list(members.values()), at_once, progress, of_bar, stop, tolerant)
        outcomes |= {row: _outcome(asked[row], member) for row, member in members.items()}
    return [Outcome(None, error=failed[row]) if row in failed else outcomes[row] for row in range(len(asked))]


def _batches(requests: Sequence[Request], rows: Sequence[int]) -> list[list[int]]:
    """Rows that are prepared together, those of the same data beside each other."""
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(id(requests[row].train), row)
    ordered = sorted(rows, key=lambda row: (first[id(requests[row].train)], row))
    return [ordered[start : start + MOST_OPEN] for start in range(0, len(ordered), MOST_OPEN)]


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
    tolerant: bool,
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
        try:
            run_pool(pool, places_for(pool, at_once), told, stop)
        except Exception as error:  # the memory of the device is full, say: other pools may be smaller
            if not tolerant:
                raise
            for member in pool:
                if not member.finished:
                    member.error = f"{type(error).__name__}: {error}"
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
    tolerant: bool,
) -> list[int | str | None]:
    """The last step of each fit, found as `loop.with_stop` does, all folds in one population; or why it failed."""
    stops: list[int | str | None] = [request.recipe.stop_step for request in requests]
    asked, rows = [], []
    starts, folds = Starts(), {}
    for row, request in enumerate(requests):
        if request.validation is not None or stops[row] is not None:
            continue
        stops[row] = stop_of_folder(request.workdir)
        if stops[row] is not None:
            continue
        which = (id(request.train), tuple(np.ravel(key_data(request.key))))
        if which not in folds:  # members with the same split share its data
            left_out = folds_to_leave_out(request.train, request.key)
            folds[which] = [fold_of(request.train, request.key, each, n, None) for n, each in enumerate(left_out)]
        for number, fold in enumerate(folds[which]):
            path = None if request.workdir is None else choice_folder(request.workdir, number)
            # a fit that chooses has the schedule of the fit proper
            recipe = starts.resolved(request, components[row])
            asked.append(Request(fold.train, fold.key, recipe, fold.validation, workdir=path))
            rows.append(row)
    if not asked:
        return stops
    outcomes = train_requests(asked, at_once=at_once, progress=progress, name="choice", tolerant=tolerant)
    for row in sorted(set(rows)):
        own = [outcome for of_row, outcome in zip(rows, outcomes, strict=True) if of_row == row]
        failed = [outcome.error for outcome in own if outcome.fitted is None]
        curves = [errors_by_step(outcome.fitted) for outcome in own if outcome.fitted]
        stops[row] = failed[0] if failed else best_step(curves)
    return stops
