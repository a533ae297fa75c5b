"""The verdict on a prediction: what is known about it, and the level that follows."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

# A trusted prediction is to be within 5 % of the control's energy distance. Left-out combinations must have been within
# half of that (the others are harder now and then), and predictions that should coincide within all of it.

# Energy distances go with the square of a small error, so the noise of one measured effect enters as often as the
# leverage says. In simulated worlds with 1,000 cells a condition that of one effect costs 0.2 to 0.6 % of the control's
# distance, and reaches the 5 % at a leverage of about 20; with 300 cells at 5 to 10. A sum of m effects has leverage m.
MAX_LEVERAGE = 20.0

MAX_OUTSIDE = 0.25  # share of latents outside the support above which a prediction counts as unsupported
MAX_TESTED_ERROR = 0.025  # energy distance of left-out combinations that passes the test, over the control's
MAX_EXPECTED_ERROR = 0.05  # of left-out combinations, as a fraction of the distance that the label is predicted to go
MAX_DISAGREEMENT = 0.05  # of predictions that should coincide, as a fraction of the distance from the control


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Judgement of the prediction of one label; None where something was not asked."""

    condition: str
    identified: bool  # the label lies in the span of the training labels
    residual: float  # rho: share of the label's length outside that span, 0 = inside
    weights: dict[str, float]  # minimum-norm combination of training conditions that gives the label
    leverage: float  # squared norm of the weights: how much the noise of their estimates is amplified
    dose_status: str = "measured"  # or "between" measured doses, or "beyond" them, see `design.effects.dose_status`
    new_doses: tuple[str, ...] = ()  # in words, with the measured ones of these perturbations
    latent_rank: int | None = None  # rank of the training conditions' latent shifts, W A
    latent_dim: int | None = None  # k; the theory asks for latent_rank = k
    outside: float | None = None  # share of translated latents outside the training latents' support; 0.05 is usual
    supported: bool | None = None  # outside <= MAX_OUTSIDE
    tested: tuple[str, ...] = ()  # combinations that were left out of training and predicted
    tested_error: float | None = None  # their energy distance, as a fraction of the control's
    expected_error: float | None = None  # the same distance, as a fraction of the one this label is predicted to go
    # how far predictions that should coincide differ, as a fraction of their distance from the control
    source_disagreement: float | None = None
    replica_disagreement: float | None = None  # of an ensemble
    # length of what is taken over from other combinations, over that of the predicted shift of the mean
    borrowed: float | None = None

    @property
    def assumption_tested(self) -> bool:
        """Tell that a combination with an effect was left out and predicted."""
        return self.tested_error is not None

    @property
    def rank_deficient(self) -> bool:
        """Tell that training conditions leave latent dimensions unshifted, of which the theory says nothing."""
        return self.latent_rank is not None and self.latent_dim is not None and self.latent_rank < self.latent_dim

    @property
    def level(self) -> str:
        """Find the first of the levels that applies, else ``trusted``.

        ``not identified``, ``poorly determined``, ``rank deficient``, ``unsupported``, ``untested``, ``refuted``,
        ``imprecise``, ``inconsistent``, ``beyond the measured doses``, ``dose not measured``.
        """
        return next(name for name, level in LEVELS.items() if level.applies(self))

    @property
    def disagreement(self) -> float:
        """Take the larger of the two disagreements that are known; 0 if none is."""
        known = [d for d in (self.source_disagreement, self.replica_disagreement) if d is not None and d == d]
        return max(known, default=0.0)

    def summary(self) -> str:
        """Say the level, why, and what to do; then the numbers behind it."""
        words = LEVELS[self.level]
        return " ".join(
            [f"{self.condition}: {self.level}.", words.cause(self), words.advice, "Details:", *_details(self)]
        )


class Level(NamedTuple):
    """Level of predictions: when one has it, and what people read about it."""

    applies: Callable[[Verdict], bool]  # where none before it does
    meaning: str  # for all predictions that have it
    cause: Callable[[Verdict], str]  # for one of them
    advice: str


def _above(value: float | None, most: float) -> bool:
    return value is not None and value > most


#: Every level, in the order in which they are looked for: the first that applies is that of a prediction.
LEVELS: dict[str, Level] = {
    "not identified": Level(
        lambda v: not v.identified,
        "No measured condition says what a part of this combination does. That part is left out of the prediction.",
        lambda v: f"No measured condition says what a part of it does; that part ({v.residual:.0%}) is left out.",
        "Measure what is missing, alone or in another combination.",
    ),
    "poorly determined": Level(
        lambda v: v.leverage > MAX_LEVERAGE,
        "Its effect would be a small difference of large measured effects, and so mostly their error.",
        lambda v: (
            "Its effect is a small difference of large ones, which would multiply the error of measured effects by "
            f"{v.leverage**0.5:.2g}."
        ),
        "Measure a condition nearer to it.",
    ),
    "rank deficient": Level(
        lambda v: v.rank_deficient,
        "The measured conditions move cells in fewer directions than the model has, and nothing determines the others.",
        lambda v: (
            f"The measured conditions move cells in {v.latent_rank} directions, and the model has {v.latent_dim}."
        ),
        "Fit with a smaller latent_dim, or measure more perturbations.",
    ),
    "unsupported": Level(
        lambda v: v.supported is False,
        f"More than {MAX_OUTSIDE:.0%} of the predicted cells lie where no measured cells are; 5% is usual.",
        lambda v: f"{v.outside:.0%} of the predicted cells lie where no measured cells are; 5% is usual.",
        'Start from cells that are nearer, with source="nearest", or measure a condition in between.',
    ),
    "untested": Level(
        lambda v: not v.assumption_tested,
        "Nothing tests whether effects add up: no combination was left out of the fit and predicted.",
        lambda v: "Nothing tests whether effects add up: no combination was left out of the fit and predicted.",
        "Fit again with some measured combinations as validation=.",
    ),
    "refuted": Level(
        lambda v: _above(v.tested_error, MAX_TESTED_ERROR),
        "Measured combinations that were left out of the fit were missed by more than "
        f"{MAX_TESTED_ERROR:.1%} of their distance from the control.",
        lambda v: f"{_left_out(v)} missed by {v.tested_error:.1%} of the distance from the control.",
        "Take it as a hint, and see which combinations fail: effects may not add up, or cells may be too few.",
    ),
    "imprecise": Level(
        lambda v: _above(v.expected_error, MAX_EXPECTED_ERROR),
        "Measured combinations that were left out of the fit were predicted well, but their error is more than "
        f"{MAX_EXPECTED_ERROR:.0%} of what this condition does.",
        lambda v: f"What it does is too small: the error of left-out combinations is {v.expected_error:.0%} of it.",
        "Measure it if a small effect matters; more cells of each condition make the error smaller.",
    ),
    "inconsistent": Level(
        lambda v: v.disagreement > MAX_DISAGREEMENT,
        f"Predictions that should be the same differ by more than {MAX_DISAGREEMENT:.0%} of the distance from the "
        "control: from cells of other conditions, or by other replicas of the model.",
        lambda v: f"Predictions that should be the same differ by {v.disagreement:.1%} of the way from the control.",
        "Train for longer or with more cells before it is used.",
    ),
    "beyond the measured doses": Level(
        lambda v: v.dose_status == "beyond",
        "A dose lies outside of those that were measured, and nothing tests whether its effect goes on in proportion.",
        lambda v: "A dose lies outside of those that were measured.",
        "Measure it, or ask for a measured dose.",
    ),
    "dose not measured": Level(
        lambda v: v.dose_status == "between",
        "A dose lies between those that were measured, and nothing tests whether effects are in proportion there.",
        lambda v: "A dose lies between those that were measured; its effect may not be in proportion.",
        "Measure it, or ask for a measured dose.",
    ),
    "trusted": Level(
        lambda v: True,
        "Measured conditions determine it, and combinations that were left out of the fit were predicted to within "
        f"{MAX_TESTED_ERROR:.1%} of their distance from the control.",
        lambda v: f"{_left_out(v)} predicted to within {v.tested_error:.1%} of the distance from the control.",
        "Use it, and expect an error of that size.",
    ),
}


def _left_out(verdict: Verdict) -> str:
    number = len(verdict.tested)
    return "One combination that was left out was" if number == 1 else f"{number} combinations that were left out were"


def _details(verdict: Verdict) -> Iterator[str]:
    """Say what was computed, in the words of the method."""
    if verdict.identified:
        parts = " ".join(f"{weight:+.2g} ({name})" for name, weight in _largest(verdict.weights))
        yield f"Identified, the label is a combination of training labels: {parts or 'the control'};"
        yield f"leverage {verdict.leverage:.2g}, at most {MAX_LEVERAGE:.0f} is trusted."
    else:
        yield f"Not identified, {verdict.residual:.0%} of the label lies outside the span of the training labels."
    if verdict.dose_status != "measured":
        new = f": {', '.join(verdict.new_doses)}" if verdict.new_doses else ""
        yield f"A dose lies {verdict.dose_status} the measured ones{new}."
    if verdict.latent_rank is not None:
        yield f"The training shifts span {verdict.latent_rank} of {verdict.latent_dim} latent dimensions."
    if verdict.outside is not None:
        yield f"{verdict.outside:.0%} of the translated latents lie outside the training latents."
    if verdict.tested_error is not None:
        yield f"Assumption tested on {len(verdict.tested)} left-out combinations, which also chose the step: energy"
        share = "" if verdict.expected_error is None else f", {verdict.expected_error:.1%} of this label's"
        yield f"distance {verdict.tested_error:.1%} of the control's{share}."
    if verdict.borrowed:
        yield f"Interactions, borrowed from other combinations, are {verdict.borrowed:.0%} of the shift of the mean."
    if verdict.source_disagreement is not None and verdict.source_disagreement == verdict.source_disagreement:
        replicas = verdict.replica_disagreement
        more = "" if replicas is None else f", replicas by {replicas:.1%}"
        yield f"Predictions from different sources differ by {verdict.source_disagreement:.1%}{more}."


def _largest(weights: dict[str, float], most: int = 4) -> list[tuple[str, float]]:
    return sorted(weights.items(), key=lambda item: -abs(item[1]))[:most]
