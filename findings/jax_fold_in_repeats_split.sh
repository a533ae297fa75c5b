#!/usr/bin/env bash
# jax.random.fold_in(key, i) is the very key that jax.random.split(key, n)[i] returns.
#
# Guess: the two ways to make new keys from one key never make the same key, so one may split a key and fold a
# counter into it.
# Found: with the default generator they are equal for every i, so a step's noise by fold_in and a part's noise by
# split are the same numbers. Use a key in one of the two ways only.
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11.
# Output seen:
#   same keys: [ True  True  True  True  True]
#   correlation of the two noises: 1.0
# Source: jax-ml/jax, jax/_src/random/threefry2x32.py: with jax_threefry_partitionable (the default) split hashes
# the pair (0, i), and fold_in hashes the seed of i, which is (0, i) too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile jax==0.10.2 jaxlib==0.10.2
venv/bin/python -W ignore - <<'PY'
import jax
import numpy as np

key = jax.random.key(7)
parts = jax.random.split(key, 5)
steps = [jax.random.fold_in(key, i) for i in range(5)]
same = np.array([bool((jax.random.key_data(a) == jax.random.key_data(b)).all()) for a, b in zip(parts, steps)])
noise = np.corrcoef(jax.random.normal(parts[3], (1000,)), jax.random.normal(steps[3], (1000,)))[0, 1]
print("same keys:", same)
print("correlation of the two noises:", round(float(noise), 6))
assert same.all() and noise > 0.999999
PY
