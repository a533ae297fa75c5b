"""Tables and figures of the simulation studies, from the rows that `study.py` wrote.

python experiments/lab/study_tables.py --study=ablation        table on the screen, figure in experiments/lab/figures/
"""

import pathlib
from typing import Any

import numpy as np
import pandas as pd
from absl import app, flags
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from experiments.lab.studies import STUDIES
from pdae_jax.design.span import SPAN_TOLERANCE
from pdae_jax.evaluation.compositional import COMPARATORS
from pdae_jax.prediction.verdict import MAX_OUTSIDE, Verdict
from pdae_jax.reporting.panels import BLACK, GREY, PALETTE, clean
from pdae_jax.spelling import markdown_table

STUDY = flags.DEFINE_multi_enum("study", None, [*STUDIES, "verdict"], "which ones; default all that have rows")
RESULTS = flags.DEFINE_string("results", "experiments/lab/results", "folder of the rows")
FIGURES = flags.DEFINE_string("figures", "experiments/lab/figures", "folder of the figures")

BASELINES = ("additive", "linear_regression", "latent_additive", "ridge", "pool_all", "pseudobulk")
ORDER = (
    "trusted",
    "dose not measured",
    "beyond the measured doses",
    "inconsistent",
    "imprecise",
    "untested",
    "refuted",
    "unsupported",
    "rank deficient",
    "poorly determined",
    "not identified",
)
WRONG = 0.05  # share of the control's distance above which a trusted prediction counts as wrong


def main(_):
    folder, figures = pathlib.Path(RESULTS.value), pathlib.Path(FIGURES.value)
    found = [name for name in STUDIES if (folder / f"{name}.csv").exists()]
    for name in STUDY.value or [*found, "verdict"]:
        if name == "verdict":
            rows = pd.concat([read(folder / f"{n}.csv") for n in found if n != "ablation"])
            table, figure = verdict_table(rows), verdict_figure(rows)
        else:
            rows = read(folder / f"{name}.csv")
            table = TABLES[name](rows)
            figure = FIGURE_OF[name](rows) if name in FIGURE_OF else None
        print(f"\n## {name}\n\n{markdown_table(list(table), table.to_numpy().tolist())}\n")
        if figure is not None:
            figures.mkdir(parents=True, exist_ok=True)
            figure.savefig(figures / f"study_{name}.png", dpi=120)


def read(path: pathlib.Path) -> Any:
    """Rows of the variants of a study, with the energy distance as a fraction of the control's."""
    rows = pd.read_csv(path, dtype={"replica": str}, keep_default_na=False, na_values=[""])
    names = [variant.name for variant in STUDIES[path.stem]()]
    rows = rows[rows.variant.isin(names)]
    return rows.assign(share=rows.energy_distance / rows.control_distance)


def level(row: Any) -> str:
    """The verdict by today's thresholds, from the numbers of a row."""
    return Verdict(
        condition=row.condition,
        identified=row.residual <= SPAN_TOLERANCE,
        residual=row.residual,
        weights={},
        leverage=0.0,
        outside=row.outside,
        supported=row.outside <= MAX_OUTSIDE,
        tested_error=row.tested_error,
        expected_error=getattr(row, "expected_error", None),
        source_disagreement=row.source_disagreement,
    ).level


def model_rows(rows: Any) -> Any:
    """Of single replicas, not of their ensembles."""
    return rows[(rows.method == "pdae") & ~rows.replica.isin(["ensemble", "none"])]


def best_baseline(rows: Any) -> Any:
    """World -> mean energy distance of the baseline that is best there."""
    means = rows[rows.method.isin(BASELINES)].groupby(["world", "method"]).energy_distance.mean()
    return means.groupby("world").min()


def ablation_table(rows: Any) -> Any:
    """One line per variant: errors over worlds, replicas and conditions, and the change against the reference."""
    model, best = model_rows(rows), best_baseline(rows)
    reference = by_world(model[model.variant == "reference"])
    lines = []
    for name, group in model.groupby("variant", sort=False):
        fits = group.groupby(["world", "replica"]).energy_distance.mean()
        worse = fits > best.reindex(fits.index.get_level_values("world")).to_numpy()
        kept = group[group.kept.astype(str) == "True"]
        common = by_world(group).index.intersection(reference.index)
        change = np.log(by_world(group)[common] / reference[common])
        low, high = np.exp(interval(change.to_numpy()))
        lines.append(
            {
                "variant": name,
                "worlds": group.world.nunique(),
                "mean": percent(group.share.mean()),
                "median": percent(group.share.median()),
                "95th": percent(group.share.quantile(0.95)),
                "against reference": f"{np.exp(change.mean()):.2f} ({low:.2f} to {high:.2f})",
                "fits worse than the best baseline": f"{worse.sum()} of {len(worse)}",
                "dropped": f"{1 - len(kept) / len(group):.0%}",
                "95th of those kept": percent(kept.share.quantile(0.95)),
            }
        )
    return pd.DataFrame(lines)


def by_world(model: Any) -> Any:
    """Mean share in each world."""
    return model.groupby("world").share.mean()


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over worlds."""
    draws = np.random.default_rng(0).choice(values, (4000, len(values))).mean(axis=1)
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def method_table(rows: Any) -> Any:
    """Share of every method, by variant and kind of label: sums over worlds and conditions, divided."""
    method = rows.method.where(rows.replica != "ensemble", "pdae ensemble")
    rows = rows.assign(method=method)
    rows = rows[rows.method != "control"]
    # the trained comparators were run on the first worlds only: the model there, to compare with
    trained = rows[rows.method.isin(COMPARATORS)][["variant", "world"]].drop_duplicates()
    there = rows[rows.method == "pdae"].merge(trained).assign(method="pdae, their worlds")
    rows = pd.concat([rows, there])
    sums = rows.groupby(["variant", "kind", "method"], sort=False)[["energy_distance", "control_distance"]].sum()
    table = (sums.energy_distance / sums.control_distance).unstack("method")
    last = [name for name in ("pdae, their worlds", *COMPARATORS) if name in table]
    first = [name for name in ("pdae", "pdae ensemble") if name in table]
    others = [name for name in table if name not in (*first, "oracle_half", *last)]
    table = table[[*first, *others, "oracle_half", *last]]
    table = table.reindex(list(dict.fromkeys(sums.index.droplevel("method"))))
    return table.map(lambda v: percent(v) if np.isfinite(v) else "-").reset_index()


def accuracy_table(rows: Any) -> Any:
    """Shares, tests and comparison at full size: single fits, ensembles, and what knowing the map would leave."""
    lines, groups = [], {}
    for variant, part in rows.groupby("variant", sort=False):
        groups[f"{variant}: single fits"] = (model_rows(part), part)
        groups[f"{variant}: ensembles"] = (part[part.replica == "ensemble"], part)
        groups[variant] = (part[part.method == "oracle_map"], rows)  # has no baselines of its own
    groups["the truth against itself"] = (rows[rows.method == "truth"], rows)
    for name, (group, beside) in groups.items():
        if group.empty:
            continue
        best = best_baseline(beside)
        fits = group.groupby(["world", "replica"]).energy_distance.mean()
        worse = fits > best.reindex(fits.index.get_level_values("world")).to_numpy()
        low, high = interval(group.groupby("world").rejected.mean().to_numpy())
        lines.append(
            {
                "": name,
                "worlds": group.world.nunique(),
                "fits": len(fits),
                "median": percent(group.share.median()),
                "95th": percent(group.share.quantile(0.95)),
                "largest": percent(group.share.max()),
                "against best baseline": f"{fits.sum() / best.reindex(fits.index.get_level_values('world')).sum():.3f}",
                "fits worse than it": int(worse.sum()),
                "rejected, n = 1,000": f"{group.rejected.mean():.0%} ({low:.0%} to {high:.0%})",
            }
        )
    return pd.DataFrame(lines)


def verdict_table(rows: Any) -> Any:
    """How verdicts and the numbers behind them rank errors: trusted predictions wrong, Spearman correlations."""
    model, lines = with_levels(rows), []
    for name, group in (("all", model), *model.groupby(["study", "kind"])):
        identified = group[group.verdict != "not identified"]
        trusted = group[group.verdict == "trusted"]
        lines.append(
            {
                "predictions of": name if isinstance(name, str) else ", ".join(name),
                "number": len(group),
                "trusted": f"{len(trusted) / len(group):.0%}",
                f"trusted, above {WRONG:.0%}": wrong(trusted),
                f"others, above {WRONG:.0%}": wrong(group[group.verdict != "trusted"]),
                "rank correlation, verdict": correlation(group.verdict.map(ORDER.index), group.share),
                **{
                    f"rank correlation, {signal}": correlation(identified[signal], identified.share)
                    for signal in ("outside", "tested_error", "source_disagreement")
                },
            }
        )
    return pd.DataFrame(lines)


def wrong(group: Any) -> str:
    """Share of predictions that are off by more than `WRONG`."""
    return f"{(group.share > WRONG).mean():.1%}" if len(group) else "-"


def correlation(signal: Any, share: Any) -> str:
    """Spearman's, where both vary."""
    return f"{spearmanr(signal, share)[0]:.2f}" if signal.nunique() > 1 else "-"


def with_levels(rows: Any) -> Any:
    """Predictions of single fits, with their verdicts."""
    model = model_rows(rows)
    return model.assign(verdict=[level(row) for row in model.itertuples()])


def verdict_figure(rows: Any) -> Figure:
    """Error against each signal, coloured by verdict."""
    model = with_levels(rows)
    figure = Figure(figsize=(11.5, 3.4), layout="constrained")
    signals = {"tested_error": "left-out combinations", "outside": "latents outside", "source_disagreement": "sources"}
    for axes, (signal, title) in zip(figure.subplots(1, 3, sharey=True), signals.items(), strict=True):
        for colour, (verdict, group) in zip(PALETTE, model.groupby("verdict"), strict=False):
            axes.loglog(
                group[signal].clip(lower=1e-4), group.share.clip(lower=1e-4), ".", color=colour, label=verdict, ms=4
            )
        axes.axhline(WRONG, color=GREY, lw=1)
        axes.set(xlabel=signal, title=title)
        clean(axes)
    axes.legend(frameon=False, fontsize="small", bbox_to_anchor=(1.0, 1.0))
    figure.axes[0].set_ylabel("energy distance / control's")
    return figure


def ladder_figure(rows: Any) -> Figure:
    """Error against the number of conditions, and of cells in each."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, word in zip(figure.subplots(1, 2, sharey=True), ("conditions", "cells"), strict=True):
        part = rows[rows.variant.str.startswith(f"{word}: ")]
        names = list(dict.fromkeys(part.variant))
        shown = {"pdae": (BLACK, model_rows(part)), **_baselines_shown(part)}
        for name, (colour, group) in shown.items():
            sums = group.groupby("variant")[["energy_distance", "control_distance"]].sum().reindex(names)
            mean = sums.energy_distance / sums.control_distance
            axes.plot(range(len(names)), mean, marker="o", color=colour, label=name)
        axes.set_xticks(range(len(names)), [n.split(": ")[1] for n in names], rotation=20, ha="right", fontsize="small")
        axes.set(yscale="log", title=word)
        clean(axes)
    figure.axes[0].set_ylabel("energy distance / control's")
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def _baselines_shown(rows: Any) -> dict[str, Any]:
    names = ("additive", "linear_regression", "latent_additive")
    return {name: (colour, rows[rows.method == name]) for colour, name in zip(PALETTE, names, strict=False)}


def papers_figure(rows: Any) -> Figure:
    """Every method in every experiment of the papers."""
    rows = rows[(rows.replica != "ensemble") & (rows.method != "control")]
    groups = list(dict.fromkeys(zip(rows.variant, rows.kind, strict=True)))
    methods = [m for m in dict.fromkeys(rows.method) if m != "oracle_half"]
    figure = Figure(figsize=(10, 0.32 * len(groups) + 1.6), layout="constrained")
    axes = figure.subplots()
    colours = [BLACK, *(colour for colour in PALETTE if colour != BLACK)]
    for colour, method in zip(colours, methods, strict=False):
        sums = rows[rows.method == method].groupby(["variant", "kind"])[["energy_distance", "control_distance"]].sum()
        mean = sums.energy_distance / sums.control_distance
        marker, note = ("x", ", fewer worlds") if method in COMPARATORS else ("o", "")
        values = [mean.get(g, np.nan) for g in groups]
        axes.plot(values, range(len(groups)), marker, color=colour, label=method + note, alpha=0.8)
    axes.set_yticks(range(len(groups)), [f"{v}, {k}" for v, k in groups], fontsize="small")
    axes.set(xscale="log", xlabel="energy distance / control's, over worlds and conditions")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small", bbox_to_anchor=(1.0, 1.0))
    clean(axes)
    return figure


def percent(value: float) -> str:
    """``1.2 %``"""
    return f"{100 * value:.2g} %" if abs(value) < 0.1 else f"{100 * value:.0f} %"


TABLES = {
    "ablation": ablation_table,
    "conditions": method_table,
    "papers": method_table,
    "accuracy": accuracy_table,
}
FIGURE_OF = {"conditions": ladder_figure, "papers": papers_figure}


if __name__ == "__main__":
    app.run(main)
