r"""Means of held-out RNAi pairs: the model against the sum of singles, the two-way fit and the noise of a pair mean.

python experiments/lab/mapk_rnai.py --workdir=runs/mapk_rnai

Prints, and writes to pair_means.csv in the run folder, the root mean square error and the correlation of predicted
means of pairs, per feature, with 95 % intervals of the ratio to the sum of singles and to the two-way fit (paired
bootstrap over pairs).

additive            mean of single A + mean of single B - mean of control
linear_regression   least squares of condition means on labels, all training conditions
two_way             the same on training pairs alone: a grand mean and one effect per gene
pdae                mean of translated training wells (--source)
noise_of_wells      :math:`\sqrt{\overline{s^2/n}}` with the variance `s^2` of the n wells of a pair. Too large for a
                    floor: it counts what differs between the two dsRNAs of a gene and between screens, which averages
                    out over the wells of a pair in the same way for all pairs
noise_of_screens    half the difference of a pair's means in the two screens, after one effect per gene on that
                    difference (fitted to the training pairs) is taken off: what does not repeat between screens
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import app, flags, logging
from jaxtyping import Float

from pdae_jax import load_run
from pdae_jax.compiled import cache_compilations
from pdae_jax.data.datasets import mapk_rnai
from pdae_jax.data.moments import condition_means
from pdae_jax.evaluation.baselines import additive_shift
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import predict_batches
from pdae_jax.runs import folder
from pdae_jax.runs.store import load_data
from pdae_jax.runs.track import make_progress
from pdae_jax.types import PerturbationData

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a finished run of configs/mapk_rnai.py", required=True)
SOURCE = flags.DEFINE_string("source", "all", "whose wells the model translates: all, control, nearest, or a condition")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 4096, "translated wells per pair")

TABLE_FILE = "pair_means.csv"
NUM_RESAMPLES = 2000


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    workdir = pathlib.Path(WORKDIR.value)
    fitted, test = load_run(workdir), load_data(workdir / folder.TEST_FILE)
    options = json.loads((workdir / folder.CONFIG_FILE).read_text())["config"].get("data", {})
    tables = []
    for split, data in (("validation", fitted.validation), ("test", test)):
        if data is not None:
            predicted = predict_means(fitted, data, source=SOURCE.value, num_samples=NUM_SAMPLES.value)
            noise = noises(fitted.train, data, {name: value for name, value in options.items() if name != "name"})
            tables.append(error_table(predicted, noise, data).assign(split=split))
    table = pd.concat(tables, ignore_index=True)
    temporary = workdir / f".{TABLE_FILE}.partial"
    table.to_csv(temporary, index=False)
    temporary.replace(workdir / TABLE_FILE)
    print(show(table))
    print(f"\nTable: {workdir / TABLE_FILE}")


def predict_means(
    fitted: Fitted, data: PerturbationData, *, source: str, num_samples: int
) -> dict[str, Float[np.ndarray, "pairs features"]]:
    """Method -> predicted mean of every condition of `data`, of which only the labels are looked at."""
    train, labels = fitted.train, data.labels.astype(np.float64)
    pairs = np.count_nonzero(train.labels, axis=1) == 2
    control = condition_means(train)[train.index(train.control)]
    return {
        "additive": control + np.stack([additive_shift(train, label) for label in data.labels]),
        "linear_regression": main_effects(train.labels, condition_means(train), labels),
        "two_way": main_effects(train.labels[pairs], condition_means(train)[pairs], labels),
        "pdae": _model_means(fitted, data, source, num_samples),
    }


def main_effects(
    labels: Float[np.ndarray, "train genes"],
    means: Float[np.ndarray, "train features"],
    new_labels: Float[np.ndarray, "pairs genes"],
) -> Float[np.ndarray, "pairs features"]:
    """Least squares with intercept of means on labels, at new labels."""
    coefficients = np.linalg.lstsq(_design(labels), means, rcond=None)[0]
    return _design(new_labels) @ coefficients


def noises(
    train: PerturbationData, data: PerturbationData, options: dict[str, Any]
) -> dict[str, Float[np.ndarray, "pairs features"]]:
    """Two estimates of the noise of the mean of every pair, see above; `options` are those of the data set."""
    variance = np.stack([data.cells(name).var(axis=0, ddof=1, dtype=np.float64) for name in data.conditions])
    found = {"noise_of_wells": np.sqrt(variance / data.counts[:, None])}
    if options.get("screen") is None and not options.get("positive_controls"):
        first, second = (mapk_rnai(**{**options, "screen": screen, "center": True}) for screen in (1, 2))

        def half_difference(names: list[str]) -> np.ndarray:
            ones, twos = condition_means(first.select(names)), condition_means(second.select(names))
            return (ones - twos) / 2

        pairs = np.count_nonzero(train.labels, axis=1) == 2
        names = [name for name, pair in zip(train.conditions, pairs, strict=True) if pair]
        explained = main_effects(train.labels[pairs], half_difference(names), data.labels)
        found["noise_of_screens"] = half_difference(list(data.conditions)) - explained
    return found


def error_table(
    predicted: dict[str, np.ndarray], noise: dict[str, np.ndarray], data: PerturbationData, *, seed: int = 0
) -> Any:
    """One row per method and feature; see the head of this file.

    Columns: ``method, feature, rmse, correlation``, then ``over_<reference>``, ``_low`` and ``_high``: the ratio of the
    errors to those of ``additive`` and of ``two_way``, with 95 % intervals over pairs drawn with replacement, for both
    methods alike. Pairs share genes, so that intervals of new genes would be wider.
    """
    true = condition_means(data)
    squares = {name: (means - true) ** 2 for name, means in predicted.items()}
    squares |= {name: values**2 for name, values in noise.items()}
    draws = np.random.default_rng(seed).integers(len(true), size=(NUM_RESAMPLES, len(true)))
    rows = []
    for name, square in squares.items():
        for j, feature in enumerate(data.features):
            row = {"method": name, "feature": feature, "rmse": np.sqrt(square[:, j].mean())}
            row["correlation"] = np.corrcoef(predicted[name][:, j], true[:, j])[0, 1] if name in predicted else np.nan
            for reference in ("additive", "two_way"):
                base = squares[reference][:, j]
                ratios = np.sqrt(square[draws, j].mean(axis=1) / base[draws].mean(axis=1))
                row[f"over_{reference}"] = row["rmse"] / np.sqrt(base.mean())
                row[f"over_{reference}_low"], row[f"over_{reference}_high"] = np.quantile(ratios, [0.025, 0.975])
            rows.append({**row, "num_pairs": len(true)})
    return pd.DataFrame(rows)


def show(table: Any) -> str:
    """For the terminal: the test pairs, one line per method and feature."""
    rows = table[table["split"] == "test"].copy()
    for reference in ("additive", "two_way"):
        numbers = rows[[f"over_{reference}", f"over_{reference}_low", f"over_{reference}_high"]].itertuples(index=False)
        rows[f"/ {reference} (95 %)"] = [f"{ratio:.3f} ({low:.3f} to {high:.3f})" for ratio, low, high in numbers]
    shown = rows[["feature", "method", "rmse", "correlation", *(name for name in rows if name.startswith("/"))]]
    shown = shown.sort_values("feature", kind="stable")
    number = int(rows["num_pairs"].iloc[0])
    return f"{number} held-out pairs\n{shown.to_string(index=False, na_rep='-', float_format='{:.4f}'.format)}"


def _model_means(fitted: Fitted, data: PerturbationData, source: str, num_samples: int) -> np.ndarray:
    key = jax.random.key(fitted.seed)
    means, bar = [], make_progress(None, "predict", "pair")
    for number, label in enumerate(data.labels):
        batches = predict_batches(
            fitted, label, key=jax.random.fold_in(key, number), num_samples=num_samples, source=source
        )
        means.append(np.sum([batch.sum(axis=0, dtype=np.float64) for batch in batches], axis=0) / num_samples)
        bar.update(number + 1, data.num_conditions, float("nan"))
    bar.close()
    return np.stack(means)


def _design(labels: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(labels), 1)), labels.astype(np.float64)], axis=1)


if __name__ == "__main__":
    app.run(main)
