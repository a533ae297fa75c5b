"""The verdict on a prediction: what is known about it, and the level that follows."""

import dataclasses

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
    """What is known about the prediction of one label; None where it was not asked."""

    condition: str
    identified: bool  # the label lies in the span of the training labels
    residual: float  # rho: share of the label's length outside that span, 0 = inside
    weights: dict[str, float]  # minimum-norm combination of training conditions that gives the label
    leverage: float  # squared norm of the weights: how much the noise of their estimates is amplified
    dose_status: str = "measured"  # or "between" measured doses, or "beyond" them, see `data.units.dose_status`
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

    @property
    def assumption_tested(self) -> bool:
        """Was any combination with an effect left out and predicted?"""
        return self.tested_error is not None

    @property
    def rank_deficient(self) -> bool:
        """Do the training conditions leave latent dimensions unshifted? The theory says nothing of such latents."""
        return self.latent_rank is not None and self.latent_dim is not None and self.latent_rank < self.latent_dim

    @property
    def level(self) -> str:
        """The first of these that applies, else ``trusted``.

        ``not identified``, ``poorly determined``, ``rank deficient``, ``unsupported``, ``untested``, ``refuted``,
        ``imprecise``, ``inconsistent``, ``beyond the measured doses``, ``dose not measured``.
        """
        if not self.identified:
            return "not identified"
        if self.leverage > MAX_LEVERAGE:
            return "poorly determined"
        if self.rank_deficient:
            return "rank deficient"
        if self.supported is False:
            return "unsupported"
        if not self.assumption_tested:
            return "untested"
        if self.tested_error is not None and self.tested_error > MAX_TESTED_ERROR:
            return "refuted"
        if self.expected_error is not None and self.expected_error > MAX_EXPECTED_ERROR:
            return "imprecise"
        if self.disagreement > MAX_DISAGREEMENT:
            return "inconsistent"
        if self.dose_status == "beyond":
            return "beyond the measured doses"
        if self.dose_status == "between":
            return "dose not measured"
        return "trusted"

    @property
    def disagreement(self) -> float:
        """The larger of the two disagreements that are known; 0 if none is."""
        known = [d for d in (self.source_disagreement, self.replica_disagreement) if d is not None and d == d]
        return max(known, default=0.0)

    def summary(self) -> str:
        """The verdict in sentences."""
        lines = [f"{self.condition}: {self.level}."]
        if self.identified:
            parts = " ".join(f"{weight:+.2g} ({name})" for name, weight in _largest(self.weights))
            lines.append(f"Identified: the label is a combination of training labels, {parts or 'the control'}.")
        else:
            lines.append(
                f"Not identified: {self.residual:.0%} of the label lies outside the span of the training labels; "
                f"samples show the identified part only."
            )
        if self.dose_status == "beyond":
            lines.append("Beyond the measured doses: a dose lies outside of those that training conditions have.")
        if self.dose_status == "between":
            lines.append("Dose not measured: no training condition has it; it lies between doses that were measured.")
        if self.leverage > MAX_LEVERAGE:
            lines.append(
                f"Poorly determined: these weights multiply the error of measured effects by {self.leverage**0.5:.2g} "
                f"(leverage {self.leverage:.2g}, at most {MAX_LEVERAGE:.0f} is trusted)."
            )
        if self.rank_deficient:
            lines.append(
                f"Rank deficient: the training shifts span {self.latent_rank} of {self.latent_dim} latent dimensions; "
                f"the theory asks for all. Fit with fewer latents, or more perturbations."
            )
        if self.outside is not None:
            word = "Supported" if self.supported else "Not supported"
            lines.append(f"{word}: {self.outside:.0%} of the translated latents lie outside the training latents.")
        if self.tested_error is not None:
            lines.append(
                f"Assumption tested on {len(self.tested)} left-out combinations, which also chose the step: energy "
                f"distance {self.tested_error:.1%} of the control's."
            )
            if self.level == "imprecise":
                lines.append(
                    f"Of the distance that this label is predicted to go that is {self.expected_error:.0%}: its effect "
                    f"is too small beside the error."
                )
        else:
            lines.append("Additivity untested: no combination was left out of training and predicted.")
        if self.source_disagreement is not None and self.source_disagreement == self.source_disagreement:
            lines.append(
                f"Predictions from different sources differ by {self.source_disagreement:.1%} of the control's distance"
                f"{'' if self.replica_disagreement is None else f', replicas by {self.replica_disagreement:.1%}'}."
            )
        return " ".join(lines)


def _largest(weights: dict[str, float], most: int = 4) -> list[tuple[str, float]]:
    return sorted(weights.items(), key=lambda item: -abs(item[1]))[:most]
