"""What may be claimed about predictions of labels, before or after training.

pdae-jax check --config=experiments/configs/simulated.py             what the design identifies
pdae-jax check --workdir=runs/simulated                              all doubles that were not trained on
pdae-jax check --workdir=runs/simulated --label=p0+p2 --label=p0:2

With a config only the data are read and the verdict is about the design of the experiment: which labels are
identified. With a run folder it also says whether predictions are supported, and whether additivity was tested.
"""

import collections
import itertools

import numpy as np
from absl import app, flags

from pdae_jax.cli.command import Call
from pdae_jax.cli.reading import read_data, read_run
from pdae_jax.compiled import cache_compilations
from pdae_jax.prediction.guarantee import check_guarantee
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.types import PerturbationData

CONFIG = None  # one is read where it is named


def define(values: flags.FlagValues) -> None:
    """Add the flags of the command."""
    flags.DEFINE_string("workdir", None, "folder of a run", flag_values=values)
    flags.DEFINE_multi_string(
        "label",
        [],
        "A+B, or with doses A:0.5+B; default all new doubles, at measured doses",
        flag_values=values,
    )


def main(asked: flags.FlagValues, call: Call) -> None:
    """Print a verdict a line."""
    cache_compilations()
    if (asked.config is None) == (asked.workdir is None):
        raise app.UsageError("Pass --workdir of a run, or --config of an experiment that was not run yet.")
    source = read_run(asked.workdir) if asked.workdir else read_data(asked.config).train
    train = source if isinstance(source, PerturbationData) else source.train
    verdicts = [check_guarantee(source, label) for label in asked.label or unmeasured_doubles(train)]
    for verdict in verdicts:
        print(describe(verdict, trained=source is not train))
    levels = collections.Counter(_identified(v) if source is train else v.level for v in verdicts)
    print(f"{len(verdicts)} labels: " + ", ".join(f"{count} {level}" for level, count in levels.items()))


def unmeasured_doubles(train: PerturbationData) -> list[str]:
    """List pairs of perturbations that are no training condition, each at the commonest dose, of several the largest.

    Pairs of strata are none.
    """
    parts = {}
    for name, doses in zip(train.perturbations, train.labels.T, strict=True):
        found, counts = np.unique(doses[doses != 0], return_counts=True)
        dose = 1.0 if not len(found) else found[len(found) - 1 - np.argmax(counts[::-1])]
        parts[name] = name if dose == 1 else f"{name}:{dose:g}"
    pairs = (
        train.separator.join(map(parts.__getitem__, pair))
        for pair in itertools.combinations(train.perturbations, 2)
        if not set(pair) <= set(train.strata)
    )
    return [pair for pair in pairs if not np.any(np.all(train.labels == train.label(pair), axis=1))]


def describe(verdict: Verdict, *, trained: bool) -> str:
    """Put a verdict into words; of training data alone only what they decide."""
    if trained:
        return verdict.summary()
    share = "" if verdict.identified else f", {verdict.residual:.0%} of it lies outside the span of the training labels"
    return f"{verdict.condition}: {_identified(verdict)}{share} (leverage {verdict.leverage:.2g})"


def _identified(verdict: Verdict) -> str:
    return verdict.level if verdict.level in ("not identified", "poorly determined") else "identified"
