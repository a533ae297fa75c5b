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
# # Which settings? Reading a finished sweep
#
# Every setting of a fit has a default that is found from the data. Where accuracy matters, a sweep tells whether
# others are better. This page runs a small one, reads its folder, and picks a model. Settings are ranked on conditions
# that were left out of training (validation). Other conditions are left out to judge the one that wins (test), and are
# looked at once.

# %%
# %matplotlib inline
import pathlib
import subprocess
import sys
import tempfile

import jax

import pdae_jax
from pdae_jax.evaluation.summary import format_table
from pdae_jax.reporting import results, sweeps

# %% [markdown]
# ## The sweep
#
# Sixteen random points of the space in `experiments/configs/simulated.py`: number of latents, widths, learning rate and
# two weights of the loss. `--launcher=population` trains those that share a compiled program in one. The same command
# again would go on where this one was broken off. A sweep of your own takes minutes to hours; here each point has a
# tenth of the usual steps.

# %%
folder = pathlib.Path(tempfile.mkdtemp()) / "sweep"
repository = next(p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / "experiments").is_dir())
command = [
    *(sys.executable, "experiments/sweep.py", "--config=experiments/configs/simulated.py:plane"),
    *("--launcher=population", "--search=random", "--points=16", f"--workdir={folder}"),
    "--config.fit.num_steps=300",
]
done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)

# %% [markdown]
# ## The leaderboard
#
# `validation_share` is the energy distance to the left-out cells as a fraction of that of the control: 0 is a perfect
# prediction, 1 is no better than predicting no effect.

# %%
table = sweeps.read_sweep(folder)
sweeps.leaderboard(table, 8).round(4)

# %% [markdown]
# ## What each setting does
#
# Each line is a point, from its settings to its error; the best tenth is in colour.

# %%
sweeps.parallel_coordinates(table)

# %% [markdown]
# The same by setting. Look for a trend that is larger than the scatter: a best point alone may be luck.

# %%
sweeps.setting_effects(table)

# %% [markdown]
# How much of the variance each setting explains (fANOVA; it needs optuna and scikit-learn, `make .venv/sweep.stamp`).

# %%
try:
    print(sweeps.importance(table).round(3).to_string(index=False))
except ImportError as error:
    print(f"not computed: {error}")

# %% [markdown]
# ## The winner, judged once
#
# The best settings were trained once more from another start, so that the luck of a start does not count, and evaluated
# on the test conditions.

# %%
print(format_table(results.read_evaluation(folder / "winner")))

# %% [markdown]
# ## Use it
#
# Each point is a run folder like any other. Load the winner, and predict.

# %%
fitted = pdae_jax.load_run(folder / "winner")
prediction = pdae_jax.predict(fitted, "p1+p2", key=jax.random.key(0), num_samples=500)
print(fitted, prediction.verdict.summary(), sep="\n")
