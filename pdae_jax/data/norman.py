"""The screen of Norman et al. 2019 in the files that people have: of GEO, GEARS, scPerturb, CPA, or one's own."""

from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pdae_jax.data.anndata_files import open_anndata
from pdae_jax.data.entries import read_names
from pdae_jax.data.load import from_anndata
from pdae_jax.data.normalisation import TARGET_SUM, is_counts
from pdae_jax.data.notation import make_notation, with_found_controls
from pdae_jax.data.observations import read_observations, row_blocks
from pdae_jax.labels import split_name
from pdae_jax.spelling import first_names, matching_names
from pdae_jax.types import PerturbationData

#: How files write conditions: column of obs, name of the control, what joins two genes.
LAYOUTS = {
    "gears": ("condition", "ctrl", "+"),  # "KLF1+ctrl", "CBL+UBASH3B", log-normalised
    "scperturb": ("perturbation", "control", "_"),  # "KLF1", "CBL_UBASH3B", raw counts
    "cpa": ("guide_merged", "ctrl", "+"),  # "KLF1+ctrl", "CBL+UBASH3B", raw counts
    "geo": ("guide_identity", "NegCtrl*", "_"),  # "KLF1_NegCtrl0__KLF1_NegCtrl0", "CBL_UBASH3B__CBL_UBASH3B"
}
_LOOKED_AT = 200  # cells


def norman(
    *,
    path: str | Path | None = None,
    genes: int = 1000,
    by: str = "mean",
    min_cells: int = 50,
    store: str | Path | None = None,
) -> PerturbationData:
    """Load cells of the control, 105 single genes and 131 pairs (CRISPRa, K562; Science 365:786), log1p counts per
    10,000.

    Args:
        path: an .h5ad file in one of `LAYOUTS`, which its columns tell. It is published as GSE133344, whose
            ``cell_identities.csv`` has ``guide_identity``, and by GEARS (dataverse file ``norman``), scPerturb
            (``NormanWeissman2019_filtered.h5ad``) and CPA (``Norman2019_raw.h5ad``).
        genes: number of genes to keep.
        by: those of highest ``mean``, as in the comparison of Ahlmann-Eltze et al., or ``dispersion`` (variance over
            mean of counts). Both look at control cells only, so that held-out conditions choose nothing.
        min_cells: conditions with fewer cells are dropped.
        store: folder for the cells, where they are not to be in memory, see `from_anndata`.

    Raises:
        ValueError: no path, a file in no known layout, an unknown `by`.
        FileNotFoundError: there is no such file.
    """
    if path is None:
        raise ValueError(
            "No file. Pass config.data.path=<an .h5ad file of Norman et al. 2019, of GEO, GEARS, scPerturb or CPA>, or "
            "use norman.py:pairs (semi-real cells) or norman.py:devel (a small real part)."
        )
    if by not in ("mean", "dispersion"):
        raise ValueError(f"by={by!r} is not known; pass 'mean' or 'dispersion'.")
    condition, control, separator = _layout(path)
    with open_anndata(path, [condition]) as table:
        raw = is_counts(read_observations(table.matrix[:_LOOKED_AT]))
        texts = table.obs[condition].astype(str).tolist()
        notation = with_found_controls(make_notation(control, separator), texts)
        of_control = np.flatnonzero(read_names(texts, notation).index == 0)
        mean, variance = _moments(table.matrix, of_control, raw)
        names = table.features
    score = mean if by == "mean" else np.where(mean > 0, variance / np.where(mean > 0, mean, 1.0), 0.0)
    kept = np.sort(np.argsort(-score, kind="stable")[:genes])
    logging.info("Norman et al.: %s, %d of %d genes by %s in control cells", path, len(kept), len(names), by)
    return from_anndata(
        path,
        condition=condition,
        control=control,
        separator=separator,
        features=[names[column] for column in kept],
        min_cells=min_cells,
        normalize=raw,
        store=store,
    )


def _layout(path: str | Path) -> tuple[str, str, str]:
    """Which of the `LAYOUTS` a file has: a column by its name, with the control among its values."""
    import h5py

    if not Path(path).is_file():
        raise FileNotFoundError(f"No file {str(path)!r}. Pass the path of an .h5ad file.")
    with h5py.File(path, "r") as file:
        obs: Any = file.get("obs")
        columns = [] if obs is None else list(obs)
    for condition, control, separator in LAYOUTS.values():
        if condition in columns:
            with open_anndata(path, [condition]) as table:
                texts = table.obs[condition].astype(str).unique()
            if any(matching_names(control, split_name(text, separator)) for text in texts):
                return condition, control, separator
    raise ValueError(
        f"{str(path)!r} is in no known layout: obs has {first_names(columns)}. Known are "
        f"{', '.join(f'{column} with {control}' for column, control, _ in LAYOUTS.values())}. Use "
        f"experiments/configs/anndata.py, and name its columns."
    )


def _moments(matrix: Any, rows: np.ndarray, raw: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of counts per 10,000 of some cells, over all genes, a block of rows at a time."""
    total, square = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
    for block in row_blocks(matrix, rows):
        x = read_observations(block).astype(np.float64)
        x = x / np.maximum(x.sum(axis=1, keepdims=True), 1.0) * TARGET_SUM if raw else np.expm1(x)
        total, square = total + x.sum(axis=0), square + (x**2).sum(axis=0)
    mean = total / len(rows)
    return mean, square / len(rows) - mean**2
