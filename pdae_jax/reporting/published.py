"""Figures that others published for a data set and a protocol, as they stand there: not computed here."""

from typing import NamedTuple

from pdae_jax.spelling import markdown_table


class Published(NamedTuple):
    """One figure, or several, of a method."""

    method: str
    metric: str
    value: str
    source: str


_MEANS = "Ahlmann-Eltze, Huber and Anders, Nature Methods 2025, read off the figures"
_MIX = "DeMixPert, arXiv 2608.23114"
_E_TOP = "E-distance on the top-100 DE genes; centroid accuracy; PDS"
_L2 = "L2 of the means over the 1,000 genes of highest expression; Pearson delta"

#: (data set, protocol) of a config -> figures.
PUBLISHED: dict[tuple[str, str], tuple[Published, ...]] = {
    ("norman", "doubles"): (
        Published("additive", _L2, "2.8 to 2.9; 0.89", _MEANS),
        Published("GEARS", _L2, "3.9 to 4.0; 0.63", _MEANS),
        Published("scFoundation", _L2, "4.6; 0.56", _MEANS),
        Published("scGPT", _L2, "4.7 to 4.8; 0.52", _MEANS),
        Published("no change", _L2, "5.6 to 5.7; -", _MEANS),
        Published("DeMixPert", _E_TOP, "0.374; 0.750; 0.981", _MIX),
        Published("scDFM", _E_TOP, "0.711; 0.463; 0.890", _MIX),
        Published("GEARS", _E_TOP, "0.855; 0.237; 0.802", _MIX),
        Published("STATE", _E_TOP, "1.341; 0.031; 0.524", _MIX),
        Published("scGPT", _E_TOP, "3.174; 0.940; 0.886", _MIX),
    ),
}


def format_published(data: str, protocol: str) -> str | None:
    """Write the figures as markdown, or None where there are none."""
    figures = PUBLISHED.get((data, protocol))
    if not figures:
        return None
    note = (
        "As published, with the genes, cells and preprocessing of their authors, which are not those of this run: they "
        "say what to expect. Nothing of it was computed here."
    )
    return note + "\n\n" + markdown_table(["method", "metric", "value", "source"], figures)
