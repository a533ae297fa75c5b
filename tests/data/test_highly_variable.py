"""Features chosen by scanpy: those that vary, from cells that choose no combination, in memory and from a file."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import pdae_jax
from pdae_jax import from_anndata
from pdae_jax.data import observations

scanpy = pytest.importorskip("scanpy")

GENES = [f"g{i}" for i in range(60)]


@pytest.fixture(scope="module")
def adata():
    """Counts: ten genes vary from cell to cell, ten others do in the combination only."""
    random = np.random.default_rng(0)
    conditions = np.repeat(["ctrl", "A", "B", "A+B"], 150)
    rate = np.tile(np.linspace(1, 5, 60), (600, 1))
    rate[:, :60:6] *= random.lognormal(0, 1.5, (600, 10))
    rate[450:, 1:60:6] *= random.lognormal(0, 3.0, (150, 10))
    counts = random.poisson(rate).astype(np.float32)
    obs = pd.DataFrame({"condition": conditions}, index=pd.Index([f"c{i}" for i in range(600)]))
    return anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=pd.Index(GENES)))


def test_combinations_choose_nothing_and_a_file_gives_the_same(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(observations, "BLOCK_ROWS", 128)
    data = from_anndata(adata, control="ctrl", highly_variable=10, normalize=True)
    singles = adata[adata.obs["condition"] != "A+B"].copy()
    assert data.features == from_anndata(singles, control="ctrl", highly_variable=10, normalize=True).features
    assert len(set(data.features) & set(GENES[:60:6])) >= 6 > len(set(data.features) & set(GENES[1:60:6]))
    # sizes are those of all genes, as where the features are named
    named = from_anndata(adata, control="ctrl", features=data.features, normalize=True)
    np.testing.assert_array_equal(data.x, named.x)
    adata.write_h5ad(tmp_path / "a.h5ad")
    for options in ({}, {"store": tmp_path / "cells"}):
        again = from_anndata(tmp_path / "a.h5ad", control="ctrl", highly_variable=10, normalize=True, **options)
        assert again.features == data.features
        np.testing.assert_array_equal(again.x[:], data.x)


def test_chosen_are_those_of_scanpy(adata):
    some = adata[adata.obs["condition"] != "A+B"].copy()
    scanpy.pp.normalize_total(some, target_sum=1e4)
    scanpy.pp.log1p(some)
    scanpy.pp.highly_variable_genes(some, n_top_genes=23)
    data = from_anndata(adata, control="ctrl", highly_variable=23, normalize=True)
    assert set(data.features) == set(some.var_names[some.var["highly_variable"]])


def test_what_makes_no_sense_is_refused(adata):
    with pytest.raises(ValueError, match="highly_variable=61, and there are 60 features"):
        from_anndata(adata, control="ctrl", highly_variable=61)
    with pytest.raises(ValueError, match="Pass one"):
        from_anndata(adata, control="ctrl", highly_variable=5, features=["g1"])
    train = from_anndata(adata, control="ctrl", normalize=True)
    with pytest.raises(ValueError, match="Pass one"):
        pdae_jax.from_anndata(adata, highly_variable=5, like=train)


def test_a_missing_value_is_named_and_not_taken_for_variation(adata):
    counts = adata.X.toarray()
    counts[7, 3] = np.nan
    broken = anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=adata.obs, var=adata.var)
    with pytest.raises(ValueError, match="NaN or infinite: 'g3'"):
        from_anndata(broken, control="ctrl", highly_variable=5)
