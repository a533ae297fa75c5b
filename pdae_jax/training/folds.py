"""After how many steps a fit ends, where no validation conditions say it: chosen by combinations that are left out.

Fits without some of the combinations, in turn (folds), say after how many steps these were predicted best, and whether
training helped them at all. The fit proper then takes all conditions, and as many steps. Where there are too few
combinations for that, and too few cells to tell more than means, the start is kept.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.design.design import design_of
from pdae_jax.design.split import hold_out
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import make_random
from pdae_jax.runs.folder import CHOICE_FOLDER
from pdae_jax.training.defaults import has_few_cells
from pdae_jax.training.plan import Outcome, Plan, Request, Shared
from pdae_jax.training.resume import stop_of_folder
from pdae_jax.types import PerturbationData

MIN_COMBINATIONS = 5  # that the other training conditions determine: with fewer nothing is left out to choose the end
_LEFT_OUT = 0.2  # of them, in a fold
_MOST_LEFT_OUT = 40
_ENOUGH = 10  # combinations judge, where there are so many: a single one would say little
MOST_BYTES = 2**30  # of cells that folds trained together have for themselves
_CHOICE = 7  # folded into the key of the fit


def folds_to_leave_out(train: PerturbationData, key: Array) -> list[list[str]]:
    """Choose combinations whose labels the rest determines, a fifth of them in each fold; none where they are few.

    A combination is left out of all strata. Folds have none in common, and end with the one in which the tenth
    combination is left out.
    """
    design = design_of(train)
    first = design.across_strata
    determined = np.unique(first[design.combinations & design.determined_by_others])
    if len(determined) < MIN_COMBINATIONS:
        return []
    size = min(max(1, round(_LEFT_OUT * len(determined))), _MOST_LEFT_OUT)
    shuffled, folds = make_random(key).permutation(determined), []
    for start in range(0, min(len(determined), _ENOUGH), size):
        chosen = np.flatnonzero(np.isin(first, shuffled[start : start + size]))
        # those that only others among them determine go back
        inside = design.span_without(chosen).contains(design.scaled[chosen])
        left_out = chosen[~np.isin(first[chosen], first[chosen[~inside]])]
        if len(left_out):
            folds.append([train.conditions[row] for row in left_out])
    return folds


def folds_of(plan: Plan) -> list[list[str]]:
    """Name the combinations that each fit leaves out which chooses the last step of the one that is asked for."""
    # once by the key that the cells of the start were drawn with
    request = plan.request
    key = request.key if request.streams == 1 else jax.random.fold_in(plan.root, _CHOICE)
    return folds_to_leave_out(request.train, key)


def last_steps(
    plans: Mapping[int, Plan], train_all: Callable[[list[Request], str], list[Outcome]]
) -> dict[int, int | str | None]:
    """Find the last step of each plan: as it is asked for, as the run has it which it goes on from, or chosen by folds.

    Args:
        plans: by whatever number.
        train_all: trains requests, under a name that progress has.

    Returns:
        By the same numbers; None: after all steps. In words: why fits that were to choose have failed.
    """
    steps: dict[int, int | str | None] = {row: _found_step(plan) for row, plan in plans.items()}
    chooses = [row for row in plans if steps[row] is None and plans[row].request.validation is None]
    folds = {row: found for row in chooses if (found := folds_of(plans[row]))}
    steps |= {row: 0 for row in chooses if row not in folds and _keeps_start(plans[row])}
    curves: dict[int, list[dict[int, float]]] = {row: [] for row in folds}
    groups = _groups(max(map(len, folds.values()), default=0), [plans[row] for row in folds])
    for place, numbers in enumerate(groups):
        shared = Shared()  # fits with the same split share its data
        asked = [(row, n) for row in folds for n in numbers if n < len(folds[row])]
        requests = [fold_of(plans[row], folds[row][n], n, shared) for row, n in asked]
        name = "choice" if len(groups) == 1 else f"choice {place + 1}/{len(groups)}"
        for (row, _), outcome in zip(asked, train_all(requests, name), strict=True):
            if outcome.fitted is None:
                steps[row] = outcome.error
            else:
                curves[row].append(errors_by_step(outcome.fitted))
    for row, own in curves.items():
        if not isinstance(steps[row], str):
            devices = plans[row].devices
            steps[row] = best_step(own) if devices is None else devices.number_of_first(best_step(own))
    return steps


def _keeps_start(plan: Plan) -> bool:
    """Tell whether nothing but chance would say what training does: cells too few, and nothing that validates.

    In eight worlds of 8 and 14 cells a condition the mean energy distance of fits was .25 and that of starts .17; with
    20 and 30 cells three of three fits were better.
    """
    return plan.request.recipe.num_steps is None and has_few_cells(plan.request.train.counts)


def _found_step(plan: Plan) -> int | None:
    """The last step that is asked for, or that the run has which the fit goes on from."""
    request = plan.request
    if request.validation is not None or plan.recipe.stop_step is not None:
        return plan.recipe.stop_step
    found = stop_of_folder(plan.before)
    if plan.devices is not None:
        found = plan.devices.number_of_first(-1 if found is None else found)
    return None if found == -1 else found


def _groups(number: int, plans: Sequence[Plan]) -> list[list[int]]:
    """Folds that are trained together: as many as may have copies of the cells at a time."""
    largest = max((getattr(plan.request.train.x, "nbytes", 0) for plan in plans), default=0)
    size = max(1, min(number, MOST_BYTES // max(largest, 1)))
    return [list(range(start, min(start + size, number))) for start in range(0, number, size)]


def fold_of(plan: Plan, left_out: Sequence[str], number: int, shared: Shared) -> Request:
    """Ask for one of the fits that choose the last step of a plan; the schedule is that of the fit proper."""
    request, recipe = plan.request, plan.recipe
    which = ("fold", id(request.train), tuple(left_out))
    train, validation = shared.once(which, lambda: hold_out(request.train, left_out))
    targets = min(recipe.num_targets, train.num_conditions)  # of fewer conditions, which devices may not share
    return Request(
        train,
        jax.random.fold_in(jax.random.fold_in(plan.root, _CHOICE), number),
        recipe,
        validation,
        workdir=None if request.workdir is None else choice_folder(request.workdir, number),
        streams=request.streams,
        devices=request.devices if request.devices and targets % request.devices == 0 else None,
    )


def choice_folder(workdir: str | pathlib.Path, number: int) -> pathlib.Path:
    """Return the folder of one of the fits that choose for the run in a folder."""
    return pathlib.Path(workdir) / CHOICE_FOLDER / str(number)


def errors_by_step(fitted: Fitted) -> dict[int, float]:
    """Step -> the sum of the errors on the conditions that a fold left out; 0 is the start."""
    number, history = len(fitted.validation_errors), fitted.history
    start = sum(errors["start"] for errors in fitted.validation_errors.values())
    name = "validation_energy_distance"
    return {0: start} | {entry["step"]: number * entry[name] for entry in history if name in entry}


def best_step(folds: Sequence[dict[int, float]]) -> int:
    """Find after how many steps the conditions of all folds were predicted best, by their `errors_by_step`."""
    steps = sorted({step for errors in folds for step in errors})
    # one that ended early, by its patience, stays where it was
    total = {step: sum(errors[max(s for s in errors if s <= step)] for errors in folds) for step in steps}
    return min(steps, key=lambda step: total[step])
