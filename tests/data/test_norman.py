"""Files of Norman et al. in the layouts that people have, and the protocols of the field."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import pdae_jax
from pdae_jax.data.norman import LAYOUTS, norman
from pdae_jax.design.protocols import PROTOCOLS, held_out

SINGLES = [f"G{i}" for i in range(10)]
PAIRS = [(a, b) for i, a in enumerate(SINGLES) for b in SINGLES[i + 1 :]]


def screen(cells=6):
    """All singles and pairs of ten genes, raw counts of 40."""
    random = np.random.default_rng(0)
    parts = [(), *((s,) for s in SINGLES), *PAIRS]
    effects = {s: np.exp(random.normal(0, 0.5, 40)) for s in SINGLES}
    base = random.gamma(0.5, 4.0, 40)
    rates = [base * np.prod([effects[s] for s in names] or [np.ones(40)], axis=0) for names in parts]
    x = np.concatenate([random.poisson(rate, (cells, 40)) for rate in rates]) + (np.arange(40) == 0)
    return [names for names in parts for _ in range(cells)], x.astype(np.float32)


def written(folder, layout, names, x):
    if layout == "gears":
        columns = {"condition": ["+".join(n) if len(n) == 2 else f"{n[0]}+ctrl" if n else "ctrl" for n in names]}
        x = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    elif layout == "cpa":
        columns = {"guide_merged": ["+".join(n) if len(n) == 2 else f"ctrl+{n[0]}" if n else "ctrl" for n in names]}
    elif layout == "geo":
        guides = [
            "_".join([*n, "NegCtrl0"] if len(n) == 1 else n or (f"NegCtrl{i % 2 * 10}", "NegCtrl0"))
            for i, n in enumerate(names)
        ]
        columns = {"perturbation": "unknown", "guide_identity": [f"{guide}__{guide}" for guide in guides]}
    else:
        columns = {"perturbation": ["_".join(n) or "control" for n in names]}
    obs = pd.DataFrame(columns, index=[f"cell{i}" for i in range(len(x))])
    adata = anndata.AnnData(scipy.sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    adata.write_h5ad(folder / f"{layout}.h5ad")
    return folder / f"{layout}.h5ad"


@pytest.mark.parametrize("by", ["mean", "dispersion"])
def test_all_layouts_are_read_alike(tmp_path, by):
    names, x = screen()
    first, second, *others = (
        norman(path=written(tmp_path, layout, names, x), genes=12, by=by, min_cells=2) for layout in LAYOUTS
    )
    for other in others:
        assert other.features == second.features and other.perturbations == second.perturbations
        np.testing.assert_array_equal(other.x, second.x)
        np.testing.assert_array_equal(other.labels[other.condition_index], second.labels[second.condition_index])
    assert first.features == second.features and len(first.features) == 12
    np.testing.assert_allclose(first.x, second.x, atol=1e-4)
    # of twelve genes a cell may have no count of one
    assert np.mean(np.isclose(first.size_factors, second.size_factors, rtol=1e-3)) > 0.9
    assert set(first.perturbations) == set(second.perturbations) == set(SINGLES)
    np.testing.assert_array_equal(first.labels, second.labels)
    control = x[: len(names) // 56] / x[: len(names) // 56].sum(1, keepdims=True) * 1e4
    score = control.mean(0) if by == "mean" else control.var(0) / np.maximum(control.mean(0), 1e-9)
    assert set(first.features) == {f"g{j}" for j in np.argsort(-score)[:12]}


def test_other_files_are_refused_with_the_way_on(tmp_path):
    with pytest.raises(ValueError, match=r"norman\.py:pairs"):
        norman()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        norman(path=tmp_path / "nowhere.h5ad")
    obs = pd.DataFrame({"drug": ["a", "b"]}, index=["0", "1"])
    anndata.AnnData(np.ones((2, 1), np.float32), obs=obs).write_h5ad(tmp_path / "odd.h5ad")
    with pytest.raises(ValueError, match=r"no known layout: obs has .*'drug'.*anndata.py"):
        norman(path=tmp_path / "odd.h5ad")
    with pytest.raises(ValueError, match="'mean' or 'dispersion'"):
        norman(path=tmp_path / "odd.h5ad", by="variance")


@pytest.fixture(scope="module")
def data():
    names, x = screen(cells=2)
    x = x[:, x.max(0) > x.min(0)]
    return pdae_jax.from_arrays(x, ["+".join(n) or "control" for n in names], normalize=True)


def parts(name):
    return set(name.split("+"))


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "stratum"])
@pytest.mark.parametrize("seed", [0, 7])
def test_protocols_hold_out_what_they_say(data, protocol, seed):
    test, validation, left_out, _ = held_out(data, protocol, seed)
    train = set(data.conditions) - {*test, *validation, *left_out}
    assert len({*test, *validation, *left_out}) == len(test) + len(validation) + len(left_out)
    assert all("+" in name for name in (*test, *validation)) and "control" in train
    seen = set().union(*(parts(name) for name in train))
    if protocol in ("doubles", "tenth", "seen2"):
        assert not left_out and train >= set(SINGLES)
        share = {"doubles": 0.5, "tenth": 0.1, "seen2": 0.25}[protocol]
        assert len(test) == pytest.approx(share * len(PAIRS), abs=1)
    else:
        unseen = set(SINGLES) - seen
        assert len(unseen) == {"seen1": 2, "seen0": 5}[protocol]
        number = 1 if protocol == "seen1" else 2
        assert all(len(parts(name) & unseen) == number for name in test)
        assert {name for name in data.conditions if len(parts(name) & unseen) == number and "+" in name} == set(test)
    assert held_out(data, protocol, seed) == (test, validation, left_out, {})
    assert held_out(data, protocol, seed + 1).test != test


def test_ten_folds_hold_out_every_pair_once(data):
    folds = [held_out(data, "tenth", 30 + fold).test for fold in range(10)]
    assert sorted(name for fold in folds for name in fold) == sorted("+".join(pair) for pair in PAIRS)


def test_a_protocol_that_tests_nothing_says_so(data):
    with pytest.raises(ValueError, match="0 pairs have both singles"):
        held_out(data.select(["control", *SINGLES]), "doubles")
    with pytest.raises(ValueError, match="nearest are 'seen1'"):
        held_out(data, "seen_1")
