"""How much of the dependence between features is there to be gained on real cells, and does anything gain it?

python experiments/lab/dependence.py --kinds=bodenmiller,norman_devel        minutes on 2 CPU cores
python experiments/lab/dependence.py --kinds=gbm_panobinostat --gbm=FILE     `.npz` with counts, patient, condition
python experiments/lab/dependence.py --fit                                   the default recipe too, a fit a condition

Each combination is held out in turn, and residuals (cells less their mean) are put at one mean: the true one, which
says what no better mean can mend, or that of `ridge`. Of the ``source``, whose cells the model translates; of all
``perturbed`` training conditions; of the training condition with the ``nearest`` mean; of the measured ``parts`` of the
label. ``added``, ``log added``: of the source, transformed in principal components (optimal transport of Gaussians) to
the covariance, or its logarithm, that adds up over labels (least squares over training conditions). ``own``: to that of
the held-out cells themselves, which no linear map beats. Rows ``pdae`` do the same with cells that the trained model
translates. Settings, and the ``chosen`` method, are those with the smallest energy distance on left-out training
combinations at their true means; the source, where nothing is better by a standard error. *excess*: mean squared
difference of correlations without what sampling adds, from products of two halves of both samples.
"""

import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import app, flags, logging
from scipy.spatial.distance import cdist, pdist

from experiments.lab.cases import combinations
from experiments.lab.covariances import FORMS, floored, with_covariance
from pdae_jax import fit, hold_out, predict
from pdae_jax.design.design import design_of
from pdae_jax.design.span import determined_by_others, least_squares
from pdae_jax.evaluation.baselines import predicted_means, principal_components
from pdae_jax.evaluation.metrics import CORRELATED_FEATURES, correlations
from pdae_jax.model.choice import better
from pdae_jax.prediction.samples import Prediction
from pdae_jax.types import PerturbationData
from pdae_jax.view.lattice import as_measured

KINDS = flags.DEFINE_list("kinds", ["bodenmiller", "norman_devel"], "data sets")
GBM = flags.DEFINE_string("gbm", None, "file of the glioblastoma slices")
FIT = flags.DEFINE_boolean("fit", False, "train the model as well")
OUT = flags.DEFINE_string("table", "runs/dependence.csv", "where rows go")

CELLS, HALVES = 500, 10  # of each sample of an energy distance; random halvings of an excess
COMPONENTS, SHARES = (5, 14), (0.25, 0.5, 1.0)  # of a change of covariance
LEFT_OUT = 6  # training combinations that choose


class Held(NamedTuple):
    """A condition that is predicted, the data without it, and whose cells are moved."""

    name: str
    label: np.ndarray
    true: np.ndarray
    train: PerturbationData
    source: str

    @classmethod
    def out(cls, data: PerturbationData, name: str, source: str) -> "Held":
        """Take a condition out."""
        train = data.select([c for c in data.conditions if c != name])
        return cls(name, data.label(name), data.cells(name), train, source)

    def ridge_mean(self) -> np.ndarray:
        """Find the mean of the source's cells where `ridge` moves them."""
        row, model, label = design_of(self.train).row, predicted_means(self.train), self.train.label(self.source)
        return self.train.cells(self.source).mean(0) + model.predict(row(self.label)) - model.predict(row(label))


def residuals(train: PerturbationData, names: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Take cells of conditions less their means, as many of each, and their size factors."""
    random, rows = np.random.default_rng(0), [train.rows[train.index(c)] for c in names]
    most = min(map(len, rows)) if len(names) < 3 else max(2000 // len(names), 20)
    rows = [random.permutation(r)[:most] if len(names) > 1 else r for r in rows]
    x = np.concatenate([train.x[r] - train.cells(c).mean(0) for r, c in zip(rows, names, strict=True)])
    return x, train.sizes(np.concatenate(rows))


def reshaped(held: Held, train: PerturbationData, x: np.ndarray) -> dict[str, np.ndarray]:
    """Give cells the covariances that add up over labels, and that of the held-out cells."""
    found, weight, row = {}, np.sqrt(train.counts)[:, None], train.index(held.source)
    for number, (form, (to, back)) in itertools.product(COMPONENTS, FORMS.items()):
        basis = principal_components(train, number)
        each = np.stack([to(np.cov(train.cells(c) @ basis, rowvar=False)) for c in train.conditions])
        change = (each - each[train.index(train.control)]).reshape(len(each), -1)
        slopes = least_squares(weight * train.labels, weight * change)
        moved = ((held.label - train.labels[row]) @ slopes).reshape(each[row].shape)
        for share in SHARES:
            found[f"{form}, {number}, {share}"] = with_covariance(x, basis, back(each[row] + share * moved))
    basis = principal_components(train, min(train.num_features, len(held.true) // 3))
    return found | {"own": with_covariance(x, basis, floored(np.cov(held.true @ basis, rowvar=False)))}


def predictions(held: Held, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Put the residuals of every method at a mean; of counts to whole numbers, as predictions are."""
    train, key = held.train, jax.random.key(0)
    of_mean = {c: np.linalg.norm(train.cells(c).mean(axis=0) - mean) for c in train.conditions}
    perturbed = [c for c in train.conditions if c != train.control]
    inside = ((train.labels == 0) | (train.labels == held.label)).all(axis=1) & (train.labels != 0).any(axis=1)
    parts = [train.conditions[i] for i in np.flatnonzero(inside)]
    groups = {"perturbed": perturbed, "nearest": [min(of_mean, key=of_mean.__getitem__)], "parts": parts}
    found = {name: residuals(train, of) for name, of in groups.items() if of}
    x, sizes = found["source"] = residuals(train, [held.source])
    found |= {name: (moved, sizes) for name, moved in reshaped(held, train, x).items()}
    return {name: as_measured(key, moved + mean, of) for name, (moved, of) in found.items()}


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the U form of some cells of each."""
    x, y = (np.random.default_rng(0).permutation(a)[:CELLS].astype(np.float64) for a in (x, y))
    return float(2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean())


def measures(x: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Compute the energy distance, the error of correlations as `evaluate` does, and its excess."""
    rows, random = np.argsort(-true.var(axis=0), kind="stable")[:CORRELATED_FEATURES], np.random.default_rng(0)
    upper, excess, samples = np.triu_indices(len(rows), 1), [], (x[:, rows], true[:, rows])
    error = np.sqrt(np.mean((correlations(samples[0]) - correlations(samples[1]))[upper] ** 2))
    for _ in range(HALVES):
        halves = [np.array_split(random.permutation(a), 2) for a in samples]
        one, other = (correlations(a)[upper] - correlations(b)[upper] for a, b in zip(*halves, strict=True))
        excess.append(np.mean(one * other))
    found = {"correlation_error": error, "excess": np.mean(excess), "energy_distance": energy_distance(x, true)}
    return {name: float(value) for name, value in found.items()}


def choices(train: PerturbationData, source_of_pair: Callable) -> Mapping[str, str]:
    """Find the best setting of each form, and the best method, on left-out training combinations."""
    able = determined_by_others(train.labels) & (np.count_nonzero(train.labels, axis=1) > 1)
    errors = []
    for row in np.random.default_rng(0).permutation(np.flatnonzero(able))[:LEFT_OUT]:
        left = Held.out(train, train.conditions[row], source_of_pair(train.conditions[row]))
        errors.append({m: energy_distance(x, left.true) for m, x in predictions(left, left.true.mean(axis=0)).items()})
    table: Any = pd.DataFrame(errors).drop(columns="own")
    gain = table.sub(table["source"], axis=0).mean().sort_values()
    able = [m for m in gain.index if better(*table[[m, "source"]].dropna().to_numpy().T)]
    best = {form: next(m for m in gain.index if m.startswith(form)) for form in FORMS}
    return best | {"chosen": next(iter(able), "source")}


def rows_of(held: Held, source_of_pair: Callable, validating: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Measure every method at the true mean and at that of `ridge`, and what bounds them."""
    train, best = held.train, choices(held.train, source_of_pair)
    made = {of: predictions(held, m) for of, m in {"true": held.true.mean(0), "ridge": held.ridge_mean()}.items()}
    if FIT.value:
        made["pdae"] = translated(held, validating)
    for of, cells in made.items():
        for name in ("source", "perturbed", "nearest", "parts", *best, "own"):
            setting = best.get(name, name)
            if name == "chosen" or setting in cells:  # the label may have no measured parts
                x = cells.get(setting, cells["source"])
                yield {"mean": of, "method": name, "setting": setting, **measures(x, held.true)}
    few = [np.random.default_rng(0).permutation(r)[: max(2000 // train.num_conditions, 20)] for r in train.rows]
    halves = np.array_split(np.random.default_rng(1).permutation(held.true), 2)
    yield {"mean": "-", "method": "pool_all", **measures(train.x[np.concatenate(few)], held.true)}
    yield {"mean": "-", "method": "oracle_half", **measures(*halves)} | {"excess": 0.0}


def translated(held: Held, validating: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Train the default recipe, and translate two groups of cells; none twice, as copies are no other cells."""
    train, validation = hold_out(held.train, list(validating))
    source = {c: s for c, s in validating.items() if s != train.control}
    fitted = fit(train, key=jax.random.key(0), validation=validation, source=source, progress=False)

    def of(name: str, number: int = 2) -> Prediction:
        return predict(fitted, held.label, key=jax.random.key(1), num_samples=number, source=name)

    own, near = (of(c, min(2000, len(train.cells(of(c).source)))) for c in (held.source, "nearest"))
    shaped = reshaped(held, train, own.samples)
    found = {name: as_measured(jax.random.key(0), x, own.size_factors) for name, x in shaped.items()}
    return found | {"source": own.samples, "nearest": near.samples}


def main(_):
    logging.set_verbosity(logging.ERROR)
    found, path = [], pathlib.Path(OUT.value)
    for kind in KINDS.value:
        for data, name, source, judged in combinations(kind, GBM.value):
            rows = rows_of(Held.out(data, name, source(name)), source, {c: source(c) for c in judged})
            found += [{"kind": kind, "condition": name, **row} for row in rows]
    table = pd.DataFrame(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6g")
    values = ["correlation_error", "excess", "energy_distance"]
    means: Any = table.groupby(["kind", "mean", "method"], sort=False)[values]
    print(means.mean().to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    app.run(main)
