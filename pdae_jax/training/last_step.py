"""After how many steps a fit ends, where no validation conditions say it: chosen by combinations that are left out.

Fits without some of the combinations, in turn (folds), say after how many steps these were predicted best, and whether
training helped them at all. The fit proper then takes all conditions, and as many steps.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.design.design import design_of
from pdae_jax.design.split import hold_out
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import make_random
from pdae_jax.runs.folder import CHOICE_FOLDER
from pdae_jax.training.requests import Request
from pdae_jax.types import PerturbationData

MIN_COMBINATIONS = 5  # that the other training conditions determine: with fewer nothing is left out to choose the end
_LEFT_OUT = 0.2  # of them, in a fold
_MOST_LEFT_OUT = 40
_ENOUGH = 10  # combinations judge, where there are so many: a single one would say little
_CHOICE = 7  # folded into the key of the fit


def folds_to_leave_out(train: PerturbationData, key: Array) -> list[list[str]]:
    """Names of combinations whose labels the rest determines, a fifth of them in each fold; none where they are few.

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


def folds_of(request: Request) -> list[list[str]]:
    """Names of the combinations that each fit leaves out which chooses the last step of the one that is asked for."""
    # once by the key that the cells of the start were drawn with
    key = request.key if request.streams == 1 else jax.random.fold_in(request.root, _CHOICE)
    return folds_to_leave_out(request.train, key)


def fold_of(request: Request, left_out: Sequence[str], number: int) -> Request:
    """One of the fits that choose the last step of the one that is asked for, with its recipe."""
    train, validation = hold_out(request.train, left_out)
    return Request(
        train,
        jax.random.fold_in(jax.random.fold_in(request.root, _CHOICE), number),
        request.recipe,
        validation,
        workdir=None if request.workdir is None else choice_folder(request.workdir, number),
        streams=request.streams,
    )


def choice_folder(workdir: str | pathlib.Path, number: int) -> pathlib.Path:
    """Of one of the fits that choose for the run in a folder."""
    return pathlib.Path(workdir) / CHOICE_FOLDER / str(number)


def errors_by_step(fitted: Fitted) -> dict[int, float]:
    """Step -> the sum of the errors on the conditions that a fold left out; 0 is the start."""
    number, history = len(fitted.validation_errors), fitted.history
    start = sum(errors["start"] for errors in fitted.validation_errors.values())
    name = "validation_energy_distance"
    return {0: start} | {entry["step"]: number * entry[name] for entry in history if name in entry}


def best_step(folds: Sequence[dict[int, float]]) -> int:
    """After how many steps the conditions of all folds were predicted best, by their `errors_by_step`."""
    steps = sorted({step for errors in folds for step in errors})
    # one that ended early, by its patience, stays where it was
    total = {step: sum(errors[max(s for s in errors if s <= step)] for errors in folds) for step in steps}
    return min(steps, key=lambda step: total[step])
