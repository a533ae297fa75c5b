"""One call, one long table: the model, the baselines and the ceiling, on conditions with their true cells.

Every number is a row; `summary_table` and `format_table`, and all figures, are made from the table alone.
"""

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array

from pdae_jax.compiled import as_written
from pdae_jax.data.checks import aligned
from pdae_jax.data.moments import condition_means
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.cases import Case, cases_of, fewer_in_sample, sources_of_cases, warn_of_seen
from pdae_jax.evaluation.methods import GivenCells, check_given, further_methods
from pdae_jax.evaluation.scoring import (
    CEILING,
    MEAN_RESPONSE,
    METRIC_NAMES,
    P_VALUE_CELLS,
    UNSCALED,
    KnownMeans,
    Result,
    ceiling_of,
    known_of,
    result_of,
    rows_of,
    scaled,
)
from pdae_jax.evaluation.summary import warnings_of
from pdae_jax.labels import count_perturbations
from pdae_jax.model.ensemble import Ensemble, check_model
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import predict
from pdae_jax.prediction.source import resolve_source
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.randomness import check_key, make_random
from pdae_jax.runs.track import Progress, make_progress
from pdae_jax.settings import Whole
from pdae_jax.training.devices import local_devices, on_devices
from pdae_jax.types import PerturbationData, Table

MODEL = "pdae"
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


class Request(NamedTuple):
    """What is asked for, the same for every condition."""

    num_samples: int
    source: str | Mapping[str, str]
    methods: Mapping[str, Callable]  # baselines and further ones, `GivenCells` among them
    metrics: tuple[str, ...]


@as_written()
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
        baselines: names of `baselines.BASELINES`; default all.
        metrics: names of `METRIC_NAMES`; default all.
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
    request = Request(
        num_samples=Whole(2, "distances need at least 2 samples").checked("num_samples", num_samples),
        source=source,
        methods=_methods(_known_names("baseline", baselines, tuple(BASELINES)), methods or {}, fitted.train),
        metrics=_known_names("metric", metrics, METRIC_NAMES),
    )
    splits = _known_names("split", splits, SPLITS)
    sharing = [] if devices is None else local_devices(Whole().checked("devices", devices))
    test = None if test is None else aligned(test, fitted.train, "test")
    if key is None:
        key = jax.random.fold_in(jax.random.key(fitted.seed), zlib.crc32(b"evaluate"))
    parts = {"test": test, "validation": fitted.validation, "train": fitted.train}
    cases = [case for split, data in parts.items() if data and split in splits for case in cases_of(split, data)]
    if not cases:
        raise ValueError(f"No condition to evaluate: there are none of {', '.join(splits)}. Pass test data.")
    if most_in_sample is not None:
        most_in_sample = Whole(0).checked("most_in_sample", most_in_sample)
        cases = fewer_in_sample(cases, most_in_sample)
    if not isinstance(source, str):
        every = [case for split, data in parts.items() if data for case in cases_of(split, data)]
        request = request._replace(source=sources_of_cases(source, every, fitted.train))
    check_given(request.methods, {case.condition: case.label for case in cases if case.split == "test"})
    known = _known_means(parts)
    warn_of_seen([case for case in cases if case.split == "test"], fitted)

    def rows_of_case(case: Case) -> list[dict[str, Any]]:
        return _rows(jax.random.fold_in(key, zlib.crc32(case.condition.encode())), fitted, case, known, request)

    found = on_devices(rows_of_case, cases, sharing) if sharing else map(rows_of_case, cases)
    table = pd.DataFrame(_collected(found, len(cases), progress))
    for sentence in warnings_of(table):
        logging.warning("%s", sentence)
    return table


def _collected(found: Iterator[list[dict[str, Any]]], number: int, progress: bool | Progress | None) -> list[Any]:
    """The rows of so many conditions, one after the other; Ctrl-C says what is lost."""
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


def _rows(
    key: Array, fitted: Fitted | Ensemble, case: Case, known: KnownMeans, request: Request
) -> list[dict[str, Any]]:
    """All rows of one condition."""
    key_true, key_model, key_baselines, key_ceiling, key_test = jax.random.split(key, 5)
    rows = make_random(key_true).permutation(case.rows)[: 2 * request.num_samples]
    shuffled = case.data.x[rows]
    true = shuffled[: request.num_samples]
    own = known_of(fitted.train, case.label, known, true)
    context = own.context
    source = request.source if isinstance(request.source, str) else request.source.get(case.condition, "control")
    source = resolve_source(fitted, case.label, source).name
    # no cell is moved twice: copies would pass for distinct cells in U forms and permutation tests
    number = min(request.num_samples, _available(fitted.train, source))
    prediction = predict(fitted, case.label, key=key_model, num_samples=number, source=source)

    def samples_of(method: Callable) -> np.ndarray:
        # one key for all: the methods move the same control cells, which makes the comparison a paired one
        return method(
            key_baselines,
            fitted.train,
            case.label,
            min(request.num_samples, _available(fitted.train, _start(method, source))),
            source=None if source == "all" else source,
            floor=0.0 if fitted.recipe.nonnegative else None,
        )

    def scored(name: str, x: np.ndarray) -> Result:
        return result_of(name, key_test, x, true, own, request.metrics)

    results = {MODEL: scored(MODEL, prediction.samples)}
    for name, method in request.methods.items():
        if not isinstance(method, GivenCells) or method.has(case.label):
            results[name] = scored(name, samples_of(method))
    ceiling = ceiling_of(key_ceiling, shuffled, own, request.metrics)
    results[CEILING] = ceiling
    base = results.get(MEAN_RESPONSE) or scored(MEAN_RESPONSE, samples_of(BASELINES[MEAN_RESPONSE]))
    scale = {n: (base.values[n], ceiling.values[n]) for n in request.metrics if n not in UNSCALED}
    about = {
        "seed": fitted.seed,
        "order": int(count_perturbations(case.label[None], fitted.train.perturbations, fitted.train.strata)[0]),
        "in_training": len(rows_of(fitted.train.labels, case.label)) > 0,
        "source": source,
        "reach": prediction.reach,
        "kept_step": _kept_step(fitted),
        **_verdict_columns(prediction.verdict),
    }
    rows = [row for result in results.values() for row in _result_rows(case, result, about, context.bandwidth)]
    return [row | scaled(row, scale, ceiling.noise or {}) for row in rows]


def _kept_step(fitted: Fitted | Ensemble) -> float:
    """The step of the model's parameters; NaN where it is not known, or replicas have several."""
    found = {member.kept_step for member in fitted.members}
    step = found.pop() if len(found) == 1 else None
    return math.nan if step is None else float(step)


def _start(method: Callable, source: str) -> str:
    """Whose cells a baseline or a further method takes; a plain function takes those of the source."""
    cells = getattr(method, "cells", "source")
    if cells != "source":
        return cells
    return "control" if source == "all" else source


def _available(train: PerturbationData, source: str) -> int:
    if source == "all":
        return train.num_cells
    return int(train.counts[train.index(train.control if source == "control" else source)])


def _result_rows(case: Case, result: Result, about: dict[str, Any], bandwidth: float) -> Iterator[dict[str, Any]]:
    for metric, value in result.values.items():
        most = P_VALUE_CELLS if metric == "p_value" else max(result.n_true, result.n_pred)
        yield {
            "condition": case.condition,
            "split": case.split,
            "method": result.method,
            "metric": metric,
            "value": value,
            "n_true": min(result.n_true, most),
            "n_pred": min(result.n_pred, most),
            **about,
            "bandwidth": bandwidth if metric == "mmd" else float("nan"),
            "noise": result.distance_noise if metric == "energy_distance" else float("nan"),
            "out_of_range": result.beyond.share,
            "farthest": result.beyond.farthest,
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


def _known_means(parts: Mapping[str, PerturbationData | None]) -> KnownMeans:
    cases = [case for split, data in parts.items() if data for case in cases_of(split, data)]
    means = [condition_means(case.data)[case.data.index(case.condition)] for case in cases]
    return KnownMeans(np.stack([case.label for case in cases]), np.stack(means))


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
