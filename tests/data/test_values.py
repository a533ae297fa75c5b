"""Scale and shape of what is read: cells that join others, matrices of other lengths, masks."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from pdae_jax import from_anndata, from_arrays, from_frame
from pdae_jax.data.checks import aligned
from pdae_jax.data.own_data import own_data
from pdae_jax.prediction.source import new_cells
from pdae_jax.runs.store import load_data, save_data

NAMES = np.repeat(["control", "A", "B", "A+B"], 40)
CELLS, GENES = len(NAMES), 30
VAR = [f"g{i}" for i in range(GENES)]
RANDOM = np.random.default_rng(0)
DEPTH = RANDOM.lognormal(0, 0.7, (CELLS, 1))
EFFECT = 1 + np.char.count(NAMES, "A")[:, None] * (np.arange(GENES) < 5)
RAW = RANDOM.poisson(RANDOM.gamma(1, 1.5, GENES) * EFFECT * DEPTH) + np.eye(GENES, dtype=int)[0]
TOTAL = RAW.sum(axis=1)
KEPT = ["g1", "g2", "g3", "g7", "g8"]
COLUMNS = [VAR.index(name) for name in KEPT]
INTENSITY = RANDOM.lognormal(3, 1, (CELLS, 3)) * (1 + np.char.count(NAMES, "A")[:, None])


def annotated(x=RAW, names=VAR, **obs):
    table = pd.DataFrame({"condition": NAMES[: len(x)], **obs}, index=[f"c{i}" for i in range(len(x))])
    return anndata.AnnData(np.asarray(x, np.float32), obs=table, var=pd.DataFrame(index=names))


@pytest.fixture(scope="module")
def train():
    return from_anndata(annotated(), features=KEPT, normalize=True)


FRAME = pd.DataFrame(RAW, columns=VAR).assign(condition=NAMES)


@pytest.mark.parametrize(
    "join",
    [
        lambda like: from_anndata(annotated(RAW[:, COLUMNS], KEPT), normalize=True, like=like),
        lambda like: from_frame(FRAME[[*KEPT, "condition"]], normalize=True, like=like),
        lambda like: from_arrays(RAW[:, COLUMNS], NAMES, normalize=True, like=like),
        lambda like: from_arrays(np.log1p(RAW / TOTAL[:, None] * 1e6)[:, COLUMNS], NAMES, like=like),
        lambda like: from_arrays((RAW / TOTAL[:, None] * 1e4)[:, COLUMNS], NAMES, like=like),  # not logged
        lambda like: aligned(from_arrays(RAW[:, COLUMNS], NAMES, features=KEPT, normalize=True), like, "test"),
        lambda like: new_cells(np.log1p(RAW / TOTAL[:, None] * 1e3)[:, COLUMNS], like),
        lambda like: new_cells(annotated(RAW[:, COLUMNS], KEPT), like),
    ],
)
def test_cells_that_were_divided_by_other_totals_do_not_join(train, join):
    with pytest.raises(ValueError, match=r"divided by other totals: the sum of e\^x - 1 over 5 features.*totals="):
        join(train)


@pytest.mark.parametrize(
    "join",
    [
        lambda like: from_anndata(annotated(), normalize=True, like=like),
        lambda like: from_anndata(annotated(RAW[:, COLUMNS], KEPT, n=TOTAL), totals="n", normalize=True, like=like),
        lambda like: from_frame(FRAME, normalize=True, like=like),
        lambda like: from_frame(FRAME[[*KEPT, "condition"]].assign(n=TOTAL), totals="n", normalize=True, like=like),
        lambda like: from_arrays(RAW[:, COLUMNS], NAMES, totals=TOTAL, normalize=True, like=like),
        lambda like: from_arrays(np.log1p(RAW / TOTAL[:, None] * 1e4)[:, COLUMNS], NAMES, like=like),
        lambda like: new_cells(annotated(), like),
        lambda like: new_cells(FRAME, like),
        lambda like: new_cells(annotated(np.log1p(RAW / TOTAL[:, None] * 1e4)), like),
    ],
)
def test_those_of_the_same_totals_do(train, join):
    data = join(train)
    np.testing.assert_allclose(data.x, np.log1p(RAW / TOTAL[:, None] * 1e4)[:, COLUMNS], rtol=1e-4)
    assert data.size_factors is not None


def test_normalised_cells_do_not_join_raw_counts():
    raw = from_arrays(RAW, NAMES)
    with pytest.raises(ValueError, match="The data these cells join are raw counts, and these are normalised"):
        from_arrays(RAW, NAMES, normalize=True, like=raw)
    with pytest.raises(ValueError, match="The data these cells join are raw counts"):
        from_arrays(np.log1p(RAW / TOTAL[:, None] * 1e4), NAMES, like=raw)
    assert from_arrays(RAW, NAMES, like=raw).num_cells == CELLS


@pytest.mark.parametrize(
    ("totals", "message"),
    [
        (TOTAL[:-1], "totals has 159 entries, but x has 160 rows"),
        (TOTAL * 0, "totals has 0.0 in row 0. Pass the counts of each cell, above 0"),
        (np.ones(CELLS), "the features that are kept have more"),
        (np.ma.array(TOTAL, mask=TOTAL > 100), "totals has .* values that are masked"),
    ],
)
def test_totals_that_cannot_be_are_refused(totals, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(RAW, NAMES, normalize=True, totals=totals)
    with pytest.raises(ValueError, match="Pass normalize=True too"):
        from_arrays(RAW, NAMES, totals=totals)


def test_cells_that_lie_far_from_training_are_remarked_on(log):
    x = RANDOM.normal(6, 1, (CELLS, 3))
    train = from_arrays(x, NAMES)
    for other in (x, x + 1, x[:20]):
        from_arrays(other, NAMES[: len(other)], like=train)
        assert "on one scale" not in log.text
    for other in (np.exp(x), 10 * x, (x - 6) * 8 + 6, x - 6):
        log.clear()
        from_arrays(other, NAMES, like=train)
        assert "of these cells are" in log.text and "on one scale" in log.text


def test_unlogged_counts_are_remarked_on(log, tmp_path):
    cpm = RAW / TOTAL[:, None] * 1e6
    for x in (cpm, cpm[:, COLUMNS]):
        log.clear()
        data = from_arrays(x, NAMES)
        assert "normalised, but not logged" in log.text and data.reading.scale == "normalised, but not logged"
    log.clear()
    annotated(cpm).write_h5ad(tmp_path / "a.h5ad")
    from_anndata(tmp_path / "a.h5ad", store=tmp_path / "cells")
    assert "normalised, but not logged" in log.text
    normalised = from_arrays(cpm, NAMES, normalize=True)
    np.testing.assert_allclose(normalised.x, np.log1p(cpm / 100), rtol=1e-4)
    assert normalised.size_factors is None  # what the counts were is not known


def panel(x=INTENSITY):
    return pd.DataFrame(x, columns=["CD3", "CD4", "pS6"])


def test_a_transform_is_remembered_and_applied_to_what_comes_later(tmp_path):
    panel().assign(condition=NAMES).to_csv(tmp_path / "cells.csv", index=False)
    written = own_data(path=tmp_path / "cells.csv", arcsinh=5.0)
    save_data(tmp_path / "train.npz", written)
    train = load_data(tmp_path / "train.npz")
    assert train.reading == written.reading and train.reading.arcsinh == 5.0
    expected = np.arcsinh(INTENSITY / 5).astype(np.float32)
    table, cells = panel().assign(condition=NAMES), annotated(INTENSITY, panel().columns)
    for data in (from_frame(table, like=train), from_anndata(cells, like=train), new_cells(panel(), train)):
        np.testing.assert_allclose(data.x, expected, rtol=1e-5)
    for data in (new_cells(cells, train), new_cells(expected, train), from_arrays(expected, NAMES, like=train)):
        np.testing.assert_allclose(data.x, expected, rtol=1e-5)
    for join in (
        lambda: new_cells(INTENSITY, train),
        lambda: from_arrays(INTENSITY, NAMES, like=train),
        lambda: aligned(from_frame(table), train, "test"),
    ):
        with pytest.raises(ValueError, match=r"are arcsinh\(x / 5\).*look like values before that"):
            join()
    for join in (
        lambda: new_cells(panel(expected), train),
        lambda: from_frame(table.assign(**panel(expected)), like=train),
    ):
        with pytest.raises(ValueError, match=r"look like arcsinh already.*from_arrays"):
            join()
    with pytest.raises(ValueError, match=r"arcsinh=150.0, and the data these cells join have 5.0"):
        from_frame(table, arcsinh=150.0, like=train)


def test_a_layer_is_remembered(tmp_path):
    adata = annotated()
    adata.layers["log"] = np.log1p(RAW / TOTAL[:, None] * 1e4).astype(np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    train = from_anndata(tmp_path / "a.h5ad", layer="log")
    for data in (from_anndata(adata, like=train), new_cells(adata, train)):
        np.testing.assert_array_equal(data.x, adata.layers["log"])
    del adata.layers["log"]
    with pytest.raises(KeyError, match="No layer 'log'"):
        new_cells(adata, train)
    with pytest.raises(KeyError, match=r"No layer 'log'.*layer='X'"):
        from_anndata(adata, like=train)
    with pytest.raises(ValueError, match="These are raw counts"):
        from_anndata(adata, like=train, layer="X")


# shapes


def declare(group, rows):
    """Another number of rows of X in a file."""
    if not hasattr(group["X"], "shape"):
        group["X"].attrs["shape"] = [rows, GENES]
        return
    del group["X"]
    make = group.create_dataset if isinstance(group, h5py.File) else group.create_array
    make("X", shape=(rows, GENES), dtype="f4", chunks=(64, GENES))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rows", [CELLS + 10, CELLS - 10, 2 * 10**12])
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.parametrize("matrix", [np.asarray, scipy.sparse.csr_matrix])
def test_a_matrix_of_other_lengths_than_obs_is_refused(tmp_path, matrix, kind, rows):
    adata, path = annotated(), tmp_path / f"a.{kind}"
    adata.X = matrix(adata.X)
    if kind == "h5ad":
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            declare(file, rows)
    else:
        adata.write_zarr(path)
        declare(zarr.open_group(path, mode="r+", use_consolidated=False), rows)
        zarr.consolidate_metadata(path)
    for options in ({}, {"store": tmp_path / "cells"}):
        with pytest.raises(ValueError, match=rf"X of .* has shape \({rows}, 30\), and there are 160 rows of obs"):
            from_anndata(path, **options)
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("indptr", lambda a: a[:-1]),
        ("indptr", lambda a: np.concatenate([a[:-1], [a[-1] - 5]])),
        ("indptr", lambda a: np.concatenate([a[:3], [a[2] - 1], a[4:]])),
        ("indices", lambda a: a[:-3]),
        ("indices", lambda a: np.where(np.arange(len(a)) == 7, 31, a)),
        ("indices", lambda a: np.where(np.arange(len(a)) == 7, -1, a)),
        ("data", lambda a: a[:-3]),
    ],
)
def test_sparse_parts_that_do_not_fit_together_are_refused(tmp_path, part, change):
    adata = annotated()
    adata.X = scipy.sparse.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        values = change(file["X"][part][:])
        del file["X"][part]
        file["X"][part] = values
    for options in ({}, {"features": ["g1", "g2"]}, {"store": tmp_path / "cells"}):
        with pytest.raises(ValueError, match="damaged"):
            from_anndata(tmp_path / "a.h5ad", **options)


def test_more_columns_than_var_and_shorter_columns_of_obs_are_refused(tmp_path):
    adata = annotated(n=np.arange(CELLS))
    adata.layers["wide"] = adata.X
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["layers/wide"], file["obs/n"]
        file["layers/wide"], file["obs/n"] = np.ones((CELLS, GENES + 1), np.float32), np.arange(CELLS - 1)
    with pytest.raises(ValueError, match=r"Layer 'wide' of .* has shape \(160, 31\)"):
        from_anndata(tmp_path / "a.h5ad", layer="wide", features=["g1"])
    with pytest.raises(ValueError, match="column 'n' of obs has 159 rows, and obs has 160"):
        from_anndata(tmp_path / "a.h5ad", dose="n")


# masks and other containers

HIDDEN = np.ma.masked_array(np.where(INTENSITY > 100, 999, INTENSITY), INTENSITY > 100)


@pytest.mark.parametrize(
    "call",
    [
        lambda: from_arrays(HIDDEN, NAMES),
        lambda: from_arrays(list(HIDDEN), NAMES),
        lambda: from_arrays(INTENSITY, np.ma.masked_array(NAMES, NAMES == "A")),
        lambda: from_arrays(
            INTENSITY, labels=np.ma.masked_array(np.eye(4)[np.arange(CELLS) % 4], np.eye(4)[np.arange(CELLS) % 4] > 0)
        ),
        lambda: from_anndata(
            anndata.AnnData(HIDDEN, obs=pd.DataFrame({"condition": NAMES}, index=[f"c{i}" for i in range(CELLS)]))
        ),
        lambda: from_frame(panel(HIDDEN.filled(np.nan)).convert_dtypes().assign(condition=NAMES)),
    ],
)
def test_masked_and_missing_values_are_refused(call):
    with pytest.raises(ValueError, match=r"masked|missing|NaN"):
        call()


def test_a_mask_over_nothing_is_no_mask():
    data = from_arrays(np.ma.masked_array(INTENSITY, mask=False), NAMES)
    np.testing.assert_array_equal(data.x, INTENSITY.astype(np.float32))


def test_frames_of_other_packages_are_named_with_the_fix():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({name: panel()[name].to_numpy() for name in panel()})
    for call in (lambda: from_frame(frame), lambda: from_arrays(frame, NAMES)):
        with pytest.raises(TypeError, match=r"DataFrame of polars\. Pass a pandas data frame: frame.to_pandas\(\)"):
            call()
    with pytest.raises(TypeError, match=r"columns of its own, 'CD3', 'CD4', 'pS6'. Pass pandas.DataFrame\(x\)"):
        from_arrays(panel().to_records(index=False), NAMES)
