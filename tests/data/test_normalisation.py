"""Raw counts: recognised, normalised, and given back."""

import anndata
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import pdae_jax
from pdae_jax.data.normalisation import is_counts, read_counts, size_factors
from pdae_jax.runs.store import fingerprint, load_data, save_data
from pdae_jax.view.lattice import log_normalised, to_counts

NAMES = np.repeat(["ctrl", "A", "B", "A+B"], 60)


@pytest.fixture(scope="module")
def raw():
    """Over-dispersed counts of 240 cells and 30 genes with library sizes from 500 to 6,000."""
    random = np.random.default_rng(0)
    rates = random.gamma(0.7, 1.0, 30) * np.where(NAMES == "ctrl", 1.0, 1.6)[:, None]
    depth = np.exp(random.normal(0, 0.6, (len(NAMES), 1)))
    counts = random.poisson(rates * depth * random.gamma(3, 1 / 3, (len(NAMES), 30)))
    counts[:, 0] += 1  # no cell is empty
    return counts


def test_raw_counts_become_logs_of_counts_per_ten_thousand(raw):
    data = pdae_jax.from_arrays(raw, NAMES, control="ctrl", normalize=True)
    expected = np.log1p(raw / raw.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(data.x, expected, rtol=1e-5)
    np.testing.assert_allclose(data.size_factors, raw.sum(1) / 1e4, rtol=1e-6)
    np.testing.assert_array_equal(to_counts(np.random.default_rng(0), data.x, data.size_factors), raw)


@pytest.mark.parametrize("matrix", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_size_of_a_cell_is_that_of_all_genes_of_the_file(raw, matrix, on_disk, tmp_path):
    obs = pd.DataFrame({"condition": NAMES}, index=[f"cell{i}" for i in range(len(NAMES))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(30)])
    adata = anndata.AnnData(scipy.sparse.csr_matrix(raw.shape, dtype=np.float32), obs=obs, var=var)
    adata.layers["counts"] = matrix(raw.astype(np.float32))
    if on_disk:
        adata.write_h5ad(tmp_path / "mine.h5ad")
    source = tmp_path / "mine.h5ad" if on_disk else adata
    options = {"control": "ctrl", "layer": "counts", "features": ["g3", "g1"], "normalize": True}
    data = pdae_jax.from_anndata(source, **options)
    np.testing.assert_allclose(data.size_factors, raw.sum(1) / 1e4, rtol=1e-6)
    np.testing.assert_allclose(data.x, np.log1p(raw[:, [3, 1]] / raw.sum(1, keepdims=True) * 1e4), rtol=1e-5)


def test_size_factors_follow_the_cells(raw, tmp_path):
    data = pdae_jax.from_arrays(raw, NAMES, control="ctrl", normalize=True)
    train, test = pdae_jax.hold_out(data, ["A+B"])
    np.testing.assert_array_equal(test.size_factors, data.size_factors[NAMES == "A+B"])
    np.testing.assert_array_equal(train.select(["B"]).size_factors, data.size_factors[NAMES == "B"])
    first, second = pdae_jax.hold_out_cells(jax.random.key(0), data, 0.3)
    for part in (first, second):
        rows = [int(np.flatnonzero((data.x == x).all(1))[0]) for x in part.x]
        np.testing.assert_array_equal(part.size_factors, data.size_factors[rows])
    save_data(tmp_path / "data.npz", data)
    again = load_data(tmp_path / "data.npz")
    np.testing.assert_array_equal(again.size_factors, data.size_factors)
    assert fingerprint(again) == fingerprint(data)
    assert fingerprint(data.take(np.arange(data.num_cells))) == fingerprint(data)


@pytest.mark.parametrize("target", [1e4, 1e6, 3000.0])
def test_normalised_counts_show_their_size_factors(raw, target):
    total = raw.sum(1, keepdims=True)
    x = np.log1p(raw / total * target).astype(np.float32)
    np.testing.assert_allclose(size_factors(x), total[:, 0] / target, rtol=1e-4)
    data = pdae_jax.from_arrays(x, NAMES, control="ctrl")
    np.testing.assert_array_equal(to_counts(np.random.default_rng(0), data.x, data.size_factors), raw)


def test_a_cell_whose_smallest_count_is_not_one_is_read_right():
    counts = np.array([[2, 3, 0, 7, 0], [1, 4, 0, 0, 9], [3, 5, 0, 8, 0], [9, 9, 29, 102, 0]])
    x = np.log1p(counts / 0.37).astype(np.float32)
    np.testing.assert_allclose(size_factors(x), 0.37, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda random: random.normal(size=(50, 9)),  # negative values
        lambda random: np.maximum(random.normal(size=(50, 9)), 0),  # zeros, and no lattice
        lambda random: random.poisson(3.0, (50, 9)) + 1.0,  # no zeros
        lambda random: random.integers(0, 2, (50, 9)),  # present or absent
        lambda random: np.log1p(random.integers(0, 2, (50, 9))),  # one value but zero
        lambda random: np.arcsinh(random.poisson(1.0, (50, 9)) / 5 + random.uniform(0, 0.1, (50, 9))),
    ],
)
def test_other_values_are_not_taken_for_counts(make):
    x = make(np.random.default_rng(0)).astype(np.float32)
    assert not is_counts(x)
    assert size_factors(x) is None
    with pytest.raises(ValueError, match="no raw counts"):
        read_counts(x, None, True)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("kind", ["shares of reads", "ambient background taken off"])
def test_fractional_counts_are_normalised_and_give_no_whole_numbers(raw, kind, stored, tmp_path, log):
    random = np.random.default_rng(1)
    some = random.random(raw.shape) < (0.1 if kind == "shares of reads" else 1.0)
    x = np.where(some & (raw > 0), np.maximum(raw - random.uniform(0, 0.9, raw.shape), 0), raw).astype(np.float32)
    x *= 1 if kind == "shares of reads" else 3  # deep enough not to be logarithms
    obs = pd.DataFrame({"condition": NAMES}, index=[f"cell{i}" for i in range(len(NAMES))])
    anndata.AnnData(x, obs=obs).write_h5ad(tmp_path / "mine.h5ad")
    store = tmp_path / "cells" if stored else None
    data = pdae_jax.from_anndata(tmp_path / "mine.h5ad", control="ctrl", normalize=True, store=store)
    np.testing.assert_allclose(data.x[:], np.log1p(x / x.sum(1, keepdims=True) * 1e4), rtol=1e-4, atol=1e-6)
    assert data.size_factors is None
    assert "Fractional counts" in log.text and "predictions will be no whole numbers" in log.text
    stray = raw.astype(np.float32)
    stray[30, 2] = 0.5
    with pytest.raises(ValueError, match=r"1 of 240 cells are no whole numbers, the first in row 30.*Round"):
        pdae_jax.from_arrays(stray, NAMES, control="ctrl", normalize=True)


def test_one_cell_off_its_lattice_is_enough_for_no_counts(raw):
    x = np.log1p(raw / raw.sum(1, keepdims=True) * 1e4).astype(np.float32)
    assert size_factors(x) is not None
    x[130] *= 0.9
    assert size_factors(x) is None


def test_missing_values_are_named_before_counts_are_looked_for(raw):
    x = raw.astype(np.float32)
    x[3, 4] = np.nan
    for normalize in (False, True):
        with pytest.raises(ValueError, match=r"Feature 'x4' has 1 values that are NaN.*row 3"):
            pdae_jax.from_arrays(x, NAMES, control="ctrl", normalize=normalize)


def test_raw_counts_do_not_join_normalised_ones(raw):
    data = pdae_jax.from_arrays(raw, NAMES, control="ctrl", normalize=True)
    with pytest.raises(ValueError, match=r"raw counts.*normalize=True"):
        pdae_jax.from_arrays(raw[60:120], NAMES[60:120], like=data)
    joined = pdae_jax.from_arrays(raw[60:120], NAMES[60:120], like=data, normalize=True)
    np.testing.assert_allclose(joined.x, data.cells("A"))


def test_what_was_read_is_said(raw, log):
    pdae_jax.from_arrays(raw, NAMES, control="ctrl")
    assert "raw counts" in log.text and "normalize=True" in log.text
    log.clear()
    pdae_jax.from_arrays(np.log1p(raw / raw.sum(1, keepdims=True) * 1e4), NAMES, control="ctrl")
    assert "log-normalised counts" in log.text
    empty = raw.copy()
    empty[7] = 0
    with pytest.raises(ValueError, match="1 cells have no count at all, the first in row 7"):
        pdae_jax.from_arrays(empty, NAMES, control="ctrl", normalize=True)


def test_counts_of_moved_values_have_the_right_mean():
    random = np.random.default_rng(0)
    x = np.full((20_000, 2), np.log1p([0.3, 7.4]), np.float32)
    sizes = np.repeat([0.5, 2.0], 10_000)
    counts = to_counts(random, x, sizes)
    for part in (slice(10_000), slice(10_000, None)):
        np.testing.assert_allclose(log_normalised(counts[part], sizes[part]).mean(0), x[0], rtol=0.03)
        assert len(np.unique(counts[part, 1])) == 2
    np.testing.assert_allclose(np.expm1(log_normalised(counts, sizes)) * sizes[:, None], counts, atol=1e-3)


@pytest.mark.slow
def test_predictions_come_as_counts(raw):
    data = pdae_jax.from_arrays(raw, NAMES, control="ctrl", normalize=True)
    train, _ = pdae_jax.hold_out(data, ["A+B"])
    key = jax.random.key(0)
    fitted = pdae_jax.fit(train, key=key, num_steps=20, log_every=10, eval_every=10, checkpoint_every=10, hidden=(8,))
    prediction = pdae_jax.predict(fitted, "A+B", key=key, num_samples=50)
    counts = prediction.counts(key)
    assert counts.shape == (50, 30) and counts.dtype.kind == "i" and counts.min() == 0
    assert set(prediction.size_factors) <= set(train.size_factors[train.rows[0]])
    # cells that stay where they are come back as they were
    same = pdae_jax.predict(fitted, "ctrl", key=key)
    control = {tuple(row) for row in raw[NAMES == "ctrl"]}
    assert {tuple(row) for row in same.counts(key)} == control
    deep = prediction.counts(key, size_factors=1.0)
    assert np.abs(deep - np.expm1(prediction.samples)).max() < 1.001
    with pytest.raises(ValueError, match="greater than 0"):
        prediction.counts(key, size_factors=0.0)
    with pytest.raises(ValueError, match="normalize=True"):
        prediction._replace(size_factors=None).counts(key)
    with pytest.raises(ValueError, match="raw counts"):
        pdae_jax.predict(fitted, "A+B", key=key, source=raw[:20])
    new = pdae_jax.predict(fitted, "A", key=key, source=np.log1p(raw[:20] / raw[:20].sum(1, keepdims=True) * 1e4))
    np.testing.assert_allclose(np.sort(new.size_factors), np.sort(raw[:20].sum(1) / 1e4), rtol=1e-4)
