r"""Every (stimulation, cell type) pair of Bodenmiller's data held out once: model, baselines and ceiling on each.

python experiments/lab/leave_pair_out.py --workdir=runs/leave_pair_out
python experiments/lab/leave_pair_out.py --workdir=runs/leave_pair_out --num_pairs=1     the next pair only

18 pairs, three stimulations of six cell types. For each: its cells are left out, three other pairs validate (they
choose the step), a model is trained on the rest, and the unstimulated cells of the type are translated to the pair.
The validation pairs are the next three in one fixed circular order of all pairs. Hyperparameters are those of the
config; they were chosen with the first six pairs of that order as validation pairs (column ``searched``), which the
summary therefore also leaves out.

Written into the folder after every pair: ``pairs.csv``, the table of `evaluate` and what explains a failure;
``summary.md``; ``pairs.png``. The same command goes on where it was broken off.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import app, flags, logging
from jaxtyping import Array, Float
from ml_collections import config_flags

from experiments.configs.bodenmiller import Fold, folds, order_of_pairs, source_of
from pdae_jax import build, evaluate, fit, fit_ensemble, hold_out
from pdae_jax.compiled import cache_compilations
from pdae_jax.data.moments import condition_means
from pdae_jax.evaluation.baselines import Method, Task, additive_shift
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.reporting import plots
from pdae_jax.runs.files import write_text
from pdae_jax.runs.track import make_progress
from pdae_jax.spelling import markdown_table
from pdae_jax.types import PerturbationData

CONFIG = config_flags.DEFINE_config_file("config", "experiments/configs/bodenmiller.py", "data and recipe: path[:arg]")
WORKDIR = flags.DEFINE_string("workdir", "runs/leave_pair_out", "folder of the results")
NUM_PAIRS = flags.DEFINE_integer("num_pairs", None, "how many of the missing pairs to do now; default all")
NUM_REPLICAS = flags.DEFINE_integer("num_replicas", 3, "fits per pair, whose predictions are mixed")

TABLE_FILE, SUMMARY_FILE, FIGURE_FILE, SETTINGS_FILE = "pairs.csv", "summary.md", "pairs.png", "settings.json"
METRICS = ("energy_distance", "mmd", "mean_l2", "r2_mean")
BASELINES = ("unmoved", "control", "pool_all", "pseudobulk", "additive", "linear_regression", "latent_additive")


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    workdir = pathlib.Path(WORKDIR.value)
    data, _ = build.load_data(jax.random.key(0), CONFIG.value.data)
    check_settings(workdir / SETTINGS_FILE, settings(CONFIG.value, NUM_REPLICAS.value))
    table = read_table(workdir / TABLE_FILE)
    missing = [fold for fold in folds(data) if fold.pair not in set(table["condition"])][: NUM_PAIRS.value]
    bar = make_progress(None, "leave pair out", "pair")
    for number, fold in enumerate(missing):
        bar.update(number, len(missing), float("nan"))
        table = pd.concat([table, run_fold(data, fold, CONFIG.value, NUM_REPLICAS.value)], ignore_index=True)
        write_table(workdir / TABLE_FILE, table)
    bar.update(len(missing), len(missing), float("nan"))
    bar.close()
    summary = summarise(table)
    write_text(workdir / SUMMARY_FILE, summary)
    plots.condition_dots(table).savefig(workdir / FIGURE_FILE, dpi=120)
    print(f"{summary}\nTable: {workdir / TABLE_FILE}, figure: {workdir / FIGURE_FILE}")


def run_fold(data: PerturbationData, fold: Fold, config: Any, num_replicas: int) -> Any:
    """Fit without the pair, and all rows of the pair."""
    rest, test = hold_out(data, fold.pair)
    train, validation = hold_out(rest, fold.validation)
    sources = {pair: source_of(pair) for pair in fold.validation}
    options = {"validation": validation, "source": sources, "recipe": build.recipe(config.fit), "progress": None}
    key = jax.random.fold_in(jax.random.key(config.seed), order_of_pairs().index(fold.pair))
    if num_replicas == 1:
        fitted = fit(train, key=key, **options)
    else:
        fitted = fit_ensemble(train, key=key, num_replicas=num_replicas, bootstrap=False, **options)
    table = evaluate(
        fitted,
        test,
        num_samples=config.evaluation.num_samples,
        source={fold.pair: source_of(fold.pair)},
        metrics=METRICS,
        methods={"unmoved": Method(unmoved)},
        progress=False,
    )
    effect, interaction = non_additivity(train, test.cells(fold.pair), fold.pair)
    return table.assign(
        effect=effect,
        interaction=interaction,
        validation=", ".join(fold.validation),
        validation_error=_validation_error(fitted),
        searched="yes" if fold.searched else "no",
    )


def unmoved(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Source cells as they are: the stimulation does nothing to this cell type."""
    cells = task.train.cells(task.source)
    return np.asarray(jax.random.permutation(key, cells))[:num_samples]


def non_additivity(train: PerturbationData, cells: Float[np.ndarray, "n features"], pair: str) -> tuple[float, float]:
    """How far the stimulation moves the mean of the cell type, and the share of that which is not additive.

    The second is the distance of the true mean from the source's mean plus the additive shift, over the first.
    It looks at the true cells, to explain what came out.
    """
    source = condition_means(train)[train.index(source_of(pair))]
    true = cells.mean(axis=0, dtype=np.float64)
    shift = additive_shift(train, pair) - additive_shift(train, source_of(pair))
    effect = float(np.linalg.norm(true - source))
    return effect, float(np.linalg.norm(true - source - shift)) / effect


def summarise(table: Any) -> str:
    """Medians, how often the model wins, and every pair, as markdown."""
    distances = table[table["metric"] == "energy_distance"].pivot(index="condition", columns="method", values="value")
    about = table.drop_duplicates("condition").set_index("condition")
    distances = distances.loc[about.index]
    fresh = distances[(about["searched"] == "no").to_numpy()]
    lines = ["# Every pair held out once", "", "Energy distance (U form) to the true cells of the pair.", ""]
    for title, part in (("all pairs", distances), ("pairs that had no part in choosing hyperparameters", fresh)):
        if len(part):
            lines += [f"## {len(part)} {title}", "", *_comparison(part), ""]
    lines += ["## Pair by pair", "", *_pair_table(distances, about)]
    return "\n".join(lines) + "\n"


def _comparison(distances: Any) -> list[str]:
    """Medians and means of every method, and the verdict on the model in sentences."""
    shown: Any = pd.DataFrame({"median": distances.median(), "mean": distances.mean()}).sort_values("median")
    baselines = [name for name in BASELINES if name in distances]
    best = str(distances[baselines].median().idxmin())
    wins = (distances["pdae"] < distances[baselines].min(axis=1)).mean()
    wins_of_best = (distances["pdae"] < distances[best]).mean()
    ratio = distances["pdae"].median() / distances[best].median()
    low, high = _median_ratio_interval(distances["pdae"].to_numpy(), distances[best].to_numpy())
    rows = [[name, f"{row['median']:.3f}", f"{row['mean']:.3f}"] for name, row in shown.iterrows()]
    return [
        markdown_table(["method", "median", "mean"], rows),
        "",
        f"Median of pdae over that of the best baseline, {best}: {ratio:.2f} (95 % over pairs {low:.2f} to "
        f"{high:.2f}).",
        f"pdae is better than {best} on {wins_of_best:.0%} of the pairs, and better than the best baseline of the pair "
        f"itself on {wins:.0%}.",
    ]


def _pair_table(distances: Any, about: Any) -> list[str]:
    baselines = [name for name in BASELINES if name in distances]
    headings = ["pair", "pdae", "best baseline", "oracle half", "verdict", "outside", "effect", "not additive", ""]
    rows = []
    for pair, row in distances.sort_values("pdae").iterrows():
        best, facts = row[baselines].astype(float).idxmin(), about.loc[pair]
        cells = [
            str(pair),
            f"{row['pdae']:.3f}",
            f"{row[best]:.3f} ({best})",
            f"{row['oracle_half']:.3f}",
            str(facts["verdict"]),
            f"{facts['outside']:.0%}",
            f"{facts['effect']:.2f}",
            f"{facts['interaction']:.0%}",
            "worse" if row["pdae"] >= row[best] else "",
        ]
        rows.append(cells)
    lines = [
        markdown_table(headings, rows),
        "",
        "effect: how far the stimulation moves the mean of the cell type. not additive: the share of it that",
    ]
    lines += [
        "the additive baseline misses; above 100 % it is better to predict no effect. Both look at the true cells."
    ]
    return lines


def _median_ratio_interval(
    model: np.ndarray, baseline: np.ndarray, *, num_resamples: int = 4000
) -> tuple[float, float]:
    draws = np.random.default_rng(0).integers(len(model), size=(num_resamples, len(model)))
    low, high = np.quantile(np.median(model[draws], axis=1) / np.median(baseline[draws], axis=1), [0.025, 0.975])
    return float(low), float(high)


def _validation_error(fitted: Fitted | Ensemble) -> float:
    return float(np.mean([error["pdae"] for member in fitted.members for error in member.validation_errors.values()]))


def settings(config: Any, num_replicas: int) -> dict[str, Any]:
    """What the rows of a table have in common."""
    chosen = {"data": config.data.to_dict(), "recipe": build.recipe(config.fit).to_dict(), "seed": config.seed}
    chosen |= {"num_samples": config.evaluation.num_samples, "num_replicas": num_replicas}
    return json.loads(json.dumps(chosen))


def check_settings(path: pathlib.Path, chosen: dict[str, Any]) -> None:
    """Rows of one table come from the same settings; ``ValueError`` where the folder has others."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(chosen, indent=2) + "\n")
        return
    there = json.loads(path.read_text())
    if there != chosen:
        differ = [name for name in chosen if there.get(name) != chosen[name]]
        raise ValueError(f"{path} was written with other settings of {', '.join(differ)}. Pass another --workdir.")


def read_table(path: pathlib.Path) -> Any:
    """The pairs done so far."""
    if not path.exists():
        return pd.DataFrame({"condition": []})
    return pd.read_csv(path, keep_default_na=False, na_values={"value": [""], "bandwidth": [""], "outside": [""]})


def write_table(path: pathlib.Path, table: Any) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    table.to_csv(temporary, index=False)
    temporary.replace(path)


if __name__ == "__main__":
    app.run(main)
