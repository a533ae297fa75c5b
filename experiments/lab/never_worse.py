"""Is a fit ever worse than the best baseline? The default recipe on simulated worlds and on every real data set.

python experiments/lab/never_worse.py                              24 worlds, 4 data sets; one to two hours on 2 cores
python experiments/lab/never_worse.py --kinds=counts,wide --number=2  some kinds, two worlds of each
python experiments/lab/never_worse.py --sweep                         Norman pairs: fewer pairs, other numbers of cells
python experiments/lab/never_worse.py --novalidation --kinds=wide     the fit chooses its last step by itself
python experiments/lab/never_worse.py --short                         a minute: two small worlds, few steps

Nothing is told: number of latents, steps, rates and weights are found from the data. A fit is worse where its
mean energy distance over the held-out conditions is above 1.05 times that of the best baseline plus the noise of the
evaluation (the standard deviation of that mean for an exact prediction). Rows go to --table as each case is finished;
the same command goes on where it was broken off. The summary lies beside them, as markdown. The last three forms have
tables of their own, in runs.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
from absl import app, flags, logging
from matplotlib.figure import Figure

from experiments.lab.cases import CHOOSING, KINDS, Case, all_cases, norman, norman_name, without_validation
from pdae_jax import evaluate, fit
from pdae_jax.compiled import cache_compilations
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.summary import COMPARED, ratio_interval
from pdae_jax.reporting.panels import BLUE, GREEN, GREY, ORANGE, clean
from pdae_jax.runs.files import write_text
from pdae_jax.runs.track import make_progress
from pdae_jax.spelling import markdown_table
from pdae_jax.training.validate import null_variance

OUT = flags.DEFINE_string("table", None, "where rows go; default experiments/lab/results/never_worse.csv, else in runs")
CASE_KINDS = flags.DEFINE_list("kinds", list(KINDS), "kinds of cases")
FIRST_SEED = flags.DEFINE_integer("first_seed", 3000, "seed of the first world of each kind")
NUMBER = flags.DEFINE_integer("number", 4, "worlds of each kind")
SWEEP = flags.DEFINE_boolean("sweep", False, "norman_pairs with other numbers of cells and of training pairs instead")
VALIDATION = flags.DEFINE_boolean("validation", True, "conditions that choose the step kept; else they are trained on")
SHORT = flags.DEFINE_boolean("short", False, "two small worlds, few steps: to see that everything runs")

TOLERANCE = 1.05
METRICS = ("energy_distance", "mean_l2", "r2_mean", "pearson_delta")


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    path = pathlib.Path(OUT.value or default_table())
    path.parent.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(path, keep_default_na=False, dtype={"name": str}) if path.exists() else None
    finished = set() if done is None else set(done[["kind", "name"]].itertuples(index=False, name=None))
    if SHORT.value:
        cases, options = list(all_cases(["counts", "few cells"], first_seed=7, number=1)), {"num_steps": 200}
    elif SWEEP.value:
        cases, options = list(norman_sweep()), {}
    else:
        cases = list(all_cases(CASE_KINDS.value, first_seed=FIRST_SEED.value, number=NUMBER.value))
        options = {}
    if not VALIDATION.value:
        cases = [(kind, name, functools.partial(_chooses, make)) for kind, name, make in cases if kind in CHOOSING]
    missing = [case for case in cases if case[:2] not in finished]
    bar = make_progress(None, "never worse", "fit")
    for number, (_, _, make) in enumerate(missing):
        bar.update(number, len(missing), float("nan"))
        table = run_case(make(), **options)
        table.to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.6g")
    bar.close()
    table = pd.read_csv(path, dtype={"name": str})
    text = summarise(table)
    write_text(path.with_suffix(".md"), text)
    if SWEEP.value:
        plot_sweep(table).savefig(path.with_suffix(".png"), dpi=200)
    print(text)


def default_table() -> str:
    """Rows of other questions do not go among those of the first."""
    for asked, name in ((SHORT.value, "short"), (SWEEP.value, "sweep"), (not VALIDATION.value, "novalidation")):
        if asked:
            return f"runs/never_worse-{name}.csv"
    return "experiments/lab/results/never_worse.csv"


def _chooses(make: Callable[[], Case]) -> Case:
    return without_validation(make())


SWEEP_SPLITS = (1, 2, 3)
SWEEP_CELLS = (30, 300)
SWEEP_SHARES = (0.0, 0.25, 0.5, 1.0)


def norman_sweep() -> Iterator[tuple[str, str, Callable[[], Case]]]:
    """Three splits of the pairs with fewer training pairs, and with other numbers of cells."""
    for split in SWEEP_SPLITS:
        for share in SWEEP_SHARES:
            yield "norman_pairs", norman_name(split, share=share), functools.partial(norman, split, share=share)
        for cells in SWEEP_CELLS:
            yield "norman_pairs", norman_name(split, cells=cells), functools.partial(norman, split, cells=cells)


def plot_sweep(table: Any) -> Figure:
    """Error against the share of the training pairs, and against the cells of a condition; means over the splits."""
    rows = table[table["metric"] == "energy_distance"]
    means = rows.groupby(["name", "method"])["value"].mean().unstack("method")
    splits = [n for n in SWEEP_SPLITS if norman_name(n) in means.index]
    axes_of: dict[str, list[tuple[float, list[str]]]] = {
        "training pairs, share": [(s, [norman_name(n, share=s) for n in splits]) for s in SWEEP_SHARES],
        "cells a condition": [(c, [norman_name(n, cells=c) for n in splits]) for c in sorted((*SWEEP_CELLS, 100))],
    }
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shown = {"pdae": BLUE, "ridge": GREEN, "latent_additive": ORANGE, "additive": GREY}
    for axes, (title, points) in zip(panels, axes_of.items(), strict=True):
        points = [(value, names) for value, names in points if set(names) <= set(means.index)]
        for method, colour in shown.items():
            y = [means.loc[names, method].mean() for _, names in points]
            axes.plot([value for value, _ in points], y, color=colour, marker="o", ms=3, lw=1.6, label=method)
        axes.set_xlabel(title)
        clean(axes)
    panels[0].set_ylim(0, 1.05 * max(line.get_ydata().max() for axes in panels for line in axes.lines))
    panels[1].set_xscale("log")
    cells = [value for value, _ in axes_of["cells a condition"]]
    panels[1].set_xticks(cells, [f"{value:g}" for value in cells])
    panels[1].minorticks_off()
    panels[0].set_ylabel("held-out energy distance")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def run_case(case: Case, **options: Any) -> Any:
    """Fit with the default recipe, evaluate, and say how long it took."""
    start = time.perf_counter()
    judged = () if case.validation is None else case.validation.conditions
    source = {c: s for c, s in case.source.items() if c in judged}
    fitted = fit(
        case.train, key=jax.random.key(0), validation=case.validation, source=source, progress=False, **options
    )
    seconds = time.perf_counter() - start
    table = evaluate(
        fitted,
        case.test,
        num_samples=2000,
        source={c: s for c, s in case.source.items() if c in case.test.conditions} or "control",
        metrics=METRICS,
        baselines=tuple(BASELINES),
        progress=False,
    )
    columns = ["condition", "method", "metric", "value", "n_true", "n_pred", "verdict", "reach"]
    about = {"kind": case.kind, "name": case.name, "latent_dim": fitted.recipe.latent_dim, "seconds": round(seconds, 1)}
    errors = list(fitted.validation_errors.values())
    means = {name: np.mean([e[name] for e in errors]) if errors else np.nan for name in ("start", "pdae")}
    about |= {f"validation_{name}": mean for name, mean in means.items()}
    about |= {"steps": fitted.history[-1]["step"] if fitted.history else 0, "noise": noise_of(case)}
    return table[columns].assign(**about)


def noise_of(case: Case) -> float:
    """Standard deviation of the mean energy distance of an exact prediction, the conditions sharing a source."""
    deviations = []
    for condition in case.test.conditions:
        cells = case.test.cells(condition)[:2000]
        source = case.source.get(condition, case.train.control)
        number = min(2000, int(case.train.counts[case.train.index(source)]))
        deviations.append(np.sqrt(null_variance(cells, number)))
    # the same source cells are moved to every condition: errors are taken as fully dependent
    return float(np.mean(deviations))


def verdicts(table: Any) -> Any:
    """One row per fit: mean energy distances, the best baseline, and whether the fit is worse."""
    rows = table[table["metric"] == "energy_distance"]
    means = rows.pivot_table(index=["kind", "name"], columns="method", values="value", aggfunc="mean", sort=False)
    about = rows.groupby(["kind", "name"], sort=False)[["noise", "reach", "seconds"]].max()
    compared = [name for name in COMPARED if name in means]
    means["best"], means["best_name"] = means[compared].min(axis=1), means[compared].idxmin(axis=1)
    means["limit"] = TOLERANCE * means["best"].clip(lower=0.0) + about["noise"]
    means["worse"] = means["pdae"] > means["limit"]
    return means.join(about)


def against_best(table: Any, fits: Any) -> Iterator[list[str]]:
    """One row per kind: its best baseline, the ratio of means to it with an interval, and the worst single fit."""
    rows = table[table["metric"] == "energy_distance"]
    index = ["kind", "name", "condition"]
    errors = rows.pivot_table(index=index, columns="method", values="value", sort=False)
    compared = [name for name in COMPARED if name in errors]
    for kind, part in fits.groupby(level="kind", sort=False):
        of_kind = errors.xs(kind, level="kind")
        best = str(of_kind[compared].mean().idxmin())
        ratio = worst = "-"
        if part[best].mean() > part["noise"].mean():
            model, baseline = of_kind["pdae"].to_numpy(), of_kind[best].to_numpy()
            ratio = f"{model.mean() / baseline.mean():.2f}"
            if len(model) > 1:
                low, high = ratio_interval(model, baseline)
                ratio += f" ({low:.2f} to {high:.2f})"
        clear = part[part["best"] > part["noise"]]
        if len(clear):
            of_best = clear["pdae"] / clear["best"]
            worst = f"{of_best.max():.2f} ({of_best.idxmax()[1]})"
        yield [str(kind), best, ratio, worst]


def summarise(table: Any) -> str:
    """Means per kind, ratios, and every fit that is worse."""
    fits = verdicts(table)
    shown = [
        "pdae",
        "ridge",
        "ridge_additive",
        "latent_additive",
        "linear_regression",
        "additive",
        "control",
        "oracle_half",
    ]
    shown = [name for name in shown if name in fits]
    distances, shares = [], []
    for kind, part in fits.groupby(level="kind", sort=False):
        mean = part[shown].mean()
        distances.append([kind, len(part), *(f"{mean[name]:.4g}" for name in shown)])
        shares.append(
            [
                kind,
                f"{mean['pdae'] / part['best'].mean():.2f}",
                f"{mean['pdae'] / mean['ridge']:.2f}",
                f"{mean['pdae'] / mean.get('ridge_additive', np.nan):.2f}",
                f"{mean['pdae'] / mean['control']:.2%}",
                int(part["worse"].sum()),
                f"{part['reach'].max():.2f}",
                f"{part['seconds'].median():.0f}",
            ]
        )
    worse = fits[fits["worse"]]
    of_others = ["kind", "of best", "of ridge", "of ridge additive", "of control", "worse", "reach", "seconds"]
    ratios = ["kind", "best baseline", "of it, 95 % over conditions", "worst fit, of its best"]
    text = [
        "Energy distances (U form), means over held-out conditions and fits.",
        markdown_table(["kind", "fits", *(name.replace("_", " ") for name in shown)], distances),
        "The same of `pdae` over that of others. *of best*: over the mean of each fit's "
        f"own best baseline. *worse*: fits above {TOLERANCE} times their best baseline plus noise. *reach*: the "
        "farthest predicted value from the middle of the measured range of its feature, in halves of the range.",
        markdown_table(of_others, shares),
        "The baseline with the smallest mean of each kind, the ratio of the means with a paired bootstrap interval, "
        "and the largest ratio of a single fit to its own best baseline; a dash where the baseline's error is within "
        "the noise, and a ratio says nothing.",
        markdown_table(ratios, against_best(table, fits)),
        f"{len(worse)} of {len(fits)} fits are worse"
        + (": " + ", ".join(f"{k} {n} ({r['pdae']:.3g} > {r['limit']:.3g})" for (k, n), r in worse.iterrows()) + "."
           if len(worse) else "."),
    ]  # fmt: skip
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    app.run(main)
