import io
import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from pdae_jax.reporting import plots, screens
from pdae_jax.reporting.figures import save_figures

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
    true[:, 10], baseline[:, 10] = 0.0, RANDOM.random(500) < 0.03  # a rare count is not what is most wrong
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


def values_of(axes):
    """Method -> the dots of its conditions, from below, and of the mean."""
    return {bar.get_label(): bar.lines[0].get_xdata() for bar in axes.containers}


def test_dots_have_the_values_of_the_table_and_nothing_is_cut_off():
    figure = plots.condition_dots(make_table())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A+B", "C+D", "mean"]  # best predicted on top
    dots = values_of(axes)
    assert list(dots) == ["pdae", "additive", "control", "oracle half"]  # the order of the table
    np.testing.assert_allclose(dots["pdae"], [0.1, 0.02, 0.06])
    np.testing.assert_allclose(dots["oracle half"], [0.001, -0.002, -0.0005])
    figure.draw_without_rendering()
    low, high = axes.get_xlim()
    assert all(low < x < high for each in dots.values() for x in each)  # at and below zero, too
    with pytest.raises(ValueError, match="No 'energy_distance' rows of split 'train'"):
        plots.condition_dots(make_table(), split="train")


def test_dots_of_few_cells_need_no_ceiling():
    """Of three wells there are no halves: `oracle_half` has no value in any condition."""
    table = make_table()
    table.loc[table["method"] == "oracle_half", "value"] = np.nan
    table.loc[1, "value"] = -0.03
    axes = plots.condition_dots(table).axes[0]
    assert list(values_of(axes)) == ["pdae", "additive", "control"]
    assert axes.xaxis.get_transform().linthresh == pytest.approx(0.03)
    assert np.isfinite(axes.get_xlim()).all() and axes.get_xlim()[0] < -0.03 and axes.get_xlim()[1] > 3


def test_bars_of_dots_are_the_interval_of_the_mean_and_the_range_of_seeds():
    distances = RANDOM.gamma(2.0, size=(2, 60))
    table = pd.DataFrame(
        {"condition": f"c{c}", "split": "test", "method": "pdae", "metric": "energy_distance", "value": value}
        for seed in distances
        for c, value in enumerate(seed)
    )
    (bars,) = plots.condition_dots(table).axes[0].containers
    ends = np.array([segment[:, 0] for segment in bars.lines[2][0].get_segments()])
    order = np.argsort(-distances.mean(axis=0), kind="stable")
    np.testing.assert_allclose(ends[:-1], np.sort(distances, axis=0).T[order])
    normal = 1.96 * distances.mean(axis=0).std() / np.sqrt(60)  # what a bootstrap of many agrees with
    np.testing.assert_allclose(ends[-1] - distances.mean(), [-normal, normal], rtol=0.15)


def looks(axes):
    """Colour and shape of every series of points."""
    return [(line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() not in ("None", None)]


def test_nothing_is_told_apart_by_colour_alone():
    table = pd.concat(make_table().assign(method=lambda t, i=i: t["method"] + "_" * i) for i in range(2))
    shapes = [shape for _, shape in looks(plots.condition_dots(table).axes[0])]
    assert len(shapes) == 8 and len(set(shapes[:4])) == 4
    for number in (8, 20):
        means = looks(plots.latent_space(RANDOM.normal(size=(60, 2)), np.arange(60) % number, ["c"] * number).axes[0])
        assert len({colour for colour, _ in means}) == len(means) == number
        assert all(one[1] != other[1] for one, other in itertools.pairwise(means))
    terms = looks(plots.loss_curves(HISTORY).axes[0])
    assert len({colour for colour, _ in terms}) == len({shape for _, shape in terms}) == len(terms) == 3


def test_the_step_that_was_kept_is_marked():
    for axes in plots.loss_curves(HISTORY, kept_step=70).axes:
        assert set(axes.lines[-1].get_xdata()) == {70}
    assert "kept: step 70" in texts(plots.loss_curves(HISTORY, kept_step=70))


def test_few_cells_are_shown_and_no_density_of_them():
    wells = RANDOM.normal(size=(3, 2))
    figure = plots.densities_2d(wells, {"pdae": RANDOM.normal(size=(500, 2))})
    assert not figure.axes[0].collections and figure.axes[1].collections
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), wells)
    assert "the 3 true cells" in texts(figure)
    axes = plots.marginals(wells, {"pdae": RANDOM.normal(size=(500, 2))}, ["x", "y"]).axes[0]
    np.testing.assert_array_equal(np.sort(axes.lines[0].get_xdata()), np.sort(wells[:, 0]))


HOSTILE = ("$a$", "$a_$ {b", "a$", "\\frac", "a\nb", "_a", "%", "x" * 300)


def test_a_name_is_text_in_every_figure():
    """Neither mathematics, which may not parse, nor a line of its own, nor as wide as the figure."""
    true = RANDOM.normal(size=(64, 8))
    shift = 3 * np.eye(8)[0]
    table = pd.concat(make_table().query("condition == 'A+B'").assign(condition=name) for name in HOSTILE)
    titled = {"features": HOSTILE, "title": "$a_$ {b" * 50}
    figures = {
        "latents": plots.latent_space(true[:, :2], np.repeat(range(8), 8), HOSTILE),
        "marginals": plots.marginals(true, {"pdae": true + 1, "$m$_": 2 * true}, max_features=8, **titled),
        "densities": plots.densities_2d(true[:, :2], {"$m$_": true[:, :2]}, **titled | {"features": HOSTILE[:2]}),
        "dots": plots.condition_dots(table.replace({"additive": "$m$_"})),
        "volcano": screens.volcano(true + shift, true + shift, true, **titled),
        "violins": screens.violins(true, true, true, shown=HOSTILE[:6], **titled),
        "embedding": screens.embedding(true[:, :2], true[:, :2], true[:, :2], **titled | {"features": HOSTILE[:2]}),
    }
    for figure in figures.values():
        figure.draw_without_rendering()  # mathematics that does not parse would raise
        for text in figure.findobj(matplotlib.text.Text):
            assert "\n" not in text.get_text()
            assert not text.get_text() or text.get_window_extent().width < figure.bbox.width
    for name in ("latents", "marginals", "dots", "violins"):
        assert {r"\$a\$", r"\$a_\$ {b", "\\frac", r"a\nb", "_a"} <= texts(figures[name])


def test_figures_draw_and_touch_no_global_state():
    before = dict(matplotlib.rcParams)
    true = RANDOM.normal(size=(100, 3))
    figures = [
        plots.loss_curves(HISTORY),
        plots.latent_space(true, np.repeat([0, 1], 50), ["control", "A"]),
        plots.marginals(true, {"pdae": true + 1, "additive": 2 * true}, ["x", "y", "z"]),
        plots.densities_2d(true, {"pdae": true}),
        plots.condition_dots(make_table()),
    ]
    for figure in figures:
        image = pixels(figure)
        assert (image[..., :3].min(axis=-1) < 0.95).mean() > 0.005  # not blank
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_figures_are_written_in_other_formats_and_at_a_chosen_size(tmp_path):
    figure = plots.loss_curves(HISTORY)
    save_figures(tmp_path / "new", {"loss": figure}, formats=["pdf", "svg"], width=127.0, dpi=60)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"loss.png", "loss.pdf", "loss.svg"}
    assert imread(tmp_path / "new" / "loss.png").shape[1] == 300  # 5 inches
    assert b'width="360pt"' in (tmp_path / "new" / "loss.svg").read_bytes()
    save_figures(tmp_path, {"loss": plots.loss_curves(HISTORY)})
    assert imread(tmp_path / "loss.png").shape[1] == 1003  # 85 mm at 300 points per inch
