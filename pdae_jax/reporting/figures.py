"""The figures of a run, each with its caption."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from pdae_jax.cells import evenly_spaced
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.counts import CountedCells, counted
from pdae_jax.evaluation.summary import COMPARED, judged_split, summary_table
from pdae_jax.evaluation.table import MODEL
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import Prediction
from pdae_jax.reporting import plots, screens
from pdae_jax.runs.files import written
from pdae_jax.types import PerturbationData, Table

MIN_FEATURES_OF_SCREENS = 20  # of which embeddings, violins and volcanoes are drawn
MOST_CONDITIONS = 40  # of a figure; of more, some evenly spaced
MOST_NAMED = 12  # conditions in latent space
_SHOWN_CELLS = 2000


class Captioned(NamedTuple):
    """A figure, and what it shows."""

    figure: Figure
    caption: str


def figures_of(
    fitted: Fitted | Ensemble, test: PerturbationData | None, table: Table, predictions: Sequence[Prediction]
) -> dict[str, Captioned]:
    """Draw a run: errors, losses and latents, and the cells of some predictions beside the measured ones.

    Args:
        fitted: its model; of an ensemble, losses and latents are those of the first member.
        test: held-out conditions.
        table: of `evaluate`.
        predictions: of test conditions, each of which gets figures of its own.

    Returns:
        Name -> figure and caption, in the order of the report.
    """
    split, member = judged_split(table), fitted.members[0]
    which = "held-out conditions: model, baselines, ceiling" if split == "test" else f"{split} conditions"
    figures = {
        "energy_distance": Captioned(
            plots.condition_dots(_some_conditions(table), split=split),
            f"Energy distance to the true cells of {which}",
        ),
        "loss": Captioned(
            plots.loss_curves(member.history, kept_step=member.kept_step),
            "Loss terms, and the energy distance on validation conditions, while training",
        ),
        "latent": Captioned(_latent_figure(member), "Training cells in latent space"),
    }
    best = summary_table(table, split=split).attrs["best_baseline"] or COMPARED[0]
    for number, prediction in enumerate(predictions):
        assert test is not None
        drawn = _figures_of_prediction(fitted, test, prediction, best)
        figures |= {f"{name}_{number}": each for name, each in drawn.items()}
    return figures


def _figures_of_prediction(
    fitted: Fitted | Ensemble, test: PerturbationData, prediction: Prediction, baseline: str
) -> dict[str, Captioned]:
    """Draw predicted cells of one condition, and those of a baseline, beside measured ones."""
    train, key, name = fitted.train, jax.random.key(fitted.seed), prediction.condition
    predicted, true = prediction.samples[:_SHOWN_CELLS], test.cells(name)[:_SHOWN_CELLS]
    source = None if prediction.source == "all" else prediction.source
    floor = 0.0 if fitted.recipe.nonnegative else None
    of_baseline = BASELINES[baseline](key, train, prediction.label, len(predicted), source=source, floor=floor)
    samples = {MODEL: predicted, baseline: of_baseline}
    titled = {"features": test.features, "title": name}
    figures = {
        "density": Captioned(plots.densities_2d(true, samples, **titled), f"{name}: true and predicted densities"),
        "marginals": Captioned(plots.marginals(true, samples, **titled), f"{name}: true and predicted marginals"),
    }
    if test.num_features >= MIN_FEATURES_OF_SCREENS:
        control = train.x[train.rows[train.index(train.control)][:_SHOWN_CELLS]]
        figures |= _screen_figures(true, predicted, control, test.features, name)
    if prediction.size_factors is not None and test.size_factors is not None:
        whole = CountedCells(prediction.counts(key), prediction.size_factors)
        measured = counted(test, test.rows[test.index(name)])
        figures["counts"] = Captioned(
            plots.count_laws(whole, measured, title=name), f"{name}: true and predicted counts"
        )
    return figures


def save_figures(
    path: pathlib.Path,
    figures: Mapping[str, Figure],
    *,
    formats: Sequence[str] = (),
    dpi: int = 300,
    width: float | int | None = None,
) -> None:
    """Write figures into a folder.

    Args:
        path: the folder, which is made.
        figures: name -> figure.
        formats: file endings that matplotlib knows, such as ``"pdf"`` and ``"svg"``, beside ``"png"``, always written.
        dpi: points per inch, of clouds of cells in other formats too.
        width: millimetres; type keeps its size. None: 85, a column.
    """
    path.mkdir(exist_ok=True)
    for name, figure in figures.items():
        if width is not None:
            figure.set_size_inches(width / 25.4, figure.get_figheight())
        for ending in ("png", *formats):
            with written(path / f"{name}.{ending}") as file:
                figure.savefig(file, format=ending, dpi=dpi)


def _screen_figures(
    true: np.ndarray, predicted: np.ndarray, control: np.ndarray, features: Sequence[str], condition: str
) -> dict[str, Captioned]:
    """Draw one condition of a screen of many features."""
    parts = (true, predicted, control, features)
    return {
        "embedding": Captioned(
            screens.embedding(*parts, title=condition),
            f"{condition}: measured and predicted cells in one embedding",
        ),
        "violins": Captioned(
            screens.violins(*parts, title=condition),
            f"{condition}: the features that change most",
        ),
        "volcano": Captioned(
            screens.volcano(*parts, title=condition),
            f"{condition}: features that differ from the control, measured and predicted",
        ),
    }


def _some_conditions(table: Any) -> Any:
    """Choose at most `MOST_CONDITIONS` test conditions, from those predicted best to those predicted worst."""
    ranked = table[
        (table["split"] == judged_split(table)) & (table["method"] == MODEL) & (table["metric"] == "energy_distance")
    ]
    names = [str(name) for name in ranked.sort_values("value")["condition"].unique()]
    return table[table["condition"].isin(_evenly_spaced(names, MOST_CONDITIONS))]


def _evenly_spaced(names: Sequence[str], most: int) -> list[str]:
    """Choose at most so many of the names, with the first and the last."""
    return [str(names[row]) for row in evenly_spaced(len(names), most)]


def _latent_figure(fitted: Fitted) -> Figure:
    train = fitted.train.select(_evenly_spaced(fitted.train.conditions, MOST_NAMED))
    train = train.take(np.sort(np.concatenate([rows[:_SHOWN_CELLS] for rows in train.rows])))
    latents = fitted.encode(train.x[:])
    centres = np.stack([latents[rows].mean(axis=0) for rows in train.rows])
    return plots.latent_space(latents, train.condition_index, train.conditions, centres=centres)
