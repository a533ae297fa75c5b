"""What a sweep writes: its table, and its report."""

import pathlib
from typing import Any

from pdae_jax.reporting import sweeps
from pdae_jax.reporting.figures import save_figures
from pdae_jax.reporting.sweeps import SCORE
from pdae_jax.runs.files import write_text
from pdae_jax.spelling import as_markdown, markdown_block, markdown_code

TABLE_FILE = "sweep.csv"
REPORT_FILE = "sweep.md"


def check_own(workdir: pathlib.Path) -> None:
    """Refuse to replace files that no sweep has written, ``FileExistsError``."""
    for name, words in {TABLE_FILE: f"{SCORE},seconds,steps,state", REPORT_FILE: f"Ranked by {SCORE}"}.items():
        if (workdir / name).exists() and words not in (workdir / name).read_text(errors="replace"):
            raise FileExistsError(
                f"{workdir / name} was not written by a sweep, and would be replaced. Move it, or pass another workdir."
            )


def write_table(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Write ``sweep.csv``, the best point first."""
    import pandas as pd

    table = pd.DataFrame(rows).rename(columns={"score": SCORE}).sort_values(SCORE, kind="stable")
    settings = [name for name in table if name not in sweeps.RESULTS]
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / TABLE_FILE, table[[*settings, *sweeps.RESULTS]].to_csv(index=False))


def write_report(workdir: pathlib.Path, table: Any, note: str, timed: bool) -> None:
    """Write ``sweep.md``: the leaderboard, what mattered, and the figures.

    Args:
        workdir: of the sweep.
        table: of its points.
        note: what its rows and its winner are.
        timed: whether the time of a point was an objective, too.
    """
    figures = {"parallel": sweeps.parallel_coordinates(table), "effects": sweeps.setting_effects(table)}
    save_figures(workdir / "figures", figures)
    try:
        mattered = show(sweeps.importance(table))
    except (ImportError, ValueError) as error:
        mattered = f"not computed: {error}"
    failed = table[table["state"] == "failed"]
    lines = [
        f"# Sweep {as_markdown(workdir.name)}\n",
        f"{len(table)} points, {len(failed)} of them failed. Ranked by {SCORE}: energy distance on validation "
        f"conditions, as a fraction of the control's. Test conditions chose nothing. {note}\n",
        markdown_block(show(sweeps.leaderboard(table))) + "\n",
        *(
            ["Points that none beats in both error and time:\n", markdown_block(show(sweeps.trade_offs(table))) + "\n"]
            if timed
            else []
        ),
        "What mattered, as a share of the variance of the logarithm (fANOVA):\n",
        markdown_block(mattered) + "\n",
        "![Points through their settings](figures/parallel.png)\n\n![Each setting by itself](figures/effects.png)\n",
        *(f"- failed: {markdown_code(row.folder)}: {as_markdown(row.error)}" for row in failed.itertuples()),
    ]
    write_text(workdir / REPORT_FILE, "\n".join(lines) + "\n")
    print(f"Report: {workdir / REPORT_FILE}")


def show(table: Any) -> str:
    """Print a table into a text for the terminal."""
    return table.to_string(index=False, float_format="{:.4g}".format)
