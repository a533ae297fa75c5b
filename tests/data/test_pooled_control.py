"""Control cells of several times, plates or lines: warned of where they differ, and silent where they do not."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pdae_jax.data.conditions import Conditions
from pdae_jax.data.load import from_anndata, from_frame
from pdae_jax.data.own_data import own_data
from pdae_jax.data.pooled_control import _share, warn_of_pooled_control


def time_course(drift, cells=60):
    """A drug and its control after 6, 24 and 72 hours, read with the hours as a dose; three plates."""
    random = np.random.default_rng(0)
    hours = np.tile(np.repeat([6.0, 24.0, 72.0], cells), 2)
    x = random.normal(scale=0.5, size=(6 * cells, 3))
    x[:, 1] += drift * np.log(hours / 6)
    frame = pd.DataFrame(x.astype(np.float32), columns=["f", "g", "h"])
    frame["drug"] = np.repeat(["DMSO", "A"], 3 * cells)
    return frame.assign(hours=hours, plate=random.integers(3, size=6 * cells), depth=random.normal(size=6 * cells))


@pytest.mark.parametrize(("drift", "warned"), [(0.0, False), (1.0, True)])
def test_a_control_of_several_times_is_warned_of(log, tmp_path, drift, warned):
    frame, features = time_course(drift), ["f", "g", "h"]
    options = {"condition": "drug", "control": "DMSO"}
    obs = frame[["drug", "hours", "plate", "depth"]].set_axis(frame.index.astype(str))
    adata = anndata.AnnData(frame[features].to_numpy(), obs=obs, var=pd.DataFrame(index=features))
    adata.write_h5ad(tmp_path / "a.h5ad")
    for read in (
        lambda: from_frame(frame, dose="hours", features=features, **options),
        lambda: from_frame(frame, features=features, **options),
        lambda: from_anndata(adata, dose="hours", **options),
        lambda: from_anndata(tmp_path / "a.h5ad", **options),
        lambda: own_data(path=tmp_path / "a.h5ad", store=tmp_path / "cells", **options),
    ):
        log.clear()
        read()
        assert ("its cells differ by 'hours' (" in log.text and "72.0" in log.text) == warned
        assert "'plate'" not in log.text
    log.clear()
    strata = {"condition": ["drug", "hours"], "control": ["DMSO", "6.0"], "strata": "hours", "features": features}
    from_frame(frame.astype({"hours": str}), **strata)
    assert "differ by" not in log.text


def test_doses_that_were_not_read_are_named(log):
    frame = time_course(0.0).assign(dose_nM=np.tile(["0", "10", "100+1000"], 120))
    read = {"condition": "drug", "control": "DMSO", "features": ["f", "g", "h"]}
    from_frame(frame, **read)
    assert "The column 'dose_nM' is not read as doses: 'A' has 3 values of it" in log.text
    obs = frame[["drug", "dose_nM"]].set_axis(frame.index.astype(str))
    log.clear()
    from_anndata(anndata.AnnData(frame[["f", "g"]].to_numpy(), obs=obs), condition="drug", control="DMSO")
    assert "Pass dose='dose_nM'" in log.text
    log.clear()
    singles = frame[frame["dose_nM"] != "100+1000"].assign(drug=lambda f: np.where(f["dose_nM"] == "0", "DMSO", "A"))
    from_frame(singles, dose="dose_nM", **read)
    from_frame(singles.rename(columns={"dose_nM": "overdose"}), **read)
    assert "not read as doses" not in log.text


def test_the_share_is_that_of_kruskal_and_wallis():
    """And means nothing to a change of units, or to cells far out."""
    random = np.random.default_rng(1)
    code, x = np.repeat([0, 1, 2], [30, 50, 20]), np.round(9 * random.normal(size=(100, 1)))  # with ties
    x[code == 1] += 14
    statistic = scipy.stats.kruskal(*(x[code == group, 0] for group in range(3))).statistic
    # the statistic of Kruskal and Wallis with its correction of ties is n - 1 times the share of variance
    expected = 1 - (1 - statistic / 99) * 99 / 97
    for values in (x, np.exp(1e-3 * x), x * 1e20, np.where(x == x.max(), 1e9, x)):
        assert _share(values, code) == pytest.approx(expected, rel=1e-5)
    assert _share(random.normal(size=(100, 50)), code) == 0.0


def test_what_is_found_from_the_cells_themselves_or_has_few_cells_is_passed_over(log):
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    control = Conditions(np.zeros(300, np.int32), np.zeros((1, 0), np.float32), ("control",), ())
    halves = (x[:, 0] > 0).astype(int)
    warn_of_pooled_control(x, control, {"leiden": halves, "barcode": np.arange(300), "all": np.zeros(300)}, "control")
    warn_of_pooled_control(x, control, {"plate": halves}, "another")  # of a test file of its own
    few = np.where(np.arange(300) < 3, "w", "v")
    warn_of_pooled_control(np.where(few[:, None] == "w", 9.0, x), control, {"well": few}, "control")
    assert "differ by" not in log.text
    warn_of_pooled_control(x, control, {"plate": halves, "lane": halves}, "control")
    assert "differ by 'plate' (" in log.text and "So do those of 'lane'" in log.text
