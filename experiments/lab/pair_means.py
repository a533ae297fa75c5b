"""The means of held-out pairs, predicted in closed form: the kernel over conditions beside the linear model alone.

python experiments/lab/pair_means.py          `norman_pairs`, five splits, five shares of the pairs, and RNAi; a minute

No model is trained. Squared errors of the predicted means of held-out pairs, over those of `ridge_additive` on the same
split: of 1,000 fresh cells of each pair of `norman_pairs`, and of the measured wells of RNAi, root mean square, by
feature. ``left out`` is what leave-one-out over training combinations says of it, without any held-out pair.
"""

import numpy as np
from absl import app

from experiments.configs.mapk_rnai import held_out_pairs
from experiments.lab.cases import norman
from pdae_jax import hold_out
from pdae_jax.data import datasets
from pdae_jax.data.moments import condition_means
from pdae_jax.design.design import design_of
from pdae_jax.evaluation.baselines import linear_model, predicted_means
from pdae_jax.types import PerturbationData

SPLITS = (1, 2, 3, 4, 5)
SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)


def errors(train: PerturbationData, test: PerturbationData) -> dict[str, np.ndarray]:
    """Square the errors of both, ``[pairs, features]``; in the data's units."""
    row, control = design_of(train).row, condition_means(train)[design_of(train).control]
    truth = condition_means(test) - control
    rows = np.stack([row(train.label(condition)) for condition in test.conditions])
    methods = {"ridge": predicted_means(train), "ridge_additive": linear_model(train)}
    return {name: (method.predict(rows) - truth) ** 2 for name, method in methods.items()}


def left_out(train: PerturbationData) -> float:
    """Say what leave-one-out makes of the ratio; 1 without interactions."""
    means, found = condition_means(train), predicted_means(train)
    truth = (means - means[design_of(train).control])[found.tested]
    if not len(truth):
        return 1.0
    return float(np.sum((found.left_out - truth) ** 2) / np.sum((linear_model(train).left_out - truth) ** 2))


def main(_):
    print(f"{'pairs':>6}{'ridge / ridge_additive':>24}{'of splits':>36}{'left out':>10}  interactions from")
    for share in SHARES:
        ratios, said, kinds = [], [], set()
        for split in SPLITS:
            case = norman(split, share=share)
            found = errors(case.train, case.test)
            ratios.append(found["ridge"].sum() / found["ridge_additive"].sum())
            said.append(left_out(case.train))
            kinds.add(predicted_means(case.train).interacts)
        of_splits = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{share:6.0%}{np.mean(ratios):24.3f}{of_splits:>36}{np.mean(said):10.3f}  {', '.join(sorted(kinds))}")
    data = datasets.mapk_rnai(double_dose=False)
    held_out, judged = held_out_pairs()
    rest, test = hold_out(data, list(held_out))
    train, _ = hold_out(rest, list(judged))
    for name, squared in errors(train, test).items():
        by_feature = zip(data.features, np.sqrt(squared.mean(axis=0)), strict=True)
        print(f"RNAi, {name}: " + ", ".join(f"{feature} {value:.4f}" for feature, value in by_feature))


if __name__ == "__main__":
    app.run(main)
