"""Two-sample tests: false rejections at 5 %, power by fineness of the difference, and time; beside the authors' MMDAgg.

    python experiments/benchmarks/two_sample_level_power.py --parts=level
    python experiments/benchmarks/two_sample_level_power.py --parts=power,time --reference=<folder of their repository>

``level``: standard normal samples of equal laws, in 10 dimensions. ``power``: the uniform law on [0, 1] against its
perturbation by 1 to 4 pairs of bumps (Schrab et al., JMLR 2023, section 5.4; 500 cells a sample), beside the power that
the authors publish, and beside the decisions of their code on the same draws where it can be imported. ``time``: one
test with 2,000 + 2,000 relabellings, in 10 dimensions, compiled. Rates have Clopper-Pearson intervals of 95 %.
"""

import csv
import functools
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial.distance
import scipy.stats
from absl import app, flags

from pdae_jax import kernels
from pdae_jax.two_sample.aggregated import aggregated_test
from pdae_jax.two_sample.permutation import two_sample_test, two_sample_tests

PARTS = flags.DEFINE_list("parts", ["level", "power", "time"], "of level, power, time")
TESTS = flags.DEFINE_list("tests", [], "names of tests; all by default")
SIZES = flags.DEFINE_list("sizes", ["100", "500"], "cells per sample, for the level")
DRAWS = flags.DEFINE_integer("draws", 2000, "pairs of samples, for the level")
PERTURBATIONS = flags.DEFINE_list("perturbations", ["1", "2", "3", "4"], "pairs of bumps, for the power")
POWER_SIZE = flags.DEFINE_integer("power_size", 500, "cells per sample, for the power")
POWER_DRAWS = flags.DEFINE_integer("power_draws", 200, "pairs of samples, for the power")
REPEATS = flags.DEFINE_integer("repeats", 3, "timed runs of a test, of which the fastest counts")
TIME_SIZE = flags.DEFINE_integer("time_size", 500, "cells per sample, for the time")
RELABELLINGS = flags.DEFINE_integer("relabellings", 500, "in all, or for the quantiles and as many for the level")
REFERENCE = flags.DEFINE_string("reference", None, "folder that has the authors' package mmdagg, if not installed")
OUT = flags.DEFINE_string("out", "runs/bench/two_sample_level.csv", "table")

LEVEL = 0.05
DIM = 10
BLOCK = 100  # pairs of samples in memory at once
BUMP_HEIGHT = 2.7  # of the density's perturbation, in units of 1 / its number; positive up to e
TIME_RELABELLINGS = 2000

# Power of MMDAgg with the Laplace and the Gaussian kernel, 10 bandwidths each, by number of perturbations, over 500
# draws: results/exp1_0.npy and exp1bis_0.npy of github.com/antoninschrab/mmdagg-paper.
PUBLISHED = {
    "aggregated_wild_bootstrap": {1: 1.0, 2: 0.988, 3: 0.602, 4: 0.228},
    "aggregated_permutation": {1: 1.0, 2: 0.988, 3: 0.62, 4: 0.23},
}

Pairs = list[tuple[np.ndarray, np.ndarray]]
Decide = Callable[[Pairs, jax.Array, int], np.ndarray]  # (pairs, key, relabellings) -> rejections at the level


# --- tests ---------------------------------------------------------------------------------------------------------


def energy(pairs: Pairs, key: jax.Array, relabellings: int) -> np.ndarray:
    named = {str(i): pair for i, pair in enumerate(pairs)}
    return two_sample_tests(named, key=key, num_permutations=relabellings - 1).p_value <= LEVEL


def mmd_median(pairs: Pairs, key: jax.Array, relabellings: int) -> np.ndarray:
    """Gaussian kernels at half, one and two times the median distance of each pool."""
    p_values = []
    for i, (x, y) in enumerate(pairs):
        median = np.median(scipy.spatial.distance.pdist(np.concatenate([x, y])))
        test = two_sample_test(
            x,
            y,
            key=jax.random.fold_in(key, i),
            num_permutations=relabellings - 1,
            kernel=kernels.gaussian(median * np.array([0.5, 1.0, 2.0])),
            pad_to=len(x) + len(y),
        )
        p_values.append(test.p_value)
    return np.array(p_values) <= LEVEL


def aggregated(pairs: Pairs, key: jax.Array, relabellings: int, *, method: str) -> np.ndarray:
    keys = (jax.random.fold_in(key, i) for i in range(len(pairs)))
    return np.array(
        [
            aggregated_test(
                x,
                y,
                key=key,
                level=LEVEL,
                method=method,
                num_quantile=relabellings,
                num_level=relabellings,
                pad_to=len(x) + len(y),
            ).rejected
            for key, (x, y) in zip(keys, pairs, strict=True)
        ]
    )


def reference(pairs: Pairs, key: jax.Array, relabellings: int, *, method: str) -> np.ndarray:
    """The authors' code in JAX: their bandwidths, their relabellings."""
    seeds = np.asarray(jax.random.randint(key, (len(pairs),), 0, 2**31 - 1))
    mmdagg = import_reference().mmdagg
    decisions = [
        mmdagg(
            *(jnp.asarray(sample, jnp.float32) for sample in pair),
            alpha=LEVEL,
            B1=relabellings,
            B2=relabellings,
            seed=int(seed),
            permutations_same_sample_size=method == "permutation",
        )
        for seed, pair in zip(seeds, pairs, strict=True)
    ]
    return np.array([bool(decision) for decision in decisions])


METHODS = ("permutation", "wild_bootstrap")
OURS = {
    "energy": energy,
    "mmd_median": mmd_median,
    **{f"aggregated_{method}": functools.partial(aggregated, method=method) for method in METHODS},
}
THEIRS = {f"reference_{method}": functools.partial(reference, method=method) for method in METHODS}


@functools.cache
def import_reference():
    if REFERENCE.value:
        sys.path.insert(0, REFERENCE.value)
    return importlib.import_module("mmdagg.jax")


def chosen_tests() -> dict[str, Decide]:
    """The tests asked for; those of the authors only where their code is."""
    tests = dict(OURS)
    try:
        import_reference()
        tests |= THEIRS
    except ImportError:
        if REFERENCE.value:
            raise ValueError(
                f"--reference={REFERENCE.value} has no package mmdagg. Pass the folder that holds mmdagg/."
            ) from None
        print("mmdagg cannot be imported, so the authors' code is left out; --reference=<folder of it> adds it")
    unknown = [name for name in TESTS.value if name not in tests]
    if unknown:
        raise ValueError(f"--tests={','.join(unknown)} is not known here; known are {', '.join(tests)}.")
    return {name: test for name, test in tests.items() if not TESTS.value or name in TESTS.value}


# --- data ----------------------------------------------------------------------------------------------------------


def equal_laws(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    return random.normal(size=(size, DIM)), random.normal(size=(size, DIM))


def perturbed_uniform(random: np.random.Generator, size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Density 1 + c / P sum_i theta_i G(P x - i) with random signs theta, and the uniform law, on [0, 1]."""
    signs = random.choice([-1.0, 1.0], size=number)
    x = random.uniform(size=8 * size)
    position = number * x - np.ceil(number * x)  # in (-1, 0], within its perturbation
    bump = _smooth_bump(4 * position + 3) - _smooth_bump(4 * position + 1)
    index = np.minimum(np.ceil(number * x), number).astype(int) - 1
    density = 1.0 + BUMP_HEIGHT / number * signs[index] * bump
    kept = x[random.uniform(0.0, 2.0, size=len(x)) < density][:size]
    return kept[:, None], random.uniform(size=(size, 1))


def _smooth_bump(t: np.ndarray) -> np.ndarray:
    inside = np.abs(t) < 1
    return np.where(inside, np.exp(-1.0 / np.where(inside, 1.0 - t**2, 1.0)), 0.0)


def blocks(draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]], draws: int) -> Iterator[Pairs]:
    """The same draws for every test."""
    random = np.random.default_rng(0)
    for start in range(0, draws, BLOCK):
        yield [draw(random) for _ in range(min(BLOCK, draws - start))]


# --- measurements --------------------------------------------------------------------------------------------------


def decisions(test: Decide, draw: Callable, draws: int) -> tuple[np.ndarray, float]:
    """Rejections, and ms per test, compilation included."""
    begin, key = time.perf_counter(), jax.random.key(0)
    found = [test(pairs, jax.random.fold_in(key, i), RELABELLINGS.value) for i, pairs in enumerate(blocks(draw, draws))]
    return np.concatenate(found), 1e3 * (time.perf_counter() - begin) / draws


def rate_row(part: str, name: str, rejected: np.ndarray, ms: float, **more) -> dict:
    interval = scipy.stats.binomtest(int(rejected.sum()), len(rejected)).proportion_ci(method="exact")
    row = {"part": part, "test": name, "draws": len(rejected), "rate": round(float(rejected.mean()), 4)}
    return row | {"low": round(interval.low, 4), "high": round(interval.high, 4), "ms": round(ms, 2)} | more


def measure_level(tests: dict[str, Decide]) -> Iterator[dict]:
    for size in map(int, SIZES.value):
        for name, test in tests.items():
            rejected, ms = decisions(test, functools.partial(equal_laws, size=size), DRAWS.value)
            yield rate_row("level", name, rejected, ms, size=size, dim=DIM)


def measure_power(tests: dict[str, Decide]) -> Iterator[dict]:
    for number in map(int, PERTURBATIONS.value):
        draw = functools.partial(perturbed_uniform, size=POWER_SIZE.value, number=number)
        found = {}
        for name, test in tests.items():
            found[name], ms = decisions(test, draw, POWER_DRAWS.value)
            more: dict = {"size": POWER_SIZE.value, "dim": 1, "perturbations": number}
            if POWER_SIZE.value == 500 and name in PUBLISHED:
                more["published"] = PUBLISHED[name].get(number)
            ours = name.replace("reference", "aggregated")
            if ours != name and ours in found:  # share of draws on which both decide alike
                more["agreement"] = round(float(np.mean(found[name] == found[ours])), 4)
            yield rate_row("power", name, found[name], ms, **more)


def measure_time(tests: dict[str, Decide]) -> Iterator[dict]:
    pair = equal_laws(np.random.default_rng(0), TIME_SIZE.value)
    for name, test in tests.items():
        if not name.startswith(("aggregated", "reference")):
            continue
        test([pair], jax.random.key(0), TIME_RELABELLINGS)
        times = []
        for repeat in range(REPEATS.value):
            begin = time.perf_counter()
            test([pair], jax.random.key(repeat), TIME_RELABELLINGS)
            times.append(time.perf_counter() - begin)
        yield {"part": "time", "test": name, "size": TIME_SIZE.value, "dim": DIM, "ms": round(1e3 * min(times), 1)}


MEASUREMENTS = {"level": measure_level, "power": measure_power, "time": measure_time}
COLUMNS = (
    *("part", "test", "size", "dim", "perturbations", "draws", "rate", "low", "high"),
    *("published", "agreement", "ms"),  # power of the authors; equal decisions; per test
)


def line(cells: Sequence) -> str:
    return "  ".join(str(c).ljust(26 if name == "test" else len(name)) for name, c in zip(COLUMNS, cells, strict=True))


def main(_):
    unknown = [part for part in PARTS.value if part not in MEASUREMENTS]
    if unknown:
        raise ValueError(f"--parts={','.join(unknown)} is not known; known are {', '.join(MEASUREMENTS)}.")
    tests = chosen_tests()
    path = pathlib.Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        print(line(COLUMNS))
        for part in PARTS.value:
            for row in MEASUREMENTS[part](tests):
                writer.writerow(row)
                file.flush()
                print(line([row.get(name, "") for name in COLUMNS]), flush=True)
    print(f"{jax.devices()[0].device_kind}; table in {path}")


if __name__ == "__main__":
    app.run(main)
