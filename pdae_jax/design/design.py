"""The design of an experiment: what the labels of its conditions mean, asked of one object.

A label is written in the user's doses. The model gets its `row`, in which 1 is the largest dose of each perturbation.
What the training conditions determine of it is its part in the span of their labels (von Kuegelgen et al., arXiv
2504.18522), in these units.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pdae_jax.design import effects
from pdae_jax.design.span import SPAN_TOLERANCE, Span, determined_by_others, label_span
from pdae_jax.design.strata import first_of_same, known_alone
from pdae_jax.labels import without_strata
from pdae_jax.types import PerturbationData, once_for_each, read_only

Label = Float[np.ndarray, "*batch perturbations"]  # in the user's doses


class Identification(NamedTuple):
    """All that the training conditions say of a label."""

    identified: bool  # it lies in their span
    residual: float  # share of its length outside, 0 = inside
    weights: Float[np.ndarray, " conditions"]  # minimum-norm combination of conditions that gives the part inside
    leverage: float  # their squared norm: how much the noise of measured effects is amplified


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """The labels of the conditions of a data set, and all that follows from them alone.

    That of the training data says what a label means to a model. `design_of` makes it, once for each data set.
    """

    labels: Float[np.ndarray, "conditions perturbations"]  # in the user's doses; the control is the zero row
    perturbations: tuple[str, ...]  # names of the columns
    doses: effects.Doses  # what doses count for
    strata: tuple[str, ...] = ()  # perturbations that are cell types, lines or donors, and make no combination

    # ---- rows: what the model and its linear start get for a label

    def row(self, label: Label) -> Float[np.ndarray, "*batch columns"]:
        """Turn a label, or several, into what the model gets, float32."""
        return self.doses.row(label)

    @functools.cached_property
    def rows(self) -> Float[np.ndarray, "conditions columns"]:
        """Rows of all conditions."""
        return read_only(self.row(self.labels))

    @property
    def num_columns(self) -> int:
        """Width of a row: a column for each perturbation."""
        return len(self.perturbations)

    @functools.cached_property
    def scaled(self) -> Float[np.ndarray, "conditions columns"]:
        """What the doses of all conditions count for: their rows before these are rounded, in float64."""
        return read_only(self.doses.scaled(self.labels))

    # ---- conditions: which is what

    @functools.cached_property
    def perturbed(self) -> Bool[np.ndarray, " conditions"]:
        """Conditions whose label is not that of the control."""
        return read_only(np.any(self.labels != 0, axis=1))

    @functools.cached_property
    def control(self) -> int:
        """Row of the control.

        Raises:
            ValueError: no condition has the zero label.
        """
        found = np.flatnonzero(~self.perturbed)
        if not len(found):
            raise ValueError("No condition is the control, whose label is zero. Keep it among the conditions.")
        return int(found[0])

    @functools.cached_property
    def num_effects(self) -> Int[np.ndarray, " conditions"]:
        """Effects that each condition adds up: its perturbations, and its stratum where that is in the label."""
        return read_only(np.count_nonzero(self.labels, axis=1))

    @functools.cached_property
    def orders(self) -> Int[np.ndarray, " conditions"]:
        """Perturbations of each condition; strata are none."""
        return read_only(self.order(self.labels))

    def order(self, label: Label) -> Int[np.ndarray, "*batch"]:
        """Count the perturbations of a label; strata are none."""
        return np.asarray(np.count_nonzero(without_strata(label, self.perturbations, self.strata), axis=-1))

    @property
    def combinations(self) -> Bool[np.ndarray, " conditions"]:
        """Conditions of at least two perturbations."""
        return self.orders > 1

    @functools.cached_property
    def across_strata(self) -> Int[np.ndarray, " conditions"]:
        """First condition of the same perturbations and doses in whatever stratum; itself without strata."""
        return read_only(first_of_same(self.labels, self.perturbations, self.strata))

    @functools.cached_property
    def measured_alone(self) -> Bool[np.ndarray, " perturbations"]:
        """Perturbations and strata that conditions of at most one perturbation tell, at any dose."""
        return read_only(known_alone(self.labels[self.orders <= 1]))

    def find(self, label: Float[np.ndarray, " perturbations"]) -> Int[np.ndarray, " found"]:
        """Find the conditions that have a label, but for rounding."""
        target = self.doses.scaled(label)
        column = np.argmax(np.abs(target))  # which tells most of the others apart
        found = np.flatnonzero(np.isclose(self.scaled[:, column], target[column]))
        return found[np.isclose(self.scaled[found], target).all(axis=1)]

    # ---- what the conditions determine

    @functools.cached_property
    def span(self) -> Span:
        """Span of the labels, which are their differences from the control."""
        return label_span(self.scaled)

    @functools.cached_property
    def span_of_singles(self) -> Span:
        """Span of the conditions of at most one perturbation."""
        return label_span(self.scaled[self.orders <= 1])

    def span_without(self, left_out: np.ndarray) -> Span:
        """Find the span of all but some conditions, given by their rows or by a mask."""
        return label_span(np.delete(self.scaled, left_out, axis=0))

    @functools.cached_property
    def _weights(self) -> Float[np.ndarray, "conditions perturbations"]:
        return self.span.weights()

    @functools.cached_property
    def determined_by_others(self) -> Bool[np.ndarray, " conditions"]:
        """Conditions whose label lies in the span of the others': that can be left out, each by itself."""
        return read_only(determined_by_others(self.scaled))

    def contains(self, label: Label) -> Bool[np.ndarray, "*batch"]:
        """Tell whether the conditions determine the effect of a label: it lies in their span."""
        return self.span.contains(self.doses.scaled(label))

    def singles_contain(self, label: Label) -> Bool[np.ndarray, "*batch"]:
        """Tell whether the conditions of at most one perturbation alone determine the effect of a label."""
        return self.span_of_singles.contains(self.doses.scaled(label))

    def identification(self, label: Float[np.ndarray, " perturbations"]) -> Identification:
        """Say what the conditions determine of a label."""
        target = self.doses.scaled(label)
        weights = self._weights @ target
        return Identification(
            bool(self.span.contains(target)), float(self.span.residual(target)), weights, float(weights @ weights)
        )

    def identified_part(self, label: Float[np.ndarray, " perturbations"]) -> Float[np.ndarray, " perturbations"]:
        """Project a label onto the span.

        One that lies inside is returned as it is, and rounding is taken off others: the gain of a combination depends
        on how many of its doses are not zero.
        """
        target = self.doses.scaled(label)
        if self.span.contains(target):
            return np.asarray(label, np.float32)
        projected = self.span.project(target)
        rounding = np.abs(projected) <= SPAN_TOLERANCE * np.linalg.norm(target)
        return self.doses.dose(np.where(rounding, 0.0, projected)).astype(np.float32)

    # ---- doses

    def dose_status(self, label: Float[np.ndarray, " perturbations"]) -> str:
        """Say how the doses of a label lie to those that were measured, see `effects.dose_status`."""
        return effects.dose_status(self.labels, label)

    def new_doses(self, label: Float[np.ndarray, " perturbations"]) -> tuple[str, ...]:
        """Say which doses of a label were not measured, and which were: ``"A at 1 (measured: 100, 1000)"``."""
        said = []
        for column in np.flatnonzero(effects.new_doses(self.labels, label)).tolist():
            known = [f"{dose:g}" for dose in np.unique(self.labels[:, column]) if dose]
            shown = ", ".join(known if len(known) < 6 else [*known[:2], "...", *known[-2:]])
            said.append(f"{self.perturbations[column]} at {label[column]:g} (measured: {shown or 'none'})")
        return tuple(said)


@once_for_each  # thousands of labels may be asked of one data set
def design_of(data: PerturbationData) -> Design:
    """Return the design of a data set."""
    return make_design(data.labels, data.perturbations, data.strata)


def make_design(
    labels: Float[np.ndarray, "conditions perturbations"], perturbations: Sequence[str], strata: Sequence[str] = ()
) -> Design:
    """Make a design of labels, effects in proportion to doses.

    Args:
        labels: doses of each condition; the control is the zero row.
        perturbations: names of the columns.
        strata: names of those that are cell types, lines or donors.
    """
    return Design(labels, tuple(perturbations), effects.doses_of(labels), tuple(strata))
