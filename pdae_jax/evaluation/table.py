"""One call, one long table: the model, the baselines and the ceiling, on conditions with their true cells.

Every number is a row; `summary_table` and `format_table`, and all figures, are made from the table alone.
"""

import contextlib
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array

from pdae_jax.compiled import as_door
from pdae_jax.data.checks import aligned
from pdae_jax.evaluation.baselines import BASELINES, default_baselines
from pdae_jax.evaluation.cases import Case, cases_of, fewer_in_sample, sources_of_cases, warn_of_seen
from pdae_jax.evaluation.methods import GivenCells, check_given, further_methods
from pdae_jax.evaluation.metrics import METRICS, P_VALUE_CELLS, Comparison, Reference
from pdae_jax.evaluation.reference import Alternatives, reference_of
from pdae_jax.evaluation.scoring import Scale, Scores, score, score_ceiling
from pdae_jax.evaluation.summary import CEILING, warnings_of
from pdae_jax.model.ensemble import Ensemble, check_model
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import Prediction, predict
from pdae_jax.prediction.source import resolve_source
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.randomness import check_key, make_random
from pdae_jax.runs.track import Progress, make_progress
from pdae_jax.settings import Whole
from pdae_jax.training.devices import local_devices, on_devices
from pdae_jax.two_sample.target import Target
from pdae_jax.types import PerturbationData, Table

MODEL = "pdae"
MEAN_RESPONSE = "pool_all"  # cells of all training conditions: what is predicted without a look at the label
SPLITS = ("train", "validation", "test")
#: Columns with numbers of the verdict, NaN where they are not known.
VERDICT_NUMBERS = (
    "latent_rank",
    "outside",
    "tested_error",
    "expected_error",
    "source_disagreement",
    "replica_disagreement",
)
#: Further columns with numbers, in files written since there are such.
MORE_NUMBERS = ("kept_step", "noise", "out_of_range", "farthest")


class Evaluation(NamedTuple):
    """All that an evaluation does with every condition."""

    fitted: Fitted | Ensemble
    key: Array
    num_samples: int
    source: str | Mapping[str, str]
    methods: Mapping[str, Callable]  # baselines and further ones, `GivenCells` among them
    metrics: tuple[str, ...]
    alternatives: Alternatives


@as_door()
def evaluate(
    fitted: Fitted | Ensemble,
    test: PerturbationData | None,
    *,
    key: Array | None = None,
    num_samples: int = 2000,
    source: str | Mapping[str, str] = "control",
    baselines: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    splits: Sequence[str] = ("test",),
    most_in_sample: int | None = None,
    methods: Mapping[str, Any] | None = None,
    progress: bool | Progress | None = None,
    devices: int | None = None,
) -> Table:
    """Compare predicted with true distributions: the model (``pdae``), baselines, and the ceiling ``oracle_half``.

    The ceiling is the mean over random halvings of the true cells, one half scored against the other. Samples of
    a condition depend on the key and the condition's name, not on which other conditions are evaluated. Where the
    recipe declares non-negative data, baselines are clipped at zero as the model is.

    Args:
        fitted: what `fit`, `fit_ensemble` or `load_run` returned; baselines see its training conditions only.
        test: conditions with true cells, of this data set or of another: columns are found by name. The control is
            skipped, and may be absent. None where nothing was held out, and `splits` has others.
        key: typed PRNG key; default made of ``fitted.seed``.
        num_samples: cells predicted by every method, at most as many as its source has; also the most true cells
            used per condition.
        source: whose cells the model translates, see `predict`; or a mapping from condition to source, the control
            where it has none. Baselines that move cells move the same ones (control cells for ``"all"``).
        baselines: names of `baselines.BASELINES`; default all; ``ridge_additive`` only where ``ridge`` is another one.
        metrics: names of `metrics.METRICS`; default all.
        splits: of ``test``, ``validation`` (the fit's validation conditions, if any) and ``train`` (in-sample).
        most_in_sample: of more training conditions, so many are evaluated, evenly spaced in their order; None: all.
        methods: further methods by name, each a `baselines.Method` or a function called as one; called and tabled as
            baselines are, with the same keys. ``{"compositional": fit_compositional(train, key=key).samples}``. Or an
            AnnData of cells that were predicted elsewhere, ``obs["condition"]`` naming the condition of each; it must
            have all test conditions.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        devices: of this process, that share the conditions: each evaluates one at a time, with a thread of its own.
            The numbers are those of one device to rounding. Default one.

    Returns:
        A pandas DataFrame, one row per condition, method and metric: ``condition, split, method, metric, value,
        n_true, n_pred, seed``, then ``order`` (number of perturbations), ``in_training`` (the label was trained on),
        ``source``, ``reach`` (of the model's samples beyond the measured range, see `prediction.samples.reach_of`),
        ``kept_step`` (of the model's parameters; 0 is the linear start), ``bandwidth`` (of the MMD kernel, on its
        rows), and the verdict on the model's prediction: ``verdict, identified, supported, tested, dose_status`` as
        text, ``residual, leverage, latent_rank, outside, tested_error, expected_error, source_disagreement,
        replica_disagreement`` as numbers. ``scaled`` is
        :math:`(u - b) / (r - b)` of a value `u`, with `b` that of the mean response (`pool_all`: cells of all training
        conditions) and `r` that of the ceiling: 0 is no better than the mean response, 1 as good as measuring again;
        NaN for metrics without such a scale, and where `r` and `b` differ by less than two standard deviations of `r`
        or half of what `r`, which has half of the cells, is itself off the perfect value.
        ``scaled_noise`` is the standard deviation of `r` over halvings, on that scale. ``noise`` is, of energy
        distances, the standard deviation that one of an exact prediction with as many cells has.
        ``out_of_range`` is the share of predicted cells of the method with a value outside the range of training and
        true cells widened by half its width, and ``farthest`` the largest distance of a value from the middle of that
        range in halves of it, 1 being its end. One cell far off is seen there; it hardly changes an energy distance.
        A method with a value that is NaN or infinite has NaN in all metrics.

    Raises:
        TypeError: `fitted` is no model, `key` no typed PRNG key, or a method neither a function nor an AnnData.
        ValueError: test data with other features or perturbations, without a perturbed condition, or with fewer
            than two cells in one; an unknown name of a baseline, metric or split; a method with the name of another;
            `num_samples` below 2; more `devices` than there are.
    """
    import pandas as pd

    check_model(fitted, "evaluate(fitted, test)")
    if key is not None:
        check_key(key)
    num_samples = Whole(2, "distances need at least 2 samples").checked("num_samples", num_samples)
    chosen = _known_names("baseline", baselines, tuple(BASELINES))
    chosen = default_baselines(fitted.train) if baselines is None else chosen
    methods = _methods(chosen, methods or {}, fitted.train)
    if most_in_sample is not None:
        most_in_sample = Whole(0).checked("most_in_sample", most_in_sample)
    metrics, splits = _known_names("metric", metrics, tuple(METRICS)), _known_names("split", splits, SPLITS)
    sharing = [] if devices is None else local_devices(Whole().checked("devices", devices))
    if key is None:
        key = jax.random.fold_in(jax.random.key(fitted.seed), zlib.crc32(b"evaluate"))
    test = None if test is None else aligned(test, fitted.train, "test")
    parts = {"test": test, "validation": fitted.validation, "train": fitted.train}
    every = [case for split, data in parts.items() if data for case in cases_of(split, data)]
    cases = _chosen([case for case in every if case.split in splits], splits, most_in_sample)
    if not isinstance(source, str):
        source = sources_of_cases(source, every, fitted.train)
    tested = [case for case in cases if case.split == "test"]
    check_given(methods, {case.condition: case.label for case in tested})
    warn_of_seen(tested, fitted)
    evaluation = Evaluation(fitted, key, num_samples, source, methods, metrics, Alternatives.of(every))
    rows = functools.partial(_rows, evaluation)
    found = on_devices(rows, cases, sharing) if sharing else map(rows, cases)
    table = pd.DataFrame(_collected(found, len(cases), progress))
    for sentence in warnings_of(table):
        logging.warning("%s", sentence)
    return table


def _chosen(cases: list[Case], splits: Sequence[str], most_in_sample: int | None) -> list[Case]:
    if not cases:
        raise ValueError(f"No condition to evaluate: there are none of {', '.join(splits)}. Pass test data.")
    if most_in_sample is None:
        return cases
    return fewer_in_sample(cases, most_in_sample)


def _collected(found: Iterator[list[dict[str, Any]]], number: int, progress: bool | Progress | None) -> list[Any]:
    """Collect the rows of so many conditions, one after the other; Ctrl-C says what is lost."""
    rows, done = [], 0
    with contextlib.closing(make_progress(progress, "evaluate", "condition")) as bar:
        bar.update(0, number, math.nan)
        try:
            for done, of_case in enumerate(found, 1):
                rows += of_case
                bar.update(done, number, math.nan)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Stopped after {done} of {number} conditions. Their rows are lost, as an evaluation is kept whole or "
                f"not at all; what was on disk is as it was, and the same call begins the evaluation again."
            ) from None
    return rows


def _rows(evaluation: Evaluation, case: Case) -> list[dict[str, Any]]:
    """Evaluate one condition: its rows, one per method and metric."""
    fitted, metrics, most = evaluation.fitted, evaluation.metrics, evaluation.num_samples
    key = jax.random.fold_in(evaluation.key, zlib.crc32(case.condition.encode()))
    key_true, key_model, key_baselines, key_ceiling, key_test = jax.random.split(key, 5)
    shuffled = case.data.x[make_random(key_true).permutation(case.rows)[: 2 * most]]
    true = shuffled[:most]
    # what does not depend on the method is computed once: distances between true cells, relabellings
    target = Target(true, key_test, max_cells=P_VALUE_CELLS)
    reference = reference_of(fitted.train, case.label, evaluation.alternatives, target)
    source = evaluation.source
    source = source if isinstance(source, str) else source.get(case.condition, "control")
    source = resolve_source(fitted, case.label, source).name
    # no cell is moved twice: copies would pass for distinct cells in U forms and permutation tests
    number = min(most, _available(fitted.train, source))
    prediction = predict(fitted, case.label, key=key_model, num_samples=number, source=source)

    def scored(name: str, x: np.ndarray) -> Scores:
        return score(name, Comparison.of(x, target, reference), metrics)

    def of_method(name: str, method: Callable) -> Scores:
        # one key for all: the methods move the same control cells, which makes the comparison a paired one
        return scored(name, _samples_of(method, evaluation, case, key_baselines, source))

    results = {MODEL: scored(MODEL, prediction.samples)}
    for name, method in evaluation.methods.items():
        if not isinstance(method, GivenCells) or method.has(case.label):
            results[name] = of_method(name, method)
    more = len(shuffled) > len(true)
    every = Target(shuffled, key_test, reference.bandwidth, P_VALUE_CELLS) if more else target
    ceiling, noise = score_ceiling(key_ceiling, every, reference, metrics)
    results[CEILING] = ceiling
    base = results.get(MEAN_RESPONSE) or of_method(MEAN_RESPONSE, BASELINES[MEAN_RESPONSE])
    scales = {n: Scale(base.values[n], ceiling.values[n], noise[n]) for n in metrics}
    about = _about(fitted, case, prediction, source)
    return [row for scores in results.values() for row in _rows_of_scores(case, scores, about, reference, scales)]


def _samples_of(method: Callable, evaluation: Evaluation, case: Case, key: Array, source: str) -> np.ndarray:
    """Predict a condition by a baseline or a further method."""
    fitted = evaluation.fitted
    return method(
        key,
        fitted.train,
        case.label,
        min(evaluation.num_samples, _available(fitted.train, _start(method, source))),
        source=None if source == "all" else source,
        floor=0.0 if fitted.recipe.nonnegative else None,
    )


def _about(fitted: Fitted | Ensemble, case: Case, prediction: Prediction, source: str) -> dict[str, Any]:
    """Describe a condition and the model's prediction, in columns that are the same on all its rows."""
    return {
        "seed": fitted.seed,
        "order": int(fitted.design.order(case.label)),
        "in_training": len(fitted.design.find(case.label)) > 0,
        "source": source,
        "reach": prediction.reach,
        "kept_step": _kept_step(fitted),
        **_verdict_columns(prediction.verdict),
    }


def _kept_step(fitted: Fitted | Ensemble) -> float:
    """Find the step of the model's parameters; NaN where it is not known, or replicas have several."""
    found = {member.kept_step for member in fitted.members}
    step = found.pop() if len(found) == 1 else None
    return math.nan if step is None else float(step)


def _start(method: Callable, source: str) -> str:
    """Say whose cells a baseline or a further method takes; a plain function takes those of the source."""
    cells = getattr(method, "cells", "source")
    if cells != "source":
        return cells
    return "control" if source == "all" else source


def _available(train: PerturbationData, source: str) -> int:
    if source == "all":
        return train.num_cells
    return int(train.counts[train.index(train.control if source == "control" else source)])


def _rows_of_scores(
    case: Case, scores: Scores, about: dict[str, Any], reference: Reference, scales: Mapping[str, Scale]
) -> Iterator[dict[str, Any]]:
    for name, value in scores.values.items():
        metric = METRICS[name]
        most = metric.max_cells or max(scores.n_true, scores.n_pred)
        yield {
            "condition": case.condition,
            "split": case.split,
            "method": scores.method,
            "metric": name,
            "value": value,
            "n_true": min(scores.n_true, most),
            "n_pred": min(scores.n_pred, most),
            **about,
            "bandwidth": metric.bandwidth(reference) if metric.bandwidth else math.nan,
            "noise": metric.noise(reference, scores.n_true, scores.n_pred) if metric.noise else math.nan,
            "out_of_range": scores.beyond.share,
            "farthest": scores.beyond.farthest,
            **scales[name].scaled(name, value),
        }


def _verdict_columns(verdict: Verdict) -> dict[str, Any]:
    word = {True: "yes", False: "no", None: "unknown"}
    return {
        "verdict": verdict.level,
        "identified": word[verdict.identified],
        "supported": word[verdict.supported],
        "tested": word[verdict.assumption_tested],
        "dose_status": verdict.dose_status,
        "residual": verdict.residual,
        "leverage": verdict.leverage,
        **{
            name: float("nan") if getattr(verdict, name) is None else getattr(verdict, name) for name in VERDICT_NUMBERS
        },
    }


def _methods(baselines: Sequence[str], further: Mapping[str, Any], train: PerturbationData) -> dict[str, Callable]:
    for name in further:
        if name in (MODEL, CEILING, *BASELINES):
            raise ValueError(f"methods names {name!r}, which the table has already. Give the method another name.")
    return {name: BASELINES[name] for name in baselines} | further_methods(further, train)


def _known_names(what: str, names: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{what}s={names!r} is a string. Pass a list of names, [{names!r}].")
    for name in names or ():
        if name not in known:
            raise ValueError(f"Unknown {what} {name!r}. Pass some of {', '.join(known)}.")
    return known if names is None else tuple(names)
