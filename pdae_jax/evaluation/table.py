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
from jaxtyping import Array, Float, Int

from pdae_jax.data.checks import aligned
from pdae_jax.data.units import condition_means
from pdae_jax.evaluation.baselines import BASELINES
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
    rows_of,
    scaled,
    values_of,
)
from pdae_jax.labels import count_perturbations
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import predict
from pdae_jax.prediction.source import resolve_source
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.randomness import make_random
from pdae_jax.runs.track import Progress, make_progress
from pdae_jax.spelling import first_names, nearest_names
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


class Case(NamedTuple):
    """One condition to be predicted."""

    split: str
    condition: str
    label: Float[np.ndarray, " perturbations"]
    data: PerturbationData  # that the condition is of
    rows: Int[np.ndarray, " n"]  # of its cells


class Request(NamedTuple):
    """What is asked for, the same for every condition."""

    num_samples: int
    source: str | Mapping[str, str]
    methods: Mapping[str, Callable]  # baselines and further ones
    metrics: tuple[str, ...]


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
    methods: Mapping[str, Callable] | None = None,
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
            baselines are, with the same keys. ``{"compositional": fit_compositional(train, key=key).samples}``.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        devices: of this process, that share the conditions: each evaluates one at a time, with a thread of its own.
            The numbers are those of one device to rounding. Default one.

    Returns:
        A pandas DataFrame, one row per condition, method and metric: ``condition, split, method, metric, value,
        n_true, n_pred, seed``, then ``order`` (number of perturbations), ``in_training`` (the label was trained on),
        ``source``, ``reach`` (of the model's samples beyond the measured range, see `predict.reach_of`), ``bandwidth``
        (of the MMD kernel, on its rows), and the verdict on the model's prediction:
        ``verdict, identified, supported, tested, dose_status`` as text, ``residual, leverage, latent_rank, outside,
        tested_error, expected_error, source_disagreement, replica_disagreement`` as numbers. ``scaled`` is
        :math:`(u - b) / (r - b)` of a value `u`, with `b` that of the mean response (`pool_all`: cells of all training
        conditions) and `r` that of the ceiling: 0 is no better than the mean response, 1 as good as measuring again;
        NaN for metrics without such a scale, and where `r` and `b` differ by less than two standard deviations of `r`.
        ``scaled_noise`` is the standard deviation of `r` over halvings, on that scale.

    Raises:
        ValueError: test data with other features or perturbations, without a perturbed condition, or with fewer
            than two cells in one; an unknown name of a baseline, metric or split; a method with the name of another;
            `num_samples` below 2; more `devices` than there are.
    """
    import pandas as pd

    request = Request(
        num_samples=num_samples,
        source=source,
        methods=_methods(_known_names("baseline", baselines, tuple(BASELINES)), methods or {}),
        metrics=_known_names("metric", metrics, METRIC_NAMES),
    )
    splits = _known_names("split", splits, SPLITS)
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples}, but distances need at least 2 samples.")
    sharing = [] if devices is None else local_devices(devices)
    test = None if test is None else aligned(test, fitted.train, "test")
    if key is None:
        key = jax.random.fold_in(jax.random.key(fitted.seed), zlib.crc32(b"evaluate"))
    parts = {"test": test, "validation": fitted.validation, "train": fitted.train}
    cases = [case for split, data in parts.items() if data and split in splits for case in _cases(split, data)]
    if not cases:
        raise ValueError(f"No condition to evaluate: there are none of {', '.join(splits)}. Pass test data.")
    if most_in_sample is not None:
        cases = _fewer_in_sample(cases, most_in_sample)
    if not isinstance(source, str):
        every = [case for split, data in parts.items() if data for case in _cases(split, data)]
        request = request._replace(source=_sources(source, every, fitted.train))
    known = _known_means(parts)
    _warn_of_seen([case for case in cases if case.split == "test"], fitted)

    def rows_of_case(case: Case) -> list[dict[str, Any]]:
        return _rows(jax.random.fold_in(key, zlib.crc32(case.condition.encode())), fitted, case, known, request)

    found = on_devices(rows_of_case, cases, sharing) if sharing else map(rows_of_case, cases)
    return pd.DataFrame(_collected(found, len(cases), progress))


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


def _sources(source: Mapping[str, str], cases: Sequence[Case], train: PerturbationData) -> dict[str, str]:
    """Sources by the names of their conditions, in whatever order the mapping has their perturbations."""
    found = {}
    for name, start in source.items():
        same = [case.condition for case in cases if case.condition == name]
        with contextlib.suppress(KeyError):
            same = same or [case.condition for case in cases if np.array_equal(case.label, train.label(name))]
        if not same:
            near = nearest_names(name, [case.condition for case in cases])
            raise KeyError(f"source names {name!r}, no condition of this evaluation; {near}.")
        found |= dict.fromkeys(same, start)
    return found


def _fewer_in_sample(cases: Sequence[Case], most: int) -> list[Case]:
    """The cases with at most so many training conditions."""
    trained = [case for case in cases if case.split == "train"]
    chosen = np.linspace(0, len(trained) - 1, min(most, len(trained))).astype(int)
    return [*(case for case in cases if case.split != "train"), *(trained[row] for row in chosen)]


def _cases(split: str, data: PerturbationData) -> Iterator[Case]:
    """The perturbed conditions of a split."""
    if not np.any(data.labels):
        raise ValueError(
            f"The {split} data have no perturbed condition to evaluate; their conditions are "
            f"{list(data.conditions[:5])}. Pass conditions that pdae_jax.hold_out held out."
        )
    for condition, label, rows in zip(data.conditions, data.labels, data.rows, strict=True):
        if np.any(label) and len(rows) < 2:
            raise ValueError(
                f"Condition {condition!r} of the {split} data has {len(rows)} cells; a distribution needs at least 2. "
                f"Leave it out with data.select."
            )
        if np.any(label):
            yield Case(split, condition, label, data, rows)


def _warn_of_seen(cases: Sequence[Case], fitted: Fitted | Ensemble) -> None:
    """Says which test conditions were trained on or chose the last step, by their labels."""
    for part, data in {"trained on": fitted.train, "used for validation": fitted.validation}.items():
        seen = [case.condition for case in cases if data and len(rows_of(data.labels, case.label))]
        if seen:
            logging.warning(
                "Test conditions that were %s: %s. They say nothing of unseen ones.", part, first_names(seen)
            )


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

    def result_of(name: str, x: np.ndarray) -> Result:
        return Result(name, values_of(key_test, x, true, own, request.metrics), len(true), len(x))

    results = {MODEL: result_of(MODEL, prediction.samples)}
    results |= {name: result_of(name, samples_of(method)) for name, method in request.methods.items()}
    ceiling = ceiling_of(key_ceiling, shuffled, own, request.metrics)
    results[CEILING] = ceiling
    base = results.get(MEAN_RESPONSE) or result_of(MEAN_RESPONSE, samples_of(BASELINES[MEAN_RESPONSE]))
    scale = {n: (base.values[n], ceiling.values[n]) for n in request.metrics if n not in UNSCALED}
    about = {
        "seed": fitted.seed,
        "order": int(count_perturbations(case.label[None], fitted.train.perturbations, fitted.train.strata)[0]),
        "in_training": len(rows_of(fitted.train.labels, case.label)) > 0,
        "source": source,
        "reach": prediction.reach,
        **_verdict_columns(prediction.verdict),
    }
    rows = [row for result in results.values() for row in _result_rows(case, result, about, context.bandwidth)]
    return [row | scaled(row, scale, ceiling.noise or {}) for row in rows]


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
    cases = [case for split, data in parts.items() if data for case in _cases(split, data)]
    means = [condition_means(case.data)[case.data.index(case.condition)] for case in cases]
    return KnownMeans(np.stack([case.label for case in cases]), np.stack(means))


def _methods(baselines: Sequence[str], further: Mapping[str, Callable]) -> dict[str, Callable]:
    for name in further:
        if name in (MODEL, CEILING, *BASELINES):
            raise ValueError(f"methods names {name!r}, which the table has already. Give the method another name.")
    return {**{name: BASELINES[name] for name in baselines}, **further}


def _known_names(what: str, names: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"{what}s={names!r} is a string. Pass a list of names, [{names!r}].")
    for name in names or ():
        if name not in known:
            raise ValueError(f"Unknown {what} {name!r}. Pass some of {', '.join(known)}.")
    return known if names is None else tuple(names)
