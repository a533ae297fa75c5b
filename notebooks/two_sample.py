# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Are two populations of cells different, and by how much?
#
# Here are the cells of one condition, there the cells of another; or here measured cells, there predicted ones. This
# page is about the two numbers that compare them, a **distance** (by how much?) and a **p-value** (could it be
# chance?): what they see, what they overlook, and how to read them. The data are invented, so that we know the answer.

# %%
# %matplotlib inline
import jax
import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial.distance import cdist, pdist

from pdae_jax import kernels
from pdae_jax.linear_time import incomplete_statistic, sliced_energy_distance
from pdae_jax.losses import energy_distance, mmd2, two_sample_statistic
from pdae_jax.reporting.panels import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from pdae_jax.two_sample.aggregated import aggregated_test
from pdae_jax.two_sample.one_dimensional import energy_distance_by_feature
from pdae_jax.two_sample.permutation import two_sample_test, two_sample_tests

plt.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "legend.frameon": False,
        "legend.fontsize": "small",
        "figure.constrained_layout.use": True,
        "figure.dpi": 90,
    }
)

# %% [markdown]
# ## 1. One formula, many distances
#
# Take a cell $X$ of the first population and a cell $Y$ of the second, and ask how unlike they are: $h(X, Y)$. Then
# take two cells $X, X'$ of the first population, and two cells $Y, Y'$ of the second. If the populations are the same,
# a mixed pair is on average as unlike as a pair from one population, and
#
# $$2\,E\,h(X, Y) - E\,h(X, X') - E\,h(Y, Y')$$
#
# is zero. If $h$ is well chosen, it is positive whenever they differ *in any way*. With $h$ the plain distance it is
# called **energy distance**; with $h = k(0) - k$, for one of the kernels $k$ below, it is the squared **maximum mean
# discrepancy**, MMD². By hand that is one line, and the library gives the same numbers:

# %%
rng = np.random.default_rng(0)
x, y = rng.normal(size=(300, 2)), rng.normal(0.5, 1.0, size=(200, 2))


def by_hand(h):
    """Average over pairs of distinct cells, of an `h` that takes distances."""
    return 2 * h(cdist(x, y)).mean() - h(pdist(x)).mean() - h(pdist(y)).mean()


print("            by hand   library")
print(f"energy     {by_hand(lambda r: r):8.5f}  {energy_distance(x, y):8.5f}")
gaussian = kernels.gaussian(1.0)
print(f"Gaussian   {by_hand(lambda r: 1 - np.exp(-(r**2) / 2)):8.5f}  {mmd2(x, y, kernel=gaussian):8.5f}")

# %% [markdown]
# The choices of $h$ differ in one thing: how much more unlike are two cells that are further apart? All but one have a
# **bandwidth**, here 1. Far beyond the bandwidth, further makes no difference: $h$ levels off at 1, slowly for the
# inverse multiquadric. The energy distance has no bandwidth: twice the distance counts twice, at all distances.

# %%
distance = np.linspace(0, 4, 200)
curves = {
    "energy": (kernels.energy(), BLACK),
    "Gaussian": (kernels.gaussian(1.0), BLUE),
    "Laplace": (kernels.laplace(1.0), VERMILION),
    "Matérn 3/2": (kernels.matern(1.5, 1.0), GREEN),
    "inverse multiquadric": (kernels.inverse_multiquadric(1.0), PURPLE),
}
figure, axes = plt.subplots(figsize=(5.2, 3.2))
for name, (kernel, colour) in curves.items():
    axes.plot(distance, kernel(distance**2), color=colour, label=name)  # kernels take squared distances
axes.set(xlabel="distance between two cells", ylabel="$h$", ylim=(0, 2.5), title="how unlike are two cells?")
axes.axhline(1, color=GREY, lw=0.8, ls=":")
axes.legend(loc="upper left")
plt.show()

# %% [markdown]
# ### What a bandwidth does
#
# Cells are spread along a path of differentiation, from 0 to 1; in the control evenly. One treatment makes cells
# **drift**: more are early, fewer are late. This is a coarse difference. Under another treatment they **clump** at
# eight stages along the path, while early and late cells stay in balance. This is a fine difference.

# %%
grid = np.linspace(0, 1, 4001)


def density(position, waves, strength):
    return 1 + strength * np.cos(2 * np.pi * waves * position)


def along_path(rng, number, waves=0.5, strength=0.0):
    """Positions of cells, `[number, 1]`: half a wave is a drift, `k` waves are clumps."""
    cumulative = grid + strength * np.sin(2 * np.pi * waves * grid) / (2 * np.pi * waves)
    return np.interp(rng.uniform(size=number), cumulative, grid)[:, None]


treatments = {"drift": (0.5, 0.4), "clumps": (8, 0.9)}  # waves and strength
colours = {"drift": BLUE, "clumps": VERMILION}
bandwidths = np.geomspace(0.0002, 30, 27)
rng = np.random.default_rng(1)
control = along_path(rng, 500)
treated = {name: along_path(rng, 500, *which) for name, which in treatments.items()}
by_bandwidth = {
    name: [
        two_sample_test(control, cells, key=jax.random.key(1), num_permutations=199, kernel=kernels.gaussian(s))
        for s in bandwidths
    ]
    for name, cells in treated.items()
}
mmd_squared = {name: np.array([test.statistic for test in tests]) for name, tests in by_bandwidth.items()}

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.0))
axes[0].axhline(1, color=GREY, label="control")
for name, which in treatments.items():
    axes[0].plot(grid, density(grid, *which), color=colours[name], label=name)
    axes[1].plot(bandwidths, mmd_squared[name], color=colours[name], marker=".", label=name)
axes[0].set(xlabel="position on the path", ylabel="density of cells", ylim=(0, 2.5), title="two treatments")
axes[0].legend(ncols=3, loc="upper center")
axes[1].axhline(0, color=GREY, lw=0.8)
axes[1].set(xscale="log", xlabel="bandwidth $s$", ylabel="MMD²", title="Gaussian kernel, 500 + 500 cells")
axes[1].legend()
plt.show()

# %% [markdown]
# A bandwidth decides which differences count. The two curves have their peaks at different bandwidths: for the drift at
# about a third of the path, for the clumps at about a sixth of the distance between two clumps. With a large bandwidth
# nothing is left of the clumps. (A squared discrepancy below zero? Section 3.) The energy distance asks for no such
# choice, but it makes one of its own, as the next section shows.

# %%
for name, cells in treated.items():
    best = bandwidths[np.argmax(mmd_squared[name])]
    print(f"{name:7s} MMD² is largest at bandwidth {best:.3f}; energy distance {energy_distance(control, cells):.5f}")
print(f"distance between two clumps {1 / 8}")

# %% [markdown]
# ## 2. What each of them overlooks
#
# All five see every difference *in principle*, from infinitely many cells. Of the cells that we have, each sees what
# stands out from chance.
#
# **A bandwidth that is far too large** compares averages only. For distances well below $s$ the Gaussian kernel is
# $h \approx r^2 / 2 s^2$, and the formula becomes $|\mu_X - \mu_Y|^2 / s^2$: all that is left is the difference of the
# mean positions (left panel, dashed), which the clumps do not change. **A bandwidth that is far too small** sees
# nothing, because hardly any two cells are that close. The right panel divides MMD² by what chance makes of it, its
# standard deviation when the labels "control" and "treated" are shuffled: in the grey band it may well be chance.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.0))
wide = bandwidths >= 0.1
for name, tests in by_bandwidth.items():
    noise = np.array([test.null.std() for test in tests])
    colour = colours[name]
    axes[0].plot(bandwidths[wide], (bandwidths**2 * mmd_squared[name])[wide], color=colour, marker=".", label=name)
    difference = (control.mean() - treated[name].mean()) ** 2
    by_chance = (control.var(ddof=1) + treated[name].var(ddof=1)) / 500  # what equal means would give on average
    axes[0].axhline(difference - by_chance, color=colour, ls="--", lw=0.8)
    axes[1].plot(bandwidths, mmd_squared[name] / noise, color=colour, marker=".", label=f"{name}, MMD")
    energy = two_sample_test(control, treated[name], key=jax.random.key(1), num_permutations=199)
    axes[1].axhline(energy.statistic / energy.null.std(), color=colour, ls=":", label=f"{name}, energy distance")
axes[0].plot([], [], color=GREY, ls="--", lw=0.8, label=r"$|\mu_X - \mu_Y|^2$, unbiased")
axes[0].set(xscale="log", xlabel="bandwidth $s$", ylabel="$s^2$ MMD²", title="wide kernels compare means")
axes[0].legend(loc="center right")
axes[1].axhspan(-2, 2, color=GREY, alpha=0.25, lw=0)
axes[1].set(xscale="log", xlabel="bandwidth $s$", ylabel="MMD² / chance", title="how far above chance?")
axes[1].legend()
plt.show()

# %% [markdown]
# **The energy distance** overlooks nothing *in the limit of many cells*, but fine differences count little. For $k$
# clumps of strength $a$ on the path it is exactly $a^2 / (2 \pi k)^2$: twice as fine, a quarter of the distance. What
# chance contributes does not shrink with $k$, so that fine clumps drown in it (left panel below).
#
# The middle and the right panel count how often a test at level 5 % notices a difference, its *power*, between 200
# control cells and 200 treated ones. (At strength 0 there is nothing to notice: what is left are false alarms.) The
# energy distance, and a Gaussian with the usual bandwidth, the median distance between cells, notice drifts and lose
# the clumps as they get finer. A narrow Gaussian is the other way round, until the clumps are too fine for it as well.
# The **aggregated test** tries 20 kernels of many bandwidths at once and corrects for having tried. Here it does about
# as well as the energy distance against drifts, and sees the clumps at every fineness shown. Take it when you do not
# know what kind of difference to expect.

# %%
median = float(kernels.median_bandwidth(jax.random.key(0), control))
narrow = 0.02
styles = {
    "energy distance": (BLACK, "o"),
    f"Gaussian, median bandwidth ({median:.2f})": (BLUE, "s"),
    f"Gaussian, narrow ({narrow})": (VERMILION, "^"),
    "aggregated": (GREEN, "D"),
}
DRAWS, CELLS = 30, 200


def power(rng, waves, strength):
    """Share of repeated experiments in which each test finds a difference at level 5 %."""
    pairs = {str(i): (along_path(rng, CELLS), along_path(rng, CELLS, waves, strength)) for i in range(DRAWS)}
    key = jax.random.key(2)
    fixed = [kernels.energy(), kernels.gaussian(median), kernels.gaussian(narrow)]
    shares = [
        np.mean(two_sample_tests(pairs, key=key, num_permutations=99, kernel=kernel).p_value <= 0.05)
        for kernel in fixed
    ]
    outcomes = [
        aggregated_test(*pair, key=jax.random.fold_in(key, i), num_quantile=500, num_level=500, pad_to=2 * CELLS)
        for i, pair in enumerate(pairs.values())
    ]
    return [*shares, np.mean([outcome.rejected for outcome in outcomes])]


rng = np.random.default_rng(2)
strengths, waves = [0.0, 0.2, 0.4], [1, 2, 4, 8, 16]
power_drift = np.array([power(rng, 0.5, strength) for strength in strengths])
power_clumps = np.array([power(rng, k, 0.9) for k in waves])


def repeated_distances(waves, strength, number=200):
    samples = [
        along_path(rng, number * CELLS, *which).reshape(number, CELLS, 1) for which in ((1, 0.0), (waves, strength))
    ]
    return np.asarray(many_distances(*samples))


many_distances = jax.jit(jax.vmap(energy_distance))
distances = np.stack([repeated_distances(k, 0.9) for k in waves], axis=1)
chance = repeated_distances(1, 0.0)

# %%
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6))
axes[0].errorbar(
    waves,
    np.mean(distances, axis=0),
    np.std(distances, axis=0),
    color=BLACK,
    ls="none",
    marker="o",
    ms=4,
    label="mean, SD",
)
axes[0].plot(waves, 0.9**2 / (2 * np.pi * np.array(waves)) ** 2, color=ORANGE, label=r"$a^2 / (2 \pi k)^2$")
axes[0].axhspan(*np.quantile(chance, [0.025, 0.975]), color=GREY, alpha=0.25, lw=0, label="95 % of no difference")
axes[0].set(xscale="log", ylabel="energy distance", title="fine differences count little")
axes[1].axhline(0.05, color=GREY, lw=0.8, ls=":")
for i, (name, (colour, marker)) in enumerate(styles.items()):
    axes[1].plot(strengths, power_drift[:, i], color=colour, marker=marker, ms=5, label=name)
    axes[2].plot(waves, power_clumps[:, i], color=colour, marker=marker, ms=5)
axes[1].set(xlabel="strength of the drift", ylabel="power", ylim=(-0.03, 1.03), title="power: drift")
axes[2].axhline(0.05, color=GREY, lw=0.8, ls=":")
axes[2].set(xscale="log", ylabel="power", ylim=(-0.03, 1.03), title="power: clumps")
for panel in (axes[0], axes[2]):
    panel.set_xlabel("number of clumps $k$")
    panel.set_xticks(waves, waves, minor=False)
    panel.minorticks_off()
axes[0].legend()
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# A power counted in 30 repetitions is uncertain by up to 0.18 (two standard errors).
#
# ## 3. Unbiased or never negative
#
# Of 50 cells there are two ways to average over pairs. The **U form** takes pairs of distinct cells. The **V form**
# takes all pairs, and so also each cell with itself, at distance 0. Within a sample this makes the average too small,
# and the V form of the energy distance, for $n$ and $m$ cells of the *same* population, too large by
#
# $$E|X - X'| \left(\tfrac1n + \tfrac1m\right).$$
#
# Below, both samples are drawn from one population (a normal distribution in two markers), 200 times.

# %%
rng = np.random.default_rng(3)
sizes, draws = [20, 50, 150, 500], 200
u_form = jax.jit(jax.vmap(energy_distance))
values = {n: {} for n in sizes}
for n in sizes:
    x, y = (rng.normal(size=(draws, n, 2)).astype(np.float32) for _ in "xy")
    values[n]["U"] = np.asarray(u_form(x, y))
    values[n]["V"] = np.array(
        [2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean() for a, b in zip(x, y, strict=True)]
    )
mean_distance = np.sqrt(np.pi)  # E|X - X'| of this population

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.0))
form_colours = {"U": BLUE, "V": VERMILION}
bins = np.linspace(-0.06, 0.26, 41)
for form, colour in form_colours.items():
    axes[0].hist(values[50][form], bins=bins, color=colour, alpha=0.6, label=f"{form} form")
    means = [values[n][form].mean() for n in sizes]
    errors = [2 * values[n][form].std() / np.sqrt(draws) for n in sizes]
    axes[1].errorbar(sizes, means, errors, color=colour, marker="o", ms=4, ls="none", label=f"mean of the {form} form")
many = np.geomspace(18, 550, 100)
axes[0].axvline(0, color=BLACK, lw=0.8)
axes[0].set(xlabel="energy distance", ylabel="draws", title="one population, 50 + 50 cells")
axes[0].legend()
axes[1].plot(many, mean_distance * 2 / many, color=VERMILION, lw=1, label="$E|X - X'| \\cdot 2 / n$")
axes[1].axhline(0, color=BLACK, lw=0.8, label="truth")
axes[1].set(xscale="log", xlabel="cells per sample, $n$", ylabel="energy distance", title="the bias of the V form")
axes[1].set_xticks(sizes, sizes)
axes[1].minorticks_off()
axes[1].legend()
plt.show()

# %%
for form in "UV":
    print(f"{form} form, 50 + 50 cells: negative in {np.mean(values[50][form] < 0):.0%} of the draws")

# %% [markdown]
# A negative U form is no error. It says: these samples are more alike than two samples of one population are on
# average. The library computes U forms unless told otherwise (`unbiased=False`), because only they can be compared
# between conditions with different numbers of cells. A V form from few cells is too large for that reason alone.
#
# ## 4. Squared distances see only averages
#
# The formula needs distances, not squared distances. With $h = |x - y|^2$ everything cancels except the means:
#
# $$2\,E|X-Y|^2 - E|X-X'|^2 - E|Y-Y'|^2 = 2\,|\mu_X - \mu_Y|^2 .$$
#
# The *E-distance* of single-cell perturbation studies (Peidli et al., scPerturb, Nature Methods 2024) is this one, with
# squared distances, and for a while, until 2025, `pertpy` took them as well; it now takes plain distances.
# (`scipy.stats.energy_distance` is the square *root* of the energy distance.) Before comparing with a published value,
# look up which one it is.
#
# Three treatments that shift the average, turn round how two markers go together, or split the cells into two states:

# %%
rng = np.random.default_rng(4)


def squared(sq):
    """A kernel of your own is a function from squared distances to `h`; this one is blind to all but means."""
    return sq


squared_statistic = lambda x, y: two_sample_statistic(x, y, squared, unbiased=False)  # noqa: E731


def cloud(covariance):
    cells = rng.multivariate_normal([0, 0], covariance, size=400)
    return cells - cells.mean(axis=0)  # the average is exactly zero


control = cloud([[1, 0.6], [0.6, 1]])
two_states = cloud([[1, 0.6], [0.6, 1]]) * [0.45, 1.0]
two_states[:, 0] += np.where(np.arange(400) % 2 == 0, 0.9, -0.9)
clouds = {
    "shifted": cloud([[1, 0.6], [0.6, 1]]) + [0.3, 0.0],
    "turned round": cloud([[1, -0.6], [-0.6, 1]]),
    "two states": two_states - two_states.mean(axis=0),
}
figure, axes = plt.subplots(1, 3, figsize=(9.0, 3.2), sharex=True, sharey=True)
print("              2 |difference of means|²   squared distances   energy distance   p of the two")
for panel, (name, cells) in zip(axes, clouds.items(), strict=True):
    means = 2 * np.sum((control.mean(axis=0) - cells.mean(axis=0)) ** 2)
    e_distance = squared_statistic(control, cells)
    energy = energy_distance(control, cells, unbiased=False)
    p_values = [two_sample_test(control, cells, key=jax.random.key(4), kernel=h).p_value for h in (squared, None)]
    print(f"{name:14s}{means:24.4f}{e_distance:z20.4f}{energy:18.4f}{p_values[0]:11.3f}{p_values[1]:7.3f}")
    panel.scatter(*control.T, s=5, color=GREY, lw=0, label="control")
    panel.scatter(*cells.T, s=5, color=BLUE, lw=0, alpha=0.7, label="treated")
    panel.set(xlabel="marker 1", title=f"{name}\nsquared {abs(e_distance):.3f}, energy {energy:.3f}")
axes[0].set_ylabel("marker 2")
axes[0].legend(markerscale=3, loc="upper left")
plt.show()

# %% [markdown]
# The last two treatments, which were made to leave the average exactly where it was, do not exist for squared
# distances: neither in the value (the V form here, for which the equation holds exactly) nor in the test. The
# energy distance finds all three.
#
# ## 5. How to read a p-value
#
# If treatment does nothing, the labels "control" and "treated" mean nothing. So shuffle them $B$ times, and take the
# distance every time: this is what chance can do. The p-value is the share of shuffles that reach the observed
# distance,
#
# $$p = \frac{1 + \#\{\text{shuffles with a distance at least as large}\}}{1 + B},$$
#
# where the ones stand for the observed labels, which are one of the possible ones. It is valid for any number of cells
# and is never zero: the smallest one possible is $1 / (1 + B)$.
#
# Below is one and the same treatment, which shifts one of five markers by 0.3 standard deviations, seen in 50, 200 and
# 500 cells of each kind.

# %%
rng = np.random.default_rng(13)
shift = np.array([0.3, 0, 0, 0, 0])
x, y = rng.normal(size=(500, 5)), rng.normal(size=(500, 5)) + shift
figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), sharex=True)
bins = np.linspace(-0.08, 0.16, 73)
for panel, n in zip(axes, (50, 200, 500), strict=True):
    test = two_sample_test(x[:n], y[:n], key=jax.random.key(5), num_permutations=999)
    reached = test.null >= test.statistic
    parts = ["shuffled", "shuffled, at least as large"]
    panel.hist([test.null[~reached], test.null[reached]], bins=bins, stacked=True, color=[GREY, VERMILION], label=parts)
    panel.axvline(test.statistic, color=BLUE, label="observed")
    panel.set(xlabel="energy distance", title=f"n = {n}\np = (1 + {reached.sum()}) / (1 + 999) = {test.p_value:.3f}")
axes[0].set_ylabel("shuffles")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# The treatment is the same in all three. What changes is what chance can do: with more cells, less. To see that this is
# no accident of the draw, the experiment is repeated 40 times for each number of cells (points: medians; bars: from the
# lower to the upper quartile). Of 499 shuffles, 0.002 is the smallest p-value possible.

# %%
rng = np.random.default_rng(6)
sizes = [50, 100, 200, 500]
repeated = {}
for n in sizes:
    pairs = {str(i): (rng.normal(size=(n, 5)), rng.normal(size=(n, 5)) + shift) for i in range(40)}
    repeated[n] = two_sample_tests(pairs, key=jax.random.key(6), num_permutations=499)
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.0))
for panel, field in zip(axes, ("p_value", "statistic"), strict=True):
    low, middle, high = np.array([np.quantile(getattr(repeated[n], field), [0.25, 0.5, 0.75]) for n in sizes]).T
    panel.errorbar(sizes, middle, [middle - low, high - middle], color=BLUE, marker="o", ms=4, capsize=2)
    panel.set(xlabel="cells per sample, $n$", xticks=sizes)
axes[0].axhline(0.05, color=GREY, ls=":")
axes[0].set(yscale="log", ylabel="p-value", title="falls with the number of cells")
axes[1].axhline(0, color=GREY, lw=0.8)
axes[1].set(ylabel="energy distance", title="stays, and gets more precise")
plt.show()

# %% [markdown]
# **A p-value is not a size.** With enough cells any difference, however small, becomes "significant"; with few cells a
# large one may not. So report the energy distance (U form) beside every p-value, as the size; and if p-values of
# several conditions are to be compared, test all of them with the same number of cells (`max_cells=200`).
#
# ### Many conditions
#
# A screen of 60 treatments, each with 100 cells and 100 controls from its own plate. Only 15 of the treatments do
# anything. At $p \le 0.05$ about one of twenty ineffective treatments passes by chance alone. `two_sample_tests` tests
# all conditions at once and adds adjusted p-values (Benjamini & Hochberg): if conditions with `p_adjusted` up to 0.05
# are called discoveries, on average at most 5 % of the discoveries are false.

# %%
rng = np.random.default_rng(8)
effective = np.arange(60) < 15
effects = np.where(effective, rng.uniform(0.3, 0.9, size=60), 0.0)
screen = {
    f"treatment {i}": (rng.normal(size=(100, 5)), rng.normal(size=(100, 5)) + effect * np.eye(5)[0])
    for i, effect in enumerate(effects)
}
result = two_sample_tests(screen, key=jax.random.key(7), num_permutations=1999)
print("                    found   of which ineffective")
for name, p in {"p <= 0.05": result.p_value, "p_adjusted <= 0.05": result.p_adjusted}.items():
    print(f"{name:20s}{np.sum(p <= 0.05):5d}{np.sum((p <= 0.05) & ~effective):23d}")

# %%
order = np.argsort(result.p_value)
rank = np.arange(1, 61)
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2))
axes[0].plot(rank, 0.05 * rank / 60, color=ORANGE, label="0.05 · rank / 60")
axes[0].axhline(0.05, color=GREY, ls=":", label="0.05")
for works, colour, name in ((True, BLUE, "effective"), (False, VERMILION, "ineffective")):
    rows = effective[order] == works
    axes[0].plot(rank[rows], result.p_value[order][rows], "o", ms=4, color=colour, label=name)
    rows = effective == works
    axes[1].plot(result.statistic[rows], result.p_adjusted[rows], "o", ms=4, color=colour, label=name)
axes[0].set(
    yscale="log", xlabel="rank of the p-value", ylabel="p-value", title="discoveries: up to the last below the line"
)
axes[1].axhline(0.05, color=GREY, ls=":")
axes[1].set(yscale="log", xlabel="energy distance", ylabel="adjusted p-value", title="size and evidence side by side")
axes[0].legend()
plt.show()

# %% [markdown]
# Chance has its part in such counts: in twelve screens drawn like this one (seeds 5 to 16; this is seed 8), 0 to 5
# ineffective treatments had $p \le 0.05$, and 0 to 2 an adjusted one.
#
# The smallest possible p-value, $1 / (1 + B)$, times the number of conditions should stay below 0.05, or a single
# effective treatment could never be found. Hence 1,999 shuffles here.
#
# ### When the difference may be of any kind
#
# Once more the cells on the path, evenly spread or in eight clumps. The aggregated test gives one p-value, and its
# `rejected_by` says which bandwidths saw the difference, and so roughly at which scale it is. The vertical line below
# is the bandwidth that section 1 found best for such clumps, a sixth of their distance.

# %%
rng = np.random.default_rng(7)
x, y = along_path(rng, 300), along_path(rng, 300, *treatments["clumps"])
test = two_sample_test(x, y, key=jax.random.key(8))
outcome = aggregated_test(x, y, key=jax.random.key(8))
print(f"energy distance  p = {test.p_value:.3f}")
print(f"aggregated       p = {outcome.p_value:.4f}; rejected by", ", ".join(outcome.rejected_by))

# %%
figure, axes = plt.subplots(figsize=(5.2, 3.0))
for family, colour in (("gaussian", BLUE), ("laplace", VERMILION)):
    rows = [i for i, name in enumerate(outcome.kernels) if name.startswith(family)]
    scale = [float(outcome.kernels[i].removeprefix(family).strip("()")) for i in rows]
    axes.plot(scale, outcome.statistic[rows] / outcome.threshold[rows], color=colour, marker="o", ms=4, label=family)
axes.axhline(1, color=GREY, ls=":", label="threshold")
axes.axvline(1 / 8 / (2 * np.pi), color=ORANGE, lw=0.8, label=r"distance of clumps / $2\pi$")
axes.set(xscale="log", xlabel="bandwidth", ylabel="statistic / threshold", title="aggregated test, 300 + 300 cells")
axes.legend()
plt.show()

# %% [markdown]
# ## 6. Very many cells
#
# All pairs of $n$ cells are $n^2$ distances. For very large samples there are estimates that need far less.
#
# * `sliced_energy_distance` projects the cells on random lines and sorts them there. Its standard error is about the
#   choice of lines: how far it may be from the energy distance *of these cells*.
# * `incomplete_statistic` takes a few random pairs per cell. Its standard error includes the choice of cells: how far
#   it may be from the distance *of the populations*.
# * `energy_distance_by_feature` sorts each gene by itself. It is exact, and says which genes differ on their own; what
#   is only in their interplay (the second treatment of section 4) it cannot see.

# %%
rng = np.random.default_rng(9)
n, genes = 3000, 20
x, y = rng.normal(size=(n, genes)), rng.normal(size=(n, genes))
y[:, 2] += 0.4  # a shift
y[:, 9] *= 1.5  # another spread
y[:, 15] = np.where(rng.uniform(size=n) < 0.5, -1, 1) * np.sqrt(0.7) + np.sqrt(0.3) * y[:, 15]  # two states
full = float(energy_distance(x, y))
sliced = sliced_energy_distance(jax.random.key(9), x, y, num_projections=256)
incomplete = incomplete_statistic(jax.random.key(9), x, y, pairs_per_cell=16)
print("                   value   standard error    distances taken")
print(f"all pairs         {full:6.4f}                {n * n + n * (n - 1):17,d}")
print(f"sliced, 256 lines {sliced.value:6.4f}{sliced.standard_error:17.4f}   none, but 512 sorts")
print(f"incomplete        {incomplete.value:6.4f}{incomplete.standard_error:17.4f}{4 * n * 16:16,d}")

# %%
by_gene = np.asarray(jax.jit(energy_distance_by_feature)(x, y))
first, second = x[:, [2]], y[:, [2]]
all_pairs = 2 * cdist(first, second).mean() - pdist(first).mean() - pdist(second).mean()
print(f"gene 2 by sorting {by_gene[2]:.6f}, by all pairs {all_pairs:.6f}")
kinds = {2: "shift", 9: "spread", 15: "two states"}
figure, axes = plt.subplots(figsize=(6.0, 2.8))
axes.bar(np.arange(genes), by_gene, color=[BLUE if j in kinds else GREY for j in range(genes)])
for j, kind in kinds.items():
    axes.text(j, by_gene[j], kind, ha="center", va="bottom", color=BLUE, fontsize="small")
axes.axhline(0, color=BLACK, lw=0.8)
axes.set(xlabel="gene", ylabel="energy distance", title="every gene by itself")
axes.margins(y=0.12)
axes.xaxis.get_major_locator().set_params(integer=True)
plt.show()

# %% [markdown]
# ## In short
#
# * The energy distance (U form) is the size of a difference. It needs no bandwidth, sees everything given enough cells,
#   and coarse differences most.
# * A p-value says whether chance could have done it. It depends on the number of cells; the size does not.
# * With many conditions use `two_sample_tests` and its adjusted p-values; if the difference may be fine, the
#   aggregated test.
# * Squared distances compare means and nothing else.
