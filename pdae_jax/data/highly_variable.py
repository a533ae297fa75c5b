"""Choice of features before any are read as a whole: those that vary most, by scanpy."""

from typing import Any

import numpy as np
import scipy.sparse
from absl import logging

from pdae_jax.data.conditions import Conditions
from pdae_jax.data.normalisation import TARGET_SUM, is_counts
from pdae_jax.data.observations import row_blocks
from pdae_jax.data.tables import Table, find_columns
from pdae_jax.labels import count_perturbations
from pdae_jax.spelling import first_names

MOST_CELLS = 30_000  # that are looked at


def highly_variable(table: Table, features: list[str], conditions: Conditions, number: int) -> list[str]:
    """Choose the features that vary most, in the order of the file.

    Only cells of the control and of single perturbations are looked at: combinations, which are held out, choose
    nothing. It is `scanpy.pp.highly_variable_genes` with its default, dispersions within bins of the mean, of
    log-normalised values; raw counts are normalised for it.

    Args:
        table: with the matrix, perhaps on disk.
        features: names of those to choose from.
        conditions: of the cells.
        number: of features to keep.

    Raises:
        ImportError: scanpy is not installed.
        ValueError: a number below 1, or above that of the features; values that are not finite.
    """
    if not 1 <= number <= len(features):
        raise ValueError(f"highly_variable={number}, and there are {len(features)} features. Pass a number in between.")
    try:
        import scanpy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "highly_variable needs scanpy, which is not installed. Run make .venv/scanpy.stamp in the repository, or "
            "pip install 'pdae_jax[scanpy]' elsewhere; or pass features=<names>."
        ) from error
    import anndata
    import pandas as pd

    single = count_perturbations(conditions.labels, conditions.perturbations, conditions.strata) <= 1
    rows = np.flatnonzero(single[conditions.index])
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_CELLS])
    columns = slice(None) if features == table.features else find_columns(features, table.features, "var_names")
    found = (block[:, columns] for block in row_blocks(table.matrix, rows))
    blocks = [scipy.sparse.csr_matrix(block, dtype=np.float32) for block in found]
    x: Any = scipy.sparse.vstack(blocks, format="csr")
    bad = np.unique(x.indices[~np.isfinite(x.data)])
    if len(bad):
        raise ValueError(
            f"Features with values that are NaN or infinite: {first_names([features[column] for column in bad])}. Drop "
            f"these cells or features, or impute the values."
        )
    adata = anndata.AnnData(x, var=pd.DataFrame(index=pd.Index(features)))
    if is_counts(x[:200].toarray()):
        scanpy.pp.normalize_total(adata, target_sum=TARGET_SUM)
        scanpy.pp.log1p(adata)
    chosen: Any = scanpy.pp.highly_variable_genes(adata, n_top_genes=number, inplace=False)
    kept = [name for name, varies in zip(features, chosen["highly_variable"], strict=True) if varies]
    logging.info("Kept %d of %d features, highly variable in %d cells", len(kept), len(features), len(rows))
    return kept
