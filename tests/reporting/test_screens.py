"""Figures of screens: they draw what they say, of cells where the answer is known."""

import importlib.util
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from pdae_jax.evaluation.differential import Summary, differential
from pdae_jax.reporting import screens

FEATURES = tuple(f"g{i}" for i in range(30))


@pytest.fixture(scope="module")
def samples():
    """Control, measured and predicted cells; genes 3 and 7 change."""
    random = np.random.default_rng(0)
    shift = np.zeros(30)
    shift[[3, 7]] = 2.0, -1.5
    control, measured, predicted = (random.normal(size=(200, 30)) + s for s in (0 * shift, shift, 0.9 * shift))
    return {"measured": measured, "predicted": predicted, "control": control, "features": FEATURES}


def points_of(axes):
    return [np.stack(line.get_data(), axis=1) for line in axes.lines if line.get_linestyle() == "None"]


def test_volcano_shows_the_test_of_both_samples(samples):
    figure = screens.volcano(**samples, labelled=2, title="A+B")
    measured, predicted, changes = figure.axes
    found = differential(*(Summary.of(samples[name]) for name in ("measured", "control")))
    drawn = points_of(measured)[1]  # the significant ones
    assert len(drawn) == found.significant.sum() >= 2
    np.testing.assert_allclose(drawn[:, 0], found.change[found.significant])
    np.testing.assert_allclose(drawn[:, 1], np.minimum(-np.log10(found.p_adjusted[found.significant]), 50))
    for axes in (measured, predicted, changes):
        assert {text.get_text() for text in axes.texts} == {"g3", "g7"}
    assert figure.get_suptitle() == "A+B"


def test_violins_draw_the_features_that_change_or_those_asked_for(samples):
    titles = [axes.get_title() for axes in screens.violins(**samples).axes]
    assert set(titles[:2]) == {"g3", "g7"}
    axes = screens.violins(**samples, shown=["g7"]).axes[0]
    means = [line.get_ydata()[0] for line in axes.lines]
    np.testing.assert_allclose(means, [samples[k][:, 7].mean() for k in ("control", "measured", "predicted")])
    with pytest.raises(KeyError, match="No feature 'g99'"):
        screens.violins(**samples, shown=["g99"])
    # a feature that is constant in a sample has no density
    silent = samples | {"predicted": np.zeros((50, 30)), "measured": samples["measured"][:3]}  # three wells: no law
    axes = screens.violins(**silent, shown=["g3"]).axes[0]
    assert len(axes.collections) == 1
    assert sorted(axes.lines[1].get_ydata()) == sorted(silent["measured"][:, 3])


def test_embedding_is_one_for_all_samples(samples):
    figure = screens.embedding(**samples)
    for axes in figure.axes:
        control, moved = points_of(axes)
        assert len(control) == len(moved) == 200
        assert abs(moved[:, 0].mean() - control[:, 0].mean()) > 1.0  # the first component is the change
    np.testing.assert_array_equal(points_of(figure.axes[0])[0], points_of(figure.axes[1])[0])
    with pytest.raises(ValueError, match="method='tsne' is not known"):
        screens.embedding(**samples, method="tsne")


def test_umap_is_of_the_first_components(samples, monkeypatch):
    """With a stand-in: the library compiles for half a minute."""
    seen = []

    class Umap:
        def __init__(self, **options):
            assert options == {"random_state": 0, "n_jobs": 1}

        def fit_transform(self, x):
            seen.append(x)
            return x[:, 2:4]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    axes = screens.embedding(**samples, method="umap").axes
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("UMAP 1", "UMAP 2")
    (x,) = seen
    assert x.shape == (600, 30) and np.all(np.diff(x.var(axis=0)) < 1e-9)  # components, from the longest on
    np.testing.assert_allclose(points_of(axes[1])[1], x[400:, 2:4], rtol=1e-6)


WITH_UMAP = """
import sys, numpy as np
from pdae_jax.reporting import screens
random = np.random.default_rng(0)
samples = {name: random.normal(size=(12, 30)) for name in ("measured", "predicted", "control")}
axes = screens.embedding(**samples, features=tuple(map(str, range(30))), method="umap").axes
shown = [line.get_xydata() for line in axes[1].lines if line.get_linestyle() == "None"]
assert axes[0].get_xlabel() == "UMAP 1" and [len(points) for points in shown] == [12, 12]
assert np.isfinite(shown).all() and np.ptp(np.concatenate(shown), axis=0).min() > 0.1
"""


@pytest.mark.slow
def test_umap_draws_where_it_is_installed():
    """Of few cells, where it need not compile."""
    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap is not installed")
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", WITH_UMAP], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
