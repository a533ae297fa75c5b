"""Fits that are asked for together: their last steps are chosen, then they train, those that share a program in it.

What a fit trains with (`step.Settings`) is a value of the compiled step, so fits that differ in nothing else share a
program, and on an accelerator they run side by side in it. They take places in a pool: when one ends, by its last step,
its patience or an error, the next takes its place, and when no more wait and half of the places are empty the pool goes
on with those that are taken, where that saves more time than compiling costs. So a fit that stops early costs nothing
afterwards. Memory for training is bounded by the number of places, and what the host keeps of fits that train or wait
by `MOST_OPEN`, however many are asked for; fits of other data have cells of their own.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from pdae_jax.compiled import as_written
from pdae_jax.randomness import STREAMS
from pdae_jax.runs.folder import begin
from pdae_jax.runs.track import Progress, make_progress, stage
from pdae_jax.training.last_step import best_step, choice_folder, errors_by_step, fold_of, folds_of
from pdae_jax.training.loop import fitted_of
from pdae_jax.training.pool import Member, places_for, run_pool, step_key
from pdae_jax.training.prepare import Parts, step_of
from pdae_jax.training.recovery import Stop, identity_of, open_run, stop_of_folder, streams_of_folder, told_to_stop
from pdae_jax.training.reduction import with_components
from pdae_jax.training.requests import Outcome, Request, check_request
from pdae_jax.training.starts import Starts
from pdae_jax.view.components import Components
from pdae_jax.view.sampler import DeviceData, padded_to

MOST_OPEN = 128  # members that are prepared, and have their folders open, at a time


@as_written()
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
                begin(request.workdir)
            recipe, components[row] = request.recipe, request.components
            if request.components is None:
                recipe, components[row] = with_components(recipe, request.train, request.workdir)
            streams = request.streams or streams_of_folder(request.workdir) or STREAMS
            asked[row] = request._replace(source=source, recipe=recipe, streams=streams)
    good = [row for row in range(len(asked)) if row not in failed]
    chosen = _chosen_stops([asked[row] for row in good], [components[row] for row in good], at_once, progress, tolerant)
    failed |= {row: last for row, last in zip(good, chosen, strict=True) if isinstance(last, str)}
    stops = dict(zip(good, chosen, strict=True))
    outcomes, batches = {}, _batches(asked, [row for row in good if row not in failed])
    for number, batch in enumerate(batches):
        starts, members = Starts(), {}
        with contextlib.ExitStack() as folders:  # they are free again however this ends
            stop = folders.enter_context(told_to_stop(any(asked[row].workdir is not None for row in batch)))
            with stage(progress, f"Preparing {len(batch)} fits: the linear starts, and compiling"):
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
    identity = identity_of(request, parts.frame.recipe)
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
    stop: Stop,
    tolerant: bool,
) -> None:
    pools: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        if not member.finished:
            pools.setdefault(step_key(member), []).append(member)
    with contextlib.closing(make_progress(progress, name)) as bar:

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
    """The last step of each fit, found as `fit.with_stop` does, all folds in one population; or why it failed."""
    stops: list[int | str | None] = [request.recipe.stop_step for request in requests]
    asked, rows = [], []
    starts, folds = Starts(), {}
    for row, request in enumerate(requests):
        if request.validation is not None or stops[row] is not None:
            continue
        stops[row] = stop_of_folder(request.workdir)
        if stops[row] is not None:
            continue
        which = (id(request.train), tuple(np.ravel(jax.random.key_data(request.root)).tolist()))
        if which not in folds:  # members with the same split share its data
            folds[which] = [fold_of(request, left_out, number) for number, left_out in enumerate(folds_of(request))]
        for number, fold in enumerate(folds[which]):
            path = None if request.workdir is None else choice_folder(request.workdir, number)
            # a fit that chooses has the schedule of the fit proper
            asked.append(fold._replace(recipe=starts.resolved(request, components[row]), workdir=path))
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
