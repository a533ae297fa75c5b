"""From a run folder to what people read: evaluation, predictions, figures, report, all from the folder alone."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pdae_jax.cells import StoredCells
from pdae_jax.design.design import design_of
from pdae_jax.evaluation import identification
from pdae_jax.evaluation.compositional import fit_comparators
from pdae_jax.evaluation.counts import count_diagnostics
from pdae_jax.evaluation.diagnostics import extremes, residual_laws
from pdae_jax.evaluation.identification import Truth, identification_table, load_truth, measure_identification
from pdae_jax.evaluation.summary import format_table, judged_split
from pdae_jax.evaluation.table import MORE_NUMBERS, SPLITS, VERDICT_NUMBERS, evaluate
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.export import to_anndata
from pdae_jax.prediction.samples import Prediction, predict
from pdae_jax.reporting.figures import figures_of, save_figures
from pdae_jax.reporting.overview import describe_data
from pdae_jax.reporting.published import format_published
from pdae_jax.reporting.report import REPORT_FILE, write_report
from pdae_jax.runs import folder
from pdae_jax.runs.files import digest, read_arrays, write_text, written, written_path
from pdae_jax.runs.store import fingerprint, load_data, save_data
from pdae_jax.runs.track import stage
from pdae_jax.training.load import load_model
from pdae_jax.types import PerturbationData, Table

EVALUATION_FILE = "evaluation.csv"
IDENTIFICATION_FILE = "identification.csv"
EXTREMES_FILE = "extremes.csv"
RESIDUALS_FILE = "residual_laws.csv"
COUNTS_FILE = "counts.csv"
PREDICTIONS_FILE = "predictions.h5ad"
FIGURE_FOLDER = "figures"
CAPTION_FILE = "captions.json"  # caption -> figure, in the order of the report

# how results begin, so that a file of somebody else's in their place is known
_BEGINS = {
    EVALUATION_FILE: b"condition,split,method,metric,",
    IDENTIFICATION_FILE: b"quantity,",
    EXTREMES_FILE: b"feature,",
    RESIDUALS_FILE: b"condition,",
    COUNTS_FILE: b"condition,method,cells,",
    PREDICTIONS_FILE: b"\x89HDF",
    REPORT_FILE: b"# Run ",
}

MOST_DETAILED = 3  # test conditions that get pictures of their own
MOST_IN_SAMPLE = 50  # training conditions of an evaluation
_MOST_TESTED = 200  # training conditions whose residuals are tested
_STORED_CELLS = 500  # predicted of a condition, where measured cells do not fit into memory


def save_test(workdir: str | pathlib.Path, test: PerturbationData | None) -> None:
    """Keep held-out conditions with a run that was fitted without them; other ones there are not replaced."""
    path = pathlib.Path(workdir) / folder.TEST_FILE
    if test is None and not path.exists():
        return
    if path.exists() and fingerprint(load_data(path)) != fingerprint(test):
        raise ValueError(
            f"The folder {str(workdir)!r} holds other test conditions, {list(load_data(path).conditions)}. "
            f"Nothing was changed; pass another workdir."
        )
    if test is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_data(path, test)
    folder.keep_part(path.parents[1], folder.TEST_FILE, str(fingerprint(test)))


def save_truth(workdir: str | pathlib.Path, truth: Truth) -> None:
    """Keep the truth of a simulated world with its run."""
    path = pathlib.Path(workdir)
    identification.save_truth(path / folder.TRUTH_FILE, truth)
    folder.keep_part(path, folder.TRUTH_FILE, digest(read_arrays(path / folder.TRUTH_FILE)))


def load_test(path: pathlib.Path, store: str | pathlib.Path | None = None) -> PerturbationData | None:
    """Load the held-out conditions of a run; None where nothing was held out.

    Raises:
        FileNotFoundError: the folder has been evaluated on held-out conditions, and they are gone.
        ValueError: they are those of another run.
    """
    file, table = path / folder.TEST_FILE, path / EVALUATION_FILE
    lost = not file.exists() and table.exists() and judged_split(read_evaluation(path)) == "test"
    if not file.exists() and not lost:
        return None
    test = load_data(file, store)
    folder.check_part(path, folder.TEST_FILE, str(fingerprint(test)))
    return test


def write_results(
    workdir: str | pathlib.Path, *, command: str = "", store: str | pathlib.Path | None = None, **options: Any
) -> str:
    """Write evaluation, predictions, figures and report of a run; returns the summary table as text.

    Args:
        workdir: folder of a finished or interrupted fit, with the test conditions that `save_test` put there. Without
            any, the validation or training conditions are in the table instead.
        command: that reproduces the run, for the report.
        store: as in `load_run`.
        **options: of `write_evaluation`.

    Raises:
        FileNotFoundError: no run or no checkpoint in the folder, or its test data are gone.
    """
    path, show = pathlib.Path(workdir), options.get("progress", True)
    check_own(path)
    with stage(show, f"Reading the run in {path}"):
        fitted, test = load_model(path, store=store), load_test(path, store)
    write_evaluation(path, fitted, test, **options)
    table = read_evaluation(path)  # as the report does: pandas may change the last bit of a number
    with stage(show, "Writing predictions and diagnostics"):
        predictions = held_out_predictions(fitted, test, sources_of(table)) if test else []
        if predictions:
            write_predictions(path, predictions)
        write_identification(path, fitted.members[0])
        write_diagnostics(path, fitted, test, predictions)
    with stage(show, "Drawing figures, and writing the report"):
        _draw_figures(path, fitted, test, table, predictions[:MOST_DETAILED])
        parts = {"train": fitted.train, "validation": fitted.validation, "test": test}
        render(path, command, data={name: part for name, part in parts.items() if part is not None})
    split = judged_split(table)
    note = "" if split == "test" else f"Nothing was held out for the test: these are the {split} conditions.\n"
    return note + format_table(table, split=split)


def check_own(path: pathlib.Path) -> None:
    """Raise ``FileExistsError`` for a file in the place of a result that is not of this library, by how it begins."""
    figures = path / FIGURE_FOLDER
    foreign = [file for name, begins in _BEGINS.items() if (file := path / name).exists() and not _begins(file, begins)]
    if not (figures / CAPTION_FILE).exists() and not (path / EVALUATION_FILE).exists():
        foreign += figures.glob("*.png") if figures.exists() else []
    if foreign:
        raise FileExistsError(
            f"{foreign[0]} was not written by pdae_jax, and would be replaced. Move it, or give it another name."
        )


def _begins(file: pathlib.Path, begins: bytes) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(begins)) == begins


def write_identification(path: pathlib.Path, fitted: Fitted) -> None:
    """Write ``identification.csv`` where the folder holds the truth of a simulated world."""
    if (path / folder.TRUTH_FILE).exists():
        folder.check_part(path, folder.TRUTH_FILE, digest(read_arrays(path / folder.TRUTH_FILE)))
        found = measure_identification(fitted, load_truth(path / folder.TRUTH_FILE))
        write_text(path / IDENTIFICATION_FILE, identification_table(found).to_csv(index=False))


def write_diagnostics(
    path: pathlib.Path, fitted: Fitted | Ensemble, test: PerturbationData | None, predictions: Sequence[Prediction]
) -> None:
    """Write ``extremes.csv``: where predictions reach farthest; ``residual_laws.csv``: whether the noise keeps its law.

    Also ``counts.csv``, where data are counts: whether predicted ones look like measured ones.
    """
    import pandas as pd

    rows = [
        extremes(prediction, fitted.train).head(1).reset_index().assign(condition=prediction.condition)
        for prediction in predictions
    ]
    if rows:
        write_text(path / EXTREMES_FILE, pd.concat(rows).to_csv(index=False))
    model = fitted.members[0]
    if model.model.carries_noise:
        found = residual_laws(model, key=jax.random.key(fitted.seed), most=_MOST_TESTED)
        write_text(path / RESIDUALS_FILE, found.reset_index().to_csv(index=False))
    if fitted.train.size_factors is not None and test is not None and test.size_factors is not None:
        sources = {each.condition: each.source for each in predictions}
        found = count_diagnostics(fitted, test, key=jax.random.key(model.seed), sources=sources)
        write_text(path / COUNTS_FILE, found.to_csv(index=False))


def _read_table(path: pathlib.Path) -> Table | None:
    """Read a table of the run, or None where there is none; names stay text."""
    import pandas as pd

    names: Any = {"condition": str, "feature": str}
    return pd.read_csv(path, dtype=names, keep_default_na=False) if path.exists() else None


def read_identification(workdir: str | pathlib.Path) -> Table | None:
    """Read ``identification.csv``, or None where there is none."""
    import pandas as pd

    path = pathlib.Path(workdir) / IDENTIFICATION_FILE
    names: Any = {"quantity": str, "perturbation_or_latent": str}
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values={"value": [""]}) if path.exists() else None


def write_evaluation(
    path: pathlib.Path,
    fitted: Fitted | Ensemble,
    test: PerturbationData | None,
    comparators: Sequence[str] = (),
    **options: Any,
) -> Table:
    """Write ``evaluation.csv``: every method on the test and validation conditions, and on training ones.

    Args:
        path: folder of the run.
        fitted: its model.
        test: held-out conditions, if any.
        comparators: methods that are trained for the comparison, on what the model was trained on with its recipe;
            names of `compositional.COMPARATORS`.
        **options: of `evaluate`.
    """
    options = {"splits": SPLITS, "most_in_sample": MOST_IN_SAMPLE, "progress": True, **options}
    key = jax.random.key(fitted.seed)
    further = fit_comparators(
        comparators,
        fitted.train,
        key=key,
        validation=fitted.validation,
        recipe=fitted.recipe,
        progress=options["progress"],
    )
    table = evaluate(fitted, test, methods=further, **options)
    with written(path / EVALUATION_FILE) as file:
        table.to_csv(file, index=False)
    return table


def read_evaluation(workdir: str | pathlib.Path) -> Table:
    """Read ``evaluation.csv`` as `evaluate` made it: conditions may be called "None" or "1" and stay text."""
    import pandas as pd

    names: Any = dict.fromkeys(("condition", "split", "method", "metric", "source", "verdict"), str)
    columns = ("value", "scaled", "scaled_noise", "residual", "leverage", *VERDICT_NUMBERS, "reach", "bandwidth")
    numbers: Any = {name: [""] for name in (*columns, *MORE_NUMBERS)}
    path = pathlib.Path(workdir) / EVALUATION_FILE
    exact: Any = "round_trip"  # a run that is repeated is compared with it
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=numbers, float_precision=exact)


def sources_of(table: Any) -> dict[str, str]:
    """Map conditions to whose cells were translated to them in an evaluation, so that pictures show what was judged."""
    return dict(zip(table["condition"], table["source"], strict=True))


def write_predictions(path: pathlib.Path, predictions: Sequence[Prediction]) -> None:
    """Write ``predictions.h5ad``: as many predicted cells of each test condition as were measured."""
    with written_path(path / PREDICTIONS_FILE) as temporary:
        to_anndata(predictions).write_h5ad(temporary)


def held_out_predictions(
    fitted: Fitted | Ensemble, test: PerturbationData, sources: dict[str, str], most: int | None = None
) -> list[Prediction]:
    """Predict every test condition, or the first ones, under their own names.

    As many cells as were measured; where those stay in files because they are many, 500 at most.
    """
    key = jax.random.key(fitted.seed)
    names = list(itertools.compress(test.conditions, design_of(test).perturbed))[:most]
    most_cells = _STORED_CELLS if isinstance(test.x, StoredCells) else test.num_cells
    return [
        predict(
            fitted,
            test.label(name),
            key=jax.random.fold_in(key, number),
            num_samples=min(int(test.counts[test.index(name)]), most_cells),
            source=sources.get(name, "control"),
        )._replace(condition=name)
        for number, name in enumerate(names)
    ]


def draw_figures(workdir: str | pathlib.Path, **form: Any) -> dict[str, str]:
    """Draw ``figures/*.png`` from what the folder holds.

    Args:
        workdir: folder of the run.
        **form: of `save_figures`.

    Returns:
        Caption -> path in the folder.
    """
    path = pathlib.Path(workdir)
    fitted, test = load_model(path), load_test(path)
    table = read_evaluation(path)
    predictions = held_out_predictions(fitted, test, sources_of(table), MOST_DETAILED) if test else []
    return _draw_figures(path, fitted, test, table, predictions, **form)


def _draw_figures(
    path: pathlib.Path,
    fitted: Fitted | Ensemble,
    test: PerturbationData | None,
    table: Table,
    predictions: Sequence[Prediction],
    **form: Any,
) -> dict[str, str]:
    drawn = figures_of(fitted, test, table, predictions)
    save_figures(path / FIGURE_FOLDER, {name: each.figure for name, each in drawn.items()}, **form)
    shown = {each.caption: f"{FIGURE_FOLDER}/{name}.png" for name, each in drawn.items()}
    write_text(path / FIGURE_FOLDER / CAPTION_FILE, json.dumps(shown, indent=2) + "\n")
    return shown


def render(
    workdir: str | pathlib.Path, command: str = "", *, data: Mapping[str, PerturbationData] | None = None
) -> pathlib.Path:
    """Write ``report.md`` from what the folder holds.

    Args:
        workdir: of the run.
        command: that reproduces it; None given: the recorded one.
        data: its ``train``, ``validation`` and ``test`` where they were read already.
    """
    path = pathlib.Path(workdir)
    config = json.loads((path / folder.CONFIG_FILE).read_text())["config"]
    captions = path / FIGURE_FOLDER / CAPTION_FILE
    table = read_evaluation(path)
    return write_report(
        path,
        title=f"Run {path.name}",
        table=table,
        command=command or config.get("command", "pdae_jax.fit(train, key=key, workdir=...)"),
        config=config.get("file", ""),
        environment=json.loads((path / folder.ENVIRONMENT_FILE).read_text()),
        figures=json.loads(captions.read_text()) if captions.exists() else {},
        identification=read_identification(path),
        extremes=_read_table(path / EXTREMES_FILE),
        residual_laws=_read_table(path / RESIDUALS_FILE),
        counts=_read_table(path / COUNTS_FILE),
        published=format_published(
            config.get("data", {}).get("name", ""), config.get("split", {}).get("protocol", "") or ""
        ),
        data=describe_data(_parts(path) if data is None else data),
    )


def _parts(path: pathlib.Path) -> dict[str, PerturbationData]:
    """Load the data of a run, by part."""
    files = {"train": folder.TRAIN_FILE, "validation": folder.VALIDATION_FILE, "test": folder.TEST_FILE}
    return {name: load_data(path / file) for name, file in files.items() if (path / file).exists()}
