"""Set before JAX and matplotlib are imported; nothing here may import pdae_jax, whose annotations pytest checks."""

import os

import hypothesis

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

# The same examples every time, and no deadline: the first example of a jitted function compiles it.
hypothesis.settings.register_profile("pdae_jax", derandomize=True, deadline=None, max_examples=30, database=None)
hypothesis.settings.load_profile("pdae_jax")
