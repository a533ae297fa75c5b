"""What may be claimed about predictions of labels, before or after training.

python experiments/check.py --config=experiments/configs/simulated.py             what the design identifies
python experiments/check.py --workdir=runs/simulated                              all doubles that were not trained on
python experiments/check.py --workdir=runs/simulated --label=p0+p2 --label=p0:2

With a config only the data are read and the verdict is about the design of the experiment: which labels are
identified. With a run folder it also says whether predictions are supported, and whether additivity was tested.
"""

import collections
import itertools

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from pdae_jax import PerturbationData, build, check_guarantee
from pdae_jax.compiled import cache_compilations
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.training.restore import load_model

CONFIG = config_flags.DEFINE_config_file("config", None, "an experiment: path[:arg]")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run")
LABEL = flags.DEFINE_multi_string("label", [], "A+B, or with doses A:0.5+B; default all doubles not in training")


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    if (CONFIG.value is None) == (WORKDIR.value is None):
        raise app.UsageError("Pass --workdir of a run, or --config of an experiment that was not run yet.")
    source = load_model(WORKDIR.value) if WORKDIR.value else build.experiment(CONFIG.value).train
    train = source if isinstance(source, PerturbationData) else source.train
    verdicts = [check_guarantee(source, label) for label in LABEL.value or unmeasured_doubles(train)]
    for verdict in verdicts:
        print(describe(verdict, trained=source is not train))
    levels = collections.Counter(_identified(v) if source is train else v.level for v in verdicts)
    print(f"{len(verdicts)} labels: " + ", ".join(f"{count} {level}" for level, count in levels.items()))


def unmeasured_doubles(train: PerturbationData) -> list[str]:
    """Pairs of perturbations, at the dose 1, that are no training condition."""
    pairs = (train.separator.join(pair) for pair in itertools.combinations(train.perturbations, 2))
    return [pair for pair in pairs if not np.any(np.all(train.labels == train.label(pair), axis=1))]


def describe(verdict: Verdict, *, trained: bool) -> str:
    """The verdict in words; of training data alone only what they decide."""
    if trained:
        return verdict.summary()
    share = "" if verdict.identified else f", {verdict.residual:.0%} of it lies outside the span of the training labels"
    return f"{verdict.condition}: {_identified(verdict)}{share} (leverage {verdict.leverage:.2g})"


def _identified(verdict: Verdict) -> str:
    return verdict.level if verdict.level in ("not identified", "poorly determined") else "identified"


if __name__ == "__main__":
    app.run(main)
