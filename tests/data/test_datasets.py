import functools
import hashlib
import http.server
import threading

import anndata
import numpy as np
import pytest

from pdae_jax.data import files
from pdae_jax.data.datasets import COMMON_CELL_TYPES, MAPK_GENES, STIMULATIONS, bodenmiller, mapk_rnai, norman_devel
from pdae_jax.data.files import FILES, find_file

NPZ = {"bodenmiller2012": "bodenmiller.npz", "mapk_rnai_2011": "mapk_rnai.npz", "norman_devel": "devel.h5ad"}


def folder_of(name):
    """Where a data set lies, without asking for a download."""
    folders = [
        files.Path(files.os.environ.get("PDAE_DATA_DIR", "")),
        files.Path(files.__file__).parents[3] / "shared/data",
    ]
    found = [folder / name for folder in folders if (folder / name).is_dir()]
    if not found:
        pytest.skip(f"{name} is neither under $PDAE_DATA_DIR nor under ../shared/data")
    return found[0]


@pytest.fixture(scope="module")
def cytof():
    folder_of("bodenmiller2012")
    return bodenmiller(features="all")


def reference(name):
    """The same content in plain arrays, made by other means."""
    path = folder_of(name) / NPZ[name]
    if not path.is_file():
        pytest.skip(f"no {path}")
    return dict(np.load(path)) if path.suffix == ".npz" else anndata.read_h5ad(path)


def test_bodenmiller_is_what_was_published(cytof):
    plain = reference("bodenmiller2012")
    stimulation = plain["stimulation_names"][plain["stimulation"]]
    cell_type = plain["cell_type_names"][plain["cell_type"]]
    assert tuple(plain["feature_names"]) == cytof.features
    seen = 0
    for condition, label in zip(cytof.conditions, cytof.labels, strict=True):
        names = [name for name, dose in zip(cytof.perturbations, label, strict=True) if dose]
        (stimulus,) = [name for name in names if name in STIMULATIONS] or ["unstimulated"]
        (kind,) = [name for name in names if name not in STIMULATIONS] or ["cd4+"]
        rows = (stimulation == stimulus) & (cell_type == kind)
        np.testing.assert_array_equal(cytof.cells(condition), plain["X"][rows])
        seen += rows.sum()
    assert (cytof.num_conditions, cytof.num_perturbations, seen) == (54, 16, 51_934)
    assert cytof.control == "unstimulated"
    np.testing.assert_array_equal(cytof.label("vanadate & igm+"), cytof.label({"igm+": 1, "vanadate": 1}))
    functional = bodenmiller()
    assert functional.features == cytof.features[:14]
    np.testing.assert_array_equal(functional.x, cytof.x[:, :14])


def test_bodenmiller_restricted():
    folder_of("bodenmiller2012")
    data = bodenmiller(cell_types=COMMON_CELL_TYPES, min_cells=150)
    assert (data.num_conditions, data.num_perturbations, data.counts.min()) == (24, 8, 155)
    few = bodenmiller(cell_types=["dendritic", "cd4+"], min_cells=29)
    assert set(few.conditions) == {"unstimulated", *STIMULATIONS, "dendritic", "BCR/FcR-XL & dendritic"}
    assert few.perturbations == (*STIMULATIONS, "dendritic")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"features": "surface"}, ValueError, "'surface'.*'functional' or 'all'"),
        ({"min_cells": 1}, ValueError, "min_cells is 1.*at least 2"),
        ({"cell_types": ["nk", "cd8+"]}, ValueError, r"no 'cd4\+'.*Add it"),
        ({"cell_types": ["cd4+", "nkk"]}, KeyError, "'nkk'.*'nk'"),
    ],
)
def test_bodenmiller_says_what_is_wrong(options, error, message):
    folder_of("bodenmiller2012")
    with pytest.raises(error, match=message):
        bodenmiller(**options)


def wells(plain, first, second, screen=None):
    """Rows of an unordered pair of genes, in the order of the files."""
    template, query = (plain["gene_names"][plain[side]] for side in ("template_gene", "query_gene"))
    rows = ((template == first) & (query == second)) | ((template == second) & (query == first))
    return plain["X"][rows if screen is None else rows & (plain["screen"] == screen)]


def test_mapk_is_what_was_published():
    plain = reference("mapk_rnai_2011")
    data = mapk_rnai(log2=False, center=False, positive_controls=True)
    assert (data.num_cells, data.num_conditions, data.num_perturbations) == (73_728, 4_950, 98)
    texts = [find_file(f"mapk_rnai_2011/upstream/Data_Dmel2_PPMAPK_{screen}.txt") for screen in (2, 4)]
    parsed = np.concatenate([np.loadtxt(text, skiprows=1, usecols=(2, 3, 4)) for text in texts])
    np.testing.assert_array_equal(data.x, parsed.astype(np.float32))
    np.testing.assert_array_max_ulp(data.x, plain["X"], 1)  # the plain arrays were rounded twice
    pairs = {"Sos": ("Sos", "Ctrl_Fluc"), "Sos:2": ("Sos", "Sos"), "Ctrl_Fluc": ("Ctrl_Fluc", "Ctrl_Fluc")}
    pairs |= {"Gap1+Sos": ("Sos", "Gap1"), "Ctrl_pbl_1": ("Ctrl_Fluc", "Ctrl_pbl_1"), "PTP-ER+rl": ("rl", "PTP-ER")}
    for condition, (first, second) in pairs.items():
        np.testing.assert_array_max_ulp(data.cells(condition), wells(plain, first, second), 1)
        genes = [gene for gene in (first, second) if gene != "Ctrl_Fluc"]
        np.testing.assert_array_equal(data.label(condition), [genes.count(name) for name in data.perturbations])


def test_mapk_drops_other_positives_and_centres_screens():
    plain = reference("mapk_rnai_2011")
    data = mapk_rnai()
    assert dict(zip(*np.unique(data.counts, return_counts=True), strict=True)) == {2: 1, 8: 186, 16: 4278}
    assert not any(name.startswith("Ctrl_") for name in data.perturbations)
    np.testing.assert_allclose(
        mapk_rnai(center=False).cells("Sos"), np.log2(wells(plain, "Sos", "Ctrl_Fluc")), rtol=1e-6
    )
    medians = [np.median(np.log2(plain["X"][plain["screen"] == screen]), axis=0) for screen in (1, 2)]
    overall = np.median(np.log2(plain["X"]), axis=0)
    one, two = (wells(plain, "Ctrl_Fluc", "Ctrl_Fluc", screen) for screen in (1, 2))
    expected = np.concatenate([np.log2(one) + overall - medians[0], np.log2(two) + overall - medians[1]])
    np.testing.assert_allclose(data.cells("Ctrl_Fluc"), expected, rtol=1e-6)
    second = mapk_rnai(screen=2)
    np.testing.assert_allclose(second.cells("Sos"), np.log2(wells(plain, "Sos", "Ctrl_Fluc", 2)), rtol=1e-6)
    expected = np.concatenate([np.log2(one) + medians[1] - medians[0], np.log2(two)])
    np.testing.assert_allclose(second.cells("Ctrl_Fluc"), expected, rtol=1e-6)


def test_mapk_without_double_doses_and_with_few_genes():
    folder_of("mapk_rnai_2011")
    everything = mapk_rnai()
    assert everything.perturbations == MAPK_GENES
    data = mapk_rnai(double_dose=False)
    assert set(everything.conditions) - set(data.conditions) == {f"{gene}:2" for gene in MAPK_GENES}
    assert data.labels.max() == 1
    small = mapk_rnai(genes=3)
    a, b, c = small.perturbations
    assert (a, b, c) == MAPK_GENES[:3] and small.num_conditions == 1 + 3 + 3 + 3
    for name in small.conditions:
        np.testing.assert_array_equal(small.cells(name), everything.cells(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": 1}, "genes is 1. Pass 2 to 93"),
        ({"screen": 3}, "screen is 3.*None for both"),
        ({"screen": 1, "center": False}, "one well of the control.*center=True"),
        ({"screen": 1, "positive_controls": True}, "each positive control.*positive_controls=False"),
    ],
)
def test_mapk_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        mapk_rnai(**options)


def test_norman_devel_is_what_was_published():
    adata = reference("norman_devel")
    adata = adata[(adata.obs["dataset"] == "norman19").to_numpy()]
    frame = adata.to_df()
    data = norman_devel()
    assert data.features == tuple(frame.columns[frame.nunique() > 1])
    np.testing.assert_array_equal(data.x, frame[list(data.features)].to_numpy(np.float32))
    names = adata.obs["condition"].tolist()
    assert [data.conditions[row] for row in data.condition_index] == names
    labels = [[float(gene in name.split("+")) for gene in data.perturbations] for name in names]
    np.testing.assert_array_equal(data.labels[data.condition_index], labels)
    orders = (data.labels > 0).sum(axis=1)
    assert [(orders == order).sum() for order in (0, 1, 2)] == [1, 18, 15]
    expressed = norman_devel(features="expressed")
    assert expressed.features == tuple(frame.columns[(frame > 0).mean() > 0.1])
    assert expressed.num_features == 35
    with pytest.raises(ValueError, match=r"'variable'.*'expressed'"):
        norman_devel(features="variable")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data on this machine, an empty cache, and one published file on a server of our own."""
    name, content = "norman_devel/devel.h5ad", b"published"
    published = FILES[name]._replace(sha256=hashlib.sha256(content).hexdigest())
    path = tmp_path / "server" / published.repository / published.commit / published.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    monkeypatch.delenv("PDAE_DATA_DIR", raising=False)
    monkeypatch.setitem(FILES, name, published)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(files, "__file__", str(tmp_path / "lib" / "pdae_jax" / "data" / "files.py"))
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "server")
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(files, "_RAW", f"http://127.0.0.1:{server.server_port}")
        yield tmp_path, name, path
        server.shutdown()
        thread.join()


def test_a_file_is_looked_for_in_order(nowhere, monkeypatch):
    root, name, served = nowhere
    assert find_file(name) == root / "cache" / "pdae_jax" / name  # downloaded
    served.unlink()
    assert find_file(name) == root / "cache" / "pdae_jax" / name  # and kept
    monkeypatch.setenv("PDAE_DATA_DIR", str(root / "mine"))
    for folder in ("lib/../shared/data", "work/shared/data", "mine"):
        path = root / folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"published")
        assert find_file(name) == path.resolve()


def test_a_changed_file_is_refused(nowhere, monkeypatch):
    root, name, served = nowhere
    served.write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"SHA256.*devel\.h5ad"):
        find_file(name)
    path = root / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"changed")
    monkeypatch.setenv("PDAE_DATA_DIR", str(root / "mine"))
    with pytest.raises(ValueError, match=r"mine/norman_devel/devel\.h5ad.*not the published file.*Delete or replace"):
        find_file(name)


def test_a_file_that_is_nowhere(nowhere):
    _, name, served = nowhere
    served.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"(?s)No 'norman_devel/devel\.h5ad' in .*work/shared/data.*404.*PDAE_DATA_DIR"
    ):
        find_file(name)
    with pytest.raises(KeyError, match=r"'norman_devel/devel\.h5'.*'norman_devel/devel\.h5ad'"):
        find_file("norman_devel/devel.h5")
