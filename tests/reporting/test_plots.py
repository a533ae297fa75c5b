import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from pdae_jax.reporting import plots

RANDOM = np.random.default_rng(0)
HISTORY = [
    {
        "step": 10 * i, "total": 2.0 / i, "translation": 1.5 / i, "reconstruction": 0.5 / i, "contrast": 0.0,
        "gradient_norm": 1.0, "steps_per_second": 100.0, **({"validation_energy_distance": 1 / i} if i % 2 else {}),
    }
    for i in range(1, 20)
]  # fmt: skip


def pixels(figure):
    """The figure as its reader sees it."""
    file = io.BytesIO()
    figure.savefig(file, dpi=60)
    file.seek(0)
    return imread(file)


def texts(figure):
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def make_table():
    distances = {"pdae": [0.1, 0.02], "additive": [0.2, 0.3], "control": [2.0, 3.0], "oracle_half": [0.001, -0.002]}
    return pd.DataFrame(
        [
            {"condition": c, "split": "test", "method": m, "metric": "energy_distance", "value": v}
            for m, values in distances.items()
            for c, v in zip(("A+B", "C+D"), values, strict=True)
        ]
    )


def test_loss_curves_show_what_was_computed():
    figure = plots.loss_curves(HISTORY)
    losses, validation = figure.axes
    lines = {line.get_label(): line for line in losses.lines}
    assert set(lines) == {"total", "translation", "reconstruction"}  # contrast was never computed
    np.testing.assert_allclose(
        lines["translation"].get_xydata().T, [[e["step"] for e in HISTORY], [e["translation"] for e in HISTORY]]
    )
    assert losses.get_yscale() == "log"
    assert len(validation.lines[0].get_xdata()) == 10
    # U forms may be negative: no log scale then
    negative = plots.loss_curves([{"step": 1, "total": 2.0, "validation_energy_distance": -0.01}])
    assert negative.axes[1].get_yscale() == "linear"
    assert len(plots.loss_curves([{"step": 1, "total": 2.0}]).axes) == 1
    with pytest.raises(ValueError, match="history is empty"):
        plots.loss_curves([])


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_latent_space_names_every_condition_at_its_centre(latent_dim):
    names, index = ["control", "A", "B", "A+B"], np.repeat(np.arange(4), 50)
    latents = RANDOM.normal(size=(200, latent_dim)) + 3 * RANDOM.normal(size=(4, latent_dim))[index]
    figure = plots.latent_space(latents, index, names, max_cells=20)
    (axes,) = figure.axes
    assert set(names) <= texts(figure)
    assert [len(c.get_offsets()) for c in axes.collections] == [20] * 4
    centres = np.array([line.get_xydata()[0] for line in axes.lines])
    means = np.stack([latents[index == i].mean(0) for i in range(4)])
    if latent_dim == 2:
        np.testing.assert_allclose(centres, means)
    if latent_dim == 5:  # the plane of the two directions in which the centres vary most
        values = np.linalg.eigvalsh(np.cov(means.T))[::-1]
        np.testing.assert_allclose(centres.var(axis=0, ddof=1), values[:2], rtol=1e-6)


def test_labels_keep_clear_of_each_other():
    names = [f"condition {i}" for i in range(8)]
    centres = np.column_stack([np.linspace(0, 0.5, 8), np.zeros(8)])  # crowded
    latents = np.repeat(centres, 30, axis=0) + RANDOM.normal(size=(240, 2))
    figure = plots.latent_space(latents, np.repeat(np.arange(8), 30), names, centres=centres)
    figure.draw_without_rendering()
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in figure.axes[0].texts]
    overlapping = [
        (i, j) for i in range(8) for j in range(i) if boxes[i].shrunk(0.9, 0.8).overlaps(boxes[j].shrunk(0.9, 0.8))
    ]
    assert overlapping == []


def test_marginals_are_densities_of_the_right_columns():
    true = RANDOM.normal(size=(500, 12))
    baseline = true.copy()
    wrong = [1, 4, 7]
    baseline[:, wrong] += [1.0, 2.0, 3.0]
    names = [f"gene {j}" for j in range(12)]
    figure = plots.marginals(true, {"pdae": true, "additive": baseline}, names, title="A+B", max_features=3)
    assert [axes.get_title() for axes in figure.axes] == ["gene 1", "gene 4", "gene 7"]
    values, edges, _ = figure.axes[2].patches[-1].get_data()
    shown = baseline[:, 7][(baseline[:, 7] >= edges[0]) & (baseline[:, 7] <= edges[-1])]
    assert np.sum(values * np.diff(edges)) == pytest.approx(1.0)
    middles = 0.5 * (edges[1:] + edges[:-1])
    assert np.sum(values * np.diff(edges) * middles) == pytest.approx(shown.mean(), abs=0.05)
    assert {"A+B", "true", "pdae", "additive"} <= texts(figure)


def test_a_spike_flattens_nothing():
    true = RANDOM.normal(size=(500, 1))
    figure = plots.marginals(true, {"pseudobulk": np.zeros((500, 1))}, ["x"])
    top = figure.axes[0].get_ylim()[1]
    heights = np.histogram(true, bins=32, density=True)[0]
    assert heights.max() < top < 3 * heights.max()
    constant = plots.marginals(np.zeros((9, 1)), {"pdae": np.zeros((9, 1))}, ["x"])
    assert np.isfinite(pixels(constant)).all()


@pytest.mark.parametrize("d", [2, 6])
def test_densities_share_axes_and_show_the_cells(d):
    true = RANDOM.normal(size=(2000, d))
    figure = plots.densities_2d(true, {"pdae": true + 4.0, "pseudobulk": np.ones((50, d))}, title="A+B")
    assert [axes.get_title() for axes in figure.axes] == ["true", "pdae", "pseudobulk"]
    assert len({axes.get_xlim() + axes.get_ylim() for axes in figure.axes}) == 1
    assert {"A+B"} < texts(figure)
    labels = figure.axes[0].get_xlabel()
    assert labels == "feature 1" if d == 2 else labels.startswith("PC 1 (")
    # the outermost filled contour holds 90 % of the cells
    if d == 2:
        cells = true + 4.0
        inside = [path.contains_points(cells) for path in figure.axes[1].collections[0].get_paths()]
        assert 0.84 < np.any(inside, axis=0).mean() < 0.95


def test_bars_have_the_heights_of_the_table():
    figure = plots.condition_bars(make_table())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["C+D", "A+B"]  # best predicted first
    bars = {c.get_label(): [bar.get_y() + bar.get_height() for bar in c] for c in axes.containers}
    assert bars["pdae"] == pytest.approx([0.02, 0.1])
    assert bars["control"] == pytest.approx([3.0, 2.0])
    bottom = axes.get_ylim()[0]
    lines = axes.collections[0].get_segments()
    assert [line[0][1] for line in lines] == pytest.approx([bottom, max(bottom, 0.001)])
    assert axes.get_yscale() == "log"
    with pytest.raises(ValueError, match="No 'energy_distance' rows of split 'train'"):
        plots.condition_bars(make_table(), split="train")


def test_figures_draw_and_touch_no_global_state():
    before = dict(matplotlib.rcParams)
    true = RANDOM.normal(size=(100, 3))
    figures = [
        plots.loss_curves(HISTORY),
        plots.latent_space(true, np.repeat([0, 1], 50), ["control", "A"]),
        plots.marginals(true, {"pdae": true + 1, "additive": 2 * true}, ["x", "y", "z"]),
        plots.densities_2d(true, {"pdae": true}),
        plots.condition_bars(make_table()),
    ]
    for figure in figures:
        image = pixels(figure)
        assert (image[..., :3].min(axis=-1) < 0.95).mean() > 0.005  # not blank
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
