#!/usr/bin/env bash
# Under jax.vmap a draw with keys of the kind "rbg" depends on the first key only.
#
# Guess: vmap of a draw over keys gives what a loop over the keys gives; replicas trained by vmap have their own
# noise whatever becomes of their neighbours.
# Found: with impl="rbg" (advised for speed on accelerators) the batch is drawn from the first key alone: other keys
# for the replicas 2 and 3 change nothing, and none but the first equals its own run in a loop. With the default
# kind both are as one guesses.
# Versions: jax 0.10.2, jaxlib 0.10.2, Python 3.11.
# Output seen:
#   rbg: rows that equal a loop: [ True False False]
#   rbg: rows that stay when keys 2 and 3 change: [ True  True  True]
#   threefry2x32: rows that equal a loop: [ True  True  True]
#   threefry2x32: rows that stay when keys 2 and 3 change: [ True False False]
# Source: documentation of jax.random, on the generators rbg and unsafe_rbg: a batch under vmap comes from its first
# key.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile jax==0.10.2 jaxlib==0.10.2
venv/bin/python -W ignore - <<'PY'
import jax
import numpy as np

draw = lambda key: jax.random.normal(key, (4,))
seen = {}
for kind in ("rbg", "threefry2x32"):
    keys, others = (jax.random.split(jax.random.key(seed, impl=kind), 3) for seed in (0, 1))
    changed = jax.numpy.concatenate([keys[:1], others[1:]])
    together = np.asarray(jax.vmap(draw)(keys))
    alone = np.stack([draw(key) for key in keys])
    loop = (together == alone).all(1)
    stays = (together == np.asarray(jax.vmap(draw)(changed))).all(1)
    print(f"{kind}: rows that equal a loop:", loop)
    print(f"{kind}: rows that stay when keys 2 and 3 change:", stays)
    seen[kind] = loop.tolist(), stays.tolist()
assert seen["rbg"] == ([True, False, False], [True, True, True])
assert seen["threefry2x32"] == ([True, True, True], [True, False, False])
PY
