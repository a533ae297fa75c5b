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
# # One world, from fit to verdict
#
# In a simulated world the truth can be asked about everything: were the right latents found, are the predictions
# right where the verdict says so, and does it refuse where they are wrong? Two latents, two features, four
# perturbations, so that everything can be drawn.

# %%
# %matplotlib inline
import jax
import numpy as np
import pandas as pd

import pdae_jax
from pdae_jax.evaluation.identification import measure_identification, truth_of
from pdae_jax.reporting import plots

RECIPE = {"latent_dim": 2, "hidden": (64, 64), "num_steps": 1500, "cells_per_source": 8, "cells_per_target": 32}
WORLD = {
    "latent_dim": 2,
    "observed_dim": 2,
    "num_perturbations": 4,
    "mixing": "complex_exponential",
    "nonlinearity": 0.7,
}

# %% [markdown]
# ## The world
#
# Latents are standard normal in the control; each perturbation moves them by a row of `W`. What is observed is bent:
# $x = f(z)$, the complex exponential. `p3` is only ever measured together with `p0`.

# %%
measured = ["p0", "p1", "p2", "p0+p1", "p1+p2", "p0+p3"]
simulation = pdae_jax.simulate(jax.random.key(4), labels=measured, cells_per_condition=1500, **WORLD)
data, world = simulation.data, simulation.world
display(plots.latent_space(data.x, data.condition_index, data.conditions))

# %% [markdown]
# ## What can be known, before anything is trained
#
# One singular value decomposition of the labels says which ones the measured conditions determine: those that are
# linear combinations of measured labels. `p1+p2` is put aside now, to test later whether effects add up.

# %%
train, validation = pdae_jax.hold_out(data, ["p1+p2"])
asked = ["p0+p2", "p0+p1+p2", "p3", "p0:2+p1:2", "p1:4"]
for label in asked:
    print(pdae_jax.check_guarantee(train, label).summary())

# %% [markdown]
# `p3` was never measured alone, but it is `p0+p3` less `p0`. All five labels are identified. Had `p0` been missing,
# `p3` would not be:

# %%
print(pdae_jax.check_guarantee(train.select(["control", "p1", "p2", "p0+p3"]), "p3").summary())

# %% [markdown]
# ## Three fits in one program
#
# The replicas differ in their random numbers. A replica in a bad optimum would show in the condition that was put
# aside, or in latents that no rotation takes to those of the others, and would be dropped.

# %%
ensemble = pdae_jax.fit_ensemble(
    train, key=jax.random.key(1), num_replicas=3, bootstrap=False, validation=validation, **RECIPE
)
pd.DataFrame([found._asdict() for found in ensemble.diagnosis])

# %% [markdown]
# ## Were the right latents found?
#
# The theory allows a rotation or reflection, and a translation. What an orthogonal map leaves between learned and true
# latents is the residual, in standard deviations of the control; `W` is mapped by the same map.

# %%
fitted = ensemble.members[0]
found = measure_identification(fitted, truth_of(simulation))
for name in ("affine", "orthogonal"):
    result = getattr(found, name)
    print(
        f"{name:11s} R2 {result.seen.r2:.4f}, residual {result.seen.residual:.3f}, error of W {result.shifts.error:.3f}"
    )
latents = fitted.encode(train.x)
display(plots.latent_space(latents, train.condition_index, train.conditions))

# %% [markdown]
# ## Predictions, and fresh cells of the truth
#
# For each label: the verdict, and what it does not know, the energy distance of the predicted cells to new cells of
# the truth, as a fraction of the distance between control and truth.

# %%
rows, pictures = [], {}
for number, label in enumerate(asked):
    prediction = pdae_jax.predict(ensemble, label, key=jax.random.key(number), num_samples=1500)
    truth = np.asarray(world.sample(jax.random.key(100 + number), label, 1500))
    error = pdae_jax.losses.energy_distance(prediction.samples, truth)
    control = pdae_jax.losses.energy_distance(train.cells("control"), truth)
    verdict = prediction.verdict
    rows.append(
        {
            "label": label,
            "verdict": verdict.level,
            "latents outside": f"{verdict.outside:.0%}",
            "sources disagree": f"{verdict.source_disagreement:.1%}",
            "replicas disagree": f"{verdict.replica_disagreement:.1%}",
            "true error": f"{float(error / control):.1%}",
        }
    )
    pictures[label] = (truth, prediction.samples)
pd.DataFrame(rows)

# %%
truth, samples = pictures["p0+p2"]
display(plots.densities_2d(truth, {"pdae": samples}, features=data.features, title="p0+p2, never measured"))

# %% [markdown]
# Far away the decoder was never trained. The verdict said so before the truth was looked at:

# %%
truth, samples = pictures["p1:4"]
display(plots.densities_2d(truth, {"pdae": samples}, features=data.features, title="p1 at four times its dose"))

# %% [markdown]
# ## A world in which effects do not add up
#
# The same world, but each pair of perturbations shifts the latents by something of its own. No method can know the
# pair from its parts. The condition that was put aside finds out.

# %%
broken = pdae_jax.simulate(jax.random.key(4), labels=measured, cells_per_condition=1500, interaction=1.0, **WORLD)
train, validation = pdae_jax.hold_out(broken.data, ["p1+p2"])
fitted = pdae_jax.fit(train, key=jax.random.key(1), validation=validation, **RECIPE)
prediction = pdae_jax.predict(fitted, "p0+p2", key=jax.random.key(0), num_samples=1500)
truth = np.asarray(broken.world.sample(jax.random.key(100), "p0+p2", 1500))
error = float(pdae_jax.losses.energy_distance(prediction.samples, truth))
control = float(pdae_jax.losses.energy_distance(train.cells("control"), truth))
print(prediction.verdict.summary())
print(f"Energy distance to the truth: predicted cells {error:.2f}, control cells {control:.2f}.")
