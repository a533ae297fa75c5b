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
# # Predicting what a drug combination does to single cells
#
# Some cells were left alone, others got a drug, a few got two drugs at once, and a handful of markers was measured in
# each cell. There are far more pairs of drugs than anybody can measure. Can the cells of a pair that was **not**
# measured be predicted from what was?
#
# `pdae_jax` predicts the whole population of cells (its averages, its spread and its shape), and says how far to
# trust the prediction. This page goes through it once, in under a minute of computing, on invented data where we know
# the answer.

# %%
# %matplotlib inline
import jax
import numpy as np

import pdae_jax
from pdae_jax.evaluation.summary import format_table
from pdae_jax.reporting import plots

# %% [markdown]
# ## Invented cells
#
# In every cell two pathways are more or less active, and the activity differs from cell to cell. Each of four drugs
# raises or lowers these activities by a fixed amount; two drugs together do both. We cannot see the activities. We see
# three markers that respond to them in curved ways, so that in the markers the effects of two drugs do **not** simply
# add up.

# %%
rng = np.random.default_rng(0)
effects = {"A": [1.5, 0.0], "B": [0.0, 1.5], "C": [1.0, 1.0], "D": [-1.0, 1.0]}  # on the two pathways


def measure(condition, number=800):
    """Markers of `number` cells under a condition such as "control", "A" or "A+B"."""
    activity = rng.normal(size=(number, 2))
    for drug in condition.split("+"):
        activity += effects.get(drug, [0.0, 0.0])
    first, second = activity.T
    markers = [first + 0.5 * second**2, second - 0.5 * np.sin(2 * first), np.tanh(first - second)]
    return np.stack(markers, axis=1)


conditions = ["control", "A", "B", "C", "D", "A+C", "B+D", "C+D", "A+B", "A+D"]
cells = {condition: measure(condition) for condition in conditions}

# %% [markdown]
# ## 1. Hand over the data
#
# One row per cell, one column per marker, and for each cell the name of its condition. (`pdae_jax.from_anndata` reads
# an `.h5ad` file, `pdae_jax.from_frame` a table.)

# %%
data = pdae_jax.from_arrays(
    np.concatenate(list(cells.values())),
    conditions=np.repeat(conditions, [len(x) for x in cells.values()]),
    features=["marker 1", "marker 2", "marker 3"],
    control="control",
)
data

# %% [markdown]
# ## 2. Set some conditions aside
#
# `A+B` and `A+D` play the combinations that nobody measured: the model never sees them, and they are used at the very
# end, to judge. `C+D` is set aside too, for another purpose: while training goes on it is predicted again and again,
# to see how well the prediction of an unseen combination works.

# %%
rest, test = pdae_jax.hold_out(data, conditions=["A+B", "A+D"])
train, validation = pdae_jax.hold_out(rest, conditions=["C+D"])
print("trained on:", ", ".join(train.conditions))

# %% [markdown]
# ## 3. Fit
#
# The model learns three things at once: how to read hidden activities off the markers of a cell, by how much each drug
# shifts them, and how to turn activities back into markers. We suspect two hidden activities (`latent_dim=2`; left out,
# it is the number that the conditions could tell apart). All random numbers come from the `key`: the same key gives the
# same result.

# %%
fitted = pdae_jax.fit(train, validation=validation, key=jax.random.key(0), latent_dim=2, num_steps=1000)
fitted

# %% [markdown]
# ## 4. Predict a combination
#
# Untreated cells are read, shifted by both drugs, and turned back into markers. The result is a table of predicted
# cells, as many as you like. They are *samples*: new cells such as one would find under this treatment, not a
# prediction for any particular cell.

# %%
prediction = pdae_jax.predict(fitted, "A+B", key=jax.random.key(1), num_samples=2000)
print(prediction.samples.shape, prediction.features)
print(prediction.verdict.summary().replace(". ", ".\n"))

# %% [markdown]
# The last lines are the **verdict**: how far to trust this, why, and what to do. It looks at no cell of `A+B`. Behind
# it are four questions, the *details*.
#
# * *Identified?* Do the measured conditions determine the effect of this combination at all? For a drug that was
#   never given, the answer is no.
# * *Supported?* Do the shifted activities stay in the range where cells were seen? Outside of it the model guesses.
# * *Tested?* That hidden effects add up is an assumption. Was it tried on combinations that were set aside, and did it
#   work?
# * *Precise, consistent?* Is the error of those combinations small beside what this one does to the cells? And do cells
#   of different conditions lead to the same prediction?
#
# A dose can be given as well, `{"A": 0.5, "B": 1.0}`. A drug that the data do not have is refused:

# %%
try:
    pdae_jax.predict(fitted, "A+E", key=jax.random.key(1))
except KeyError as error:
    print(error.args[0])

# %% [markdown]
# ## 5. Was it right?
#
# Now we look at the cells of `A+B` and `A+D` that were set aside. The *energy distance* measures how different two
# populations of cells are: zero if they are the same, and it notices averages, spread and shape. In the table:
#
# * `pdae` is the model;
# * `additive`, `linear_regression` and `latent_additive` are simple methods that add up average effects;
# * `control` predicts that the drugs do nothing, `pool_all` mixes all measured cells, `pseudobulk` puts every cell at
#   the predicted average;
# * `oracle_half` compares one half of the true cells with the other half: no method can do better. It is zero up to
#   chance, and so it can be slightly negative.
#
# Among the columns, `ratio` says how a method compares with the best of the simple methods, and `worse` in how many
# combinations it was beaten by one of them.

# %%
table = pdae_jax.evaluate(fitted, test, key=jax.random.key(2))
chosen = table[table["metric"].isin(["energy_distance", "mean_l2"])]  # distance of populations, and of their averages
print(format_table(chosen))

# %%
plots.condition_dots(table)

# %% [markdown]
# Lower is better, and every step of the scale is a factor of ten. The next picture shows why: the simple method moves
# the untreated cells to the right place, but the population keeps its old shape. Each panel shows where cells are
# frequent; the black lines repeat the outline of the true cells.

# %%
simple = "additive"
moved = train.cells("control") + sum(train.cells(drug).mean(0) - train.cells("control").mean(0) for drug in "AB")
plots.densities_2d(
    test.cells("A+B"), {"pdae": prediction.samples, simple: moved}, features=data.features, title="A+B, never seen"
)

# %% [markdown]
# ## Where to go from here
#
# * `pdae_jax.to_anndata(prediction).write_h5ad("predicted.h5ad")` writes the predicted cells; scanpy opens the file.
# * `pdae_jax.fit(..., workdir="runs/mine")` keeps the model in a folder, and goes on there if it was interrupted;
#   `pdae_jax.load_run("runs/mine")` brings it back.
# * Before an experiment, `pdae_jax.check_guarantee(data, "A+B")` says whether the planned conditions would identify a
#   combination.
