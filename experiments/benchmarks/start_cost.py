"""Seconds of the start of a fit: the linear model and the kernel over conditions, for screens of growing size.

    make bench SCRIPT=start_cost
    python experiments/benchmarks/start_cost.py --sizes=104,500,2000

Singles, and pairs of these: 1.2 for each perturbation up to 500 of them. Means of 1,000 genes with effects of rank 12
that saturate, and noise. CPU seconds of one thread where the environment sets one; nothing is compiled.
"""

import time

import numpy as np
from absl import app, flags

from pdae_jax.design.design import make_design
from pdae_jax.model.condition_means import fit_condition_means
from pdae_jax.model.linear import fit_linear

SIZES = flags.DEFINE_list("sizes", ["104", "500", "2000"], "numbers of perturbations")
GENES = flags.DEFINE_integer("genes", 1000, "features")


def screen(perturbations: int, genes: int):
    """Make the labels of a screen, and the means of its conditions."""
    random = np.random.default_rng(0)
    number = min(round(1.2 * perturbations), 500)
    pairs = set()
    while len(pairs) < number:
        pairs.add(tuple(sorted(random.choice(perturbations, 2, replace=False).tolist())))
    labels = np.zeros((1 + perturbations + number, perturbations), np.float32)
    labels[1 : perturbations + 1] = np.eye(perturbations)
    np.put_along_axis(labels[perturbations + 1 :], np.array(sorted(pairs)), 1.0, axis=1)
    total = labels @ (random.normal(size=(perturbations, 12)) @ random.normal(size=(12, genes)) / 4)
    size = np.linalg.norm(total, axis=1, keepdims=True)
    usual = np.median(size)
    means = np.tanh(size / usual) * usual * total / np.maximum(size, 1e-9)
    return labels, means + 0.1 * random.normal(size=means.shape)


def main(_):
    print(f"{'perturbations':>14}{'conditions':>12}{'linear':>9}{'with the kernel':>17}  interactions from")
    for size in map(int, SIZES.value):
        labels, means = screen(size, GENES.value)
        design, counts = make_design(labels, [f"p{i}" for i in range(size)]), np.full(len(labels), 100)
        begin = time.process_time()
        fit_linear(means, design, counts)
        between = time.process_time()
        found = fit_condition_means(means, design, counts)
        seconds = between - begin, time.process_time() - between
        print(f"{size:14}{len(labels):12}{seconds[0]:9.2f}{seconds[1]:17.2f}  {found.interacts}", flush=True)


if __name__ == "__main__":
    app.run(main)
