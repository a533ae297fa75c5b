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
# # An evening with a collaborator's screen
#
# A file arrives: raw counts of a Perturb-seq screen, single genes and some pairs. Tomorrow there is a talk. Which pairs
# that were not measured can be predicted, how well does that work on pairs that were, and which figures show it?
#
# The file here is invented, so that the page runs anywhere. With your own, change the path and the names of the
# columns.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import anndata
import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse

import pdae_jax
from pdae_jax.evaluation.counts import CountedCells, counted
from pdae_jax.evaluation.summary import format_scaled, format_table
from pdae_jax.reporting import plots, screens

# %% [markdown]
# ## The file
#
# Seven genes are switched on, alone and in ten pairs. Each changes some of 80 measured genes by a factor. A pair does
# somewhat less than both factors together, as real pairs do. A few cells are nearly empty, and one condition has hardly
# any cells.

# %%
random = np.random.default_rng(0)
activated = ["KLF1", "CEBPA", "JUN", "SPI1", "ETS2", "FOSB", "MAP2K3"]
pairs = [(a, b) for i, a in enumerate(activated) for b in activated[i + 1 :] if (activated.index(b) - i) % 2 == 1][:10]
genes = [f"gene {i}" for i in range(80)]
programs = random.normal(size=(3, 80)) * (random.random((3, 80)) < 0.4)
effects = {gene: random.normal(size=3) @ programs * 0.35 for gene in activated}
base = np.log(random.gamma(0.8, 25.0, 80) + 0.5)


def measure(perturbed, number):
    """Raw counts of some cells."""
    log_rate = base + max(len(perturbed), 1) ** -0.3 * sum((effects[gene] for gene in perturbed), np.zeros(80))
    depth = random.lognormal(0.0, 0.3, (number, 1))
    state = 0.4 * random.normal(size=(number, 3)) @ programs  # cells differ by themselves
    return random.poisson(depth * np.exp(log_rate + state) * random.gamma(5, 1 / 5, (number, 80)))


samples = {"ctrl": measure((), 500), **{g: measure((g,), 200) for g in activated}}
samples |= {"+".join(pair): measure(pair, 200) for pair in pairs}
samples["MAP2K3+KLF1"] = measure(("KLF1", "MAP2K3"), 5)
counts = np.concatenate(list(samples.values()))
counts[::150] = random.poisson(0.02, counts[::150].shape)  # empty droplets
guide = np.repeat(list(samples), [len(cells) for cells in samples.values()])

folder = Path(tempfile.mkdtemp())
obs = pd.DataFrame({"guide": guide}, index=pd.Index([f"cell {i}" for i in range(len(counts))]))
screen = anndata.AnnData(
    scipy.sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(genes))
)
screen.write_h5ad(folder / "screen.h5ad")

# %% [markdown]
# ## Quality check
#
# How many counts does a cell have, how many genes are seen in it, and how many cells has a condition? Empty droplets
# leave a peak at the left. They are removed before anything is normalised.

# %%
adata = anndata.read_h5ad(folder / "screen.h5ad")
total = np.asarray(adata.X.sum(axis=1)).ravel()
seen = np.asarray((adata.X > 0).sum(axis=1)).ravel()

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
left.hist(np.log10(total + 1), bins=40, color="0.5")
left.set(xlabel="log10 counts of a cell", ylabel="cells")
middle.hist(seen, bins=40, color="0.5")
middle.set(xlabel="genes seen in a cell")
cells = adata.obs["guide"].value_counts()
right.bar(range(len(cells)), cells, color="0.5")
right.set(xlabel="condition", ylabel="cells")

good = total > 200
print(f"{np.sum(~good)} of {len(good)} cells are nearly empty and are left out")
adata = adata[good].copy()
adata.write_h5ad(folder / "clean.h5ad")

# %% [markdown]
# ## What was read
#
# `normalize=True` makes log counts per 10,000 and keeps the size of each cell, so that predictions can be counts again.
# A condition with fewer than 30 cells is dropped. Nothing is read in silence: the log says what was taken for what.

# %%
data = pdae_jax.from_anndata(folder / "clean.h5ad", condition="guide", control="ctrl", normalize=True, min_cells=30)
print(data)
print("conditions:", ", ".join(data.conditions))

# %% [markdown]
# Of the 21 pairs 10 were measured. Which of the others do the data determine? A pair whose genes were both measured
# alone is identified; a gene that was never switched on is refused.

# %%
unmeasured = [f"{a}+{b}" for i, a in enumerate(activated) for b in activated[i + 1 :] if not data.has(f"{a}+{b}")]
identified = [pair for pair in unmeasured if pdae_jax.check_guarantee(data, pair).identified]
print(f"{len(identified)} of {len(unmeasured)} unmeasured pairs are identified: {', '.join(identified)}")

# %% [markdown]
# ## Fit
#
# Three measured pairs are set aside to judge, two more to choose the last step and to test whether effects add up.

# %%
measured = [condition for condition in data.conditions if "+" in condition]
rest, test = pdae_jax.hold_out(data, measured[:3])
train, validation = pdae_jax.hold_out(rest, measured[3:5])
fitted = pdae_jax.fit(train, validation=validation, key=jax.random.key(0), num_steps=600)
print(fitted)

# %% [markdown]
# ## Verdicts
#
# One line for each pair that nobody measured, made from the training data and the pairs set aside. It is the column to
# look at before a prediction goes onto a slide. A warning names the gene where predicted values lie far beyond all
# measured ones.

# %%
predictions = {pair: pdae_jax.predict(fitted, pair, key=jax.random.key(1), num_samples=400) for pair in identified}
pd.DataFrame(
    {
        "verdict": [each.verdict.level for each in predictions.values()],
        "error of held-out pairs": [each.verdict.tested_error for each in predictions.values()],
        "outside": [each.verdict.outside for each in predictions.values()],
    },
    index=pd.Index(list(predictions), name="pair"),
).round(3)

# %% [markdown]
# *Refuted* does not say that a prediction is useless. It says that the pairs set aside were missed by more than a few
# percent of the control's distance, here because pairs do less than the sum of their genes. Such predictions are good
# for choosing the next experiment, and not a substitute for it.
#
# ## Figures for the talk
#
# A pair that was set aside, so that prediction and measurement can stand side by side. First all genes at once:

# %%
pair = test.conditions[0]
prediction = pdae_jax.predict(fitted, pair, key=jax.random.key(2))
sides = (test.cells(pair), prediction.samples, train.cells("ctrl"), data.features)
screens.embedding(*sides, title=pair)  # method="umap" where umap-learn is installed

# %% [markdown]
# Chosen genes: those that change most, or `shown=[...]`.

# %%
screens.violins(*sides, title=pair)

# %% [markdown]
# Which genes would have been called differential? The prediction is tested with as many cells as were measured.

# %%
screens.volcano(*sides, title=pair)

# %% [markdown]
# Do predicted cells look like cells? Zeros, spread and correlations of counts:

# %%
predicted_counts = CountedCells(prediction.counts(jax.random.key(3)), prediction.size_factors)
plots.count_laws(predicted_counts, counted(test, test.rows[test.index(pair)]), title=pair)

# %% [markdown]
# ## The table a reviewer asks for
#
# Every method on the pairs that were set aside. `ridge` is the linear model that the fit started from, `oracle_half`
# one half of the measured cells against the other: no prediction can be better, but for chance.

# %%
table = pdae_jax.evaluate(fitted, test, progress=False)
print(format_table(table))

# %% [markdown]
# The same on a scale from 0, the mean of all measured conditions, to 1, measuring the pair once more:

# %%
print(format_scaled(table))

# %% [markdown]
# ## To take along
#
# * `pdae_jax.to_anndata(list(predictions.values())).write_h5ad(...)`: predicted cells of unmeasured pairs, for scanpy.
# * `pdae_jax.evaluation_pair(...)`: predicted and measured cells as the packages of the field compare them.
# * The same without Python, with a report that has all of these figures:
#   `make run CONFIG=experiments/configs/anndata.py ARGS="--config.data.path=clean.h5ad --config.data.condition=guide
#   --config.data.control=ctrl --config.data.normalize=True --config.data.min_cells=30"`
