"""Fits that are asked for, one or many: planned, their last steps chosen, and trained, all of one program in it.

What a fit trains with (`step.Settings`) is a value of the compiled step, so fits that differ in nothing else share a
program, and take turns in its places. Memory for training is bounded by the number of places, and what the host keeps
of fits that train or wait by `MOST_OPEN`, however many are asked for; fits of other data have cells of their own.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pdae_jax.compiled import as_door
from pdae_jax.model.fitted import Fitted
from pdae_jax.runs.track import Progress, make_progress, stage
from pdae_jax.training.folds import last_steps
from pdae_jax.training.member import Member, open_member
from pdae_jax.training.places import places_for, program_key, train_in_places
from pdae_jax.training.plan import Checked, Outcome, Plan, Request, Shared, check_request, make_plan
from pdae_jax.training.prepare import prepare
from pdae_jax.training.resume import Stop, told_to_stop
from pdae_jax.view.sampler import DeviceData, padded_to

MOST_OPEN = 128  # members that are prepared, and have their folders open, at a time


class Failures(dict[int, str]):
    """Why requests have failed, by their number; where it does not tolerate any, the first error ends all."""

    def __init__(self, tolerant: bool):
        super().__init__()
        self.tolerant = tolerant

    @contextlib.contextmanager
    def of(self, row: int) -> Iterator[None]:
        """Work on one request."""
        try:
            yield
        except Exception as error:  # whatever is wrong with this one
            if not self.tolerant:
                raise
            self[row] = said(error)


def said(error: Exception) -> str:
    """Put an error in words."""
    return f"{type(error).__name__}: {error}"


@as_door()
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
        progress: as there; where fits first choose how long to train, it has two bars or more.
        name: of the bar.
        tolerant: requests that cannot be started, or break down, are recorded as failed and do not end the others.
    """
    failed, outcomes, checked = Failures(tolerant), {}, {}
    for row, request in enumerate(requests):
        with failed.of(row):
            checked[row] = check_request(request)
    if any(each.devices and not each.devices.writes for each in checked.values()):
        progress = False
    plans = make_plans(checked, failed, at_once=at_once, progress=progress)
    batches = _batches(plans)
    for number, rows in enumerate(batches):
        of_bar = name if len(batches) == 1 else f"{name} {number + 1}/{len(batches)}"
        outcomes |= _train_batch({row: plans[row] for row in rows}, failed, at_once, progress, of_bar)
    return [outcomes.get(row) or Outcome(None, error=failed[row]) for row in range(len(requests))]


def train_request(request: Request, progress: bool | Progress | None = None) -> Fitted:
    """Train one fit, and those that choose its last step one at a time: the same numbers on however many devices.

    Raises:
        FloatingPointError: the loss, or an error on a validation condition, became NaN or infinite.
    """
    (outcome,) = train_requests([request], at_once=1, progress=progress, name="fit")
    if outcome.fitted is None:
        raise FloatingPointError(outcome.error)
    return outcome.fitted


def plan_request(request: Request, progress: bool | Progress | None = None) -> Plan:
    """Check and plan one fit, with the step after which it ends; ``FloatingPointError`` where that cannot be chosen."""
    failed = Failures(tolerant=False)
    plans = make_plans({0: check_request(request)}, failed, at_once=1, progress=progress)
    if failed:
        raise FloatingPointError(failed[0])
    return plans[0]


def make_plans(
    checked: Mapping[int, Checked],
    failed: Failures,
    *,
    at_once: int | None = None,
    progress: bool | Progress | None = None,
) -> dict[int, Plan]:
    """Plan fits that were checked, with the steps after which they end; what fails is in `failed`, and has no plan."""
    plans, shared = {}, Shared()
    with stage(progress, "Preparing: what the cells look like"):
        for row, each in checked.items():
            with failed.of(row):
                plans[row] = make_plan(each, shared)
    options: dict[str, Any] = {"at_once": at_once, "progress": progress, "tolerant": failed.tolerant}
    steps = last_steps(plans, lambda folds, name: train_requests(folds, name=name, **options))
    failed.update({row: step for row, step in steps.items() if isinstance(step, str)})
    return {row: plan.stopping_at(step) for row, plan in plans.items() if not isinstance(step := steps[row], str)}


def _batches(plans: Mapping[int, Plan]) -> list[list[int]]:
    """Rows that are prepared together, those of the same data beside each other."""
    first: dict[int, int] = {}
    for row, plan in plans.items():
        first.setdefault(id(plan.request.train), row)
    ordered = sorted(plans, key=lambda row: (first[id(plans[row].request.train)], row))
    return [ordered[start : start + MOST_OPEN] for start in range(0, len(ordered), MOST_OPEN)]


def _train_batch(
    plans: Mapping[int, Plan], failed: Failures, at_once: int | None, progress: bool | Progress | None, name: str
) -> dict[int, Outcome]:
    """Prepare and train fits; those that cannot be prepared are in `failed`."""
    shared, members = Shared(), {}
    with contextlib.ExitStack() as folders:  # they are free again however this ends
        stop = folders.enter_context(told_to_stop(any(plan.is_kept for plan in plans.values())))
        what = "the linear start" if len(plans) == 1 else f"{len(plans)} fits: the linear starts"
        with stage(progress, f"Preparing {what}, and compiling"):
            for row, plan in plans.items():
                with failed.of(row):
                    members[row] = open_member(prepare(plan, shared, ahead=len(plans) == 1))
                    folders.callback(members[row].close)
        _give_one_shape(list(members.values()))
        own: dict[str, Any] = {"at_once": at_once, "progress": progress, "name": name, "tolerant": failed.tolerant}
        train_members(list(members.values()), stop=stop, **own)
    return {row: member.outcome for row, member in members.items()}


def _give_one_shape(members: Sequence[Member]) -> None:
    """Pad cells of members with one step but other conditions left out: one program, and the same places."""
    rows: dict[Any, int] = {}
    in_memory = [(member, member.program.data) for member in members if isinstance(member.program.data, DeviceData)]
    for member, data in in_memory:
        assert data.x is not None
        rows[member.program.step] = max(rows.get(member.program.step, 0), data.x.shape[0])
    padded = Shared()
    for member, data in in_memory:
        number = rows[member.program.step]
        data = padded.once((id(data), number), functools.partial(padded_to, data, number))
        member.program = member.program._replace(data=data)


def train_members(
    members: Sequence[Member],
    *,
    at_once: int | None = None,
    progress: bool | Progress | None = None,
    name: str = "fit",
    stop: Stop | None = None,
    tolerant: bool = False,
) -> None:
    """Train members to their end, program by program, with one bar; what has become of each is in it.

    Args:
        members: in whatever state.
        at_once: how many share a program at a time; None: as many as are faster than fewer.
        progress: as in `fit`.
        name: of the bar.
        stop: see `train_in_places`.
        tolerant: a program that breaks down, its memory being full say, ends its own members only.
    """
    of_programs: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        if not member.finished:
            of_programs.setdefault(program_key(member), []).append(member)
    with contextlib.closing(make_progress(progress, name)) as bar:

        def told(loss: float = math.nan) -> None:
            # a member that stopped early has no steps left
            total = sum(member.step if member.finished else member.program.num_steps for member in members)
            bar.update(sum(member.step for member in members), total, loss)

        told()
        for own in of_programs.values():
            try:
                train_in_places(own, places_for(own, at_once), told, stop)
            except Exception as error:
                if not tolerant:
                    raise
                for member in own:
                    if not member.finished:
                        member.error = said(error)
