"""Every hyperparameter of a fit, with its one default."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pdae_jax.settings import Flag, Kind, OneOf, Real, Several, Whole

NOISES = ("abducted", "drawn")  # where the noise of a translated cell comes from


class LossWeights(NamedTuple):
    """Weight of each term beside the translation score, which has weight 1; a term with weight 0 is not computed."""

    reconstruction: float | Any  # or an array, as a value of a compiled program
    contrast: float | Any
    likelihood: float | Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is built and trained. Plain values only: a recipe is saved as JSON beside its result."""

    # model
    latent_dim: int | None = None  # k; None: as many as the training conditions visibly shift, `effective_rank`
    noise: str = "abducted"  # from the source cell; "drawn": anew, the form of arXiv 2504.18522
    noise_dim: int = 4  # of drawn noise; 0: deterministic
    observed_effects: bool | None = None  # a part of effects outside the latents; None: as the weights below
    hidden: tuple[int, ...] = (128, 128, 128)  # encoder widths, mirrored by the decoder
    activation: str = "silu"
    nonnegative: bool | None = None  # predictions are cut at zero; None: where the data have zeros and nothing below
    components: int | None = None  # the model works on so many components of the features; None: on the features
    standardize: str | None = None  # "feature", "global" (one scale) or "none"; None: global where nonnegative

    # objective
    kernel: str = "energy"  # "energy", "gaussian", "laplace" or "imq"
    beta: float = 1.0  # exponent of the energy kernel
    bandwidths: tuple[float, ...] = (0.5, 1.0, 2.0)  # of the other kernels, in median distances of the training data
    form: str = "pairwise"  # "pairwise" or "pooled"
    # weights of the terms of the loss; None: `defaults.ON_SURFACE` or `WITH_NOISE`, by the cells
    reconstruction: float | None = None
    contrast: float | None = None
    likelihood: float | None = None

    # batch; conditions above the number available are cut to it
    num_sources: int = 16
    cells_per_source: int = 16
    num_targets: int = 16
    cells_per_target: int = 64

    # optimisation
    num_steps: int | None = None  # None: 4,000, or 50 passes over the cells where they are few, `default_steps`
    stop_step: int | None = None  # of the schedule of num_steps; None: the last, or chosen by `fit.with_stop`
    learning_rate: float | None = None  # as the weights
    warmup_steps: int = 100
    clip_norm: float = 1.0
    average_decay: float = 0.999  # of the exponential moving average of the parameters

    # the loop
    log_every: int = 100  # steps of one compiled chunk; the host is touched once a chunk
    eval_every: int = 100  # steps between evaluations on validation conditions, beside the last; multiple of log_every
    patience: int | None = None  # evaluations without improvement before stopping; 0: no stop; None: 5, on a surface 0
    checkpoint_every: int = 1000  # steps, a multiple of log_every

    def __post_init__(self):
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, kind.checked(name, value))
            elif name not in _OPEN:
                raise TypeError(f"{name}=None, but it has a value in every fit. Leave it out for the default.")
        for name in ("eval_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not a multiple of log_every={self.log_every}: the loop looks up "
                    f"only at the end of a chunk. Change one of the two."
                )

    @property
    def sight(self) -> tuple[Any, ...]:
        """Fields that decide how a fit sees its data; fits of the same data that agree in them share what they see."""
        return self.nonnegative, self.standardize

    def override(self, **changes: Any) -> "Recipe":
        """Return a copy with other values; a misspelt name raises ``TypeError`` with the nearest one."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name in REMOVED:
                raise TypeError(f"A recipe has no option {name!r} any more: {REMOVED[name]}. Leave it out.")
            if name not in known:
                close = difflib.get_close_matches(name, known, n=3)
                hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
                raise TypeError(f"A recipe has no option {name!r}; {hint}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, lists for tuples: what JSON gives back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Read the recipe that `to_dict` wrote: a `Resolved` one where nothing is open that the data decide."""
        values = as_written_now(values)
        recipe = cls().override(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        if any(getattr(recipe, name) is None for name in Resolved.__annotations__):
            return recipe
        return Resolved(**dataclasses.asdict(recipe))


_REQUIRED: Any = None


@dataclasses.dataclass(frozen=True)
class Resolved(Recipe):
    """A recipe for certain data: what may be left open in a `Recipe` is filled in."""

    latent_dim: int = _REQUIRED
    observed_effects: bool = _REQUIRED
    nonnegative: bool = _REQUIRED
    standardize: str = _REQUIRED
    reconstruction: float = _REQUIRED
    contrast: float = _REQUIRED
    likelihood: float = _REQUIRED
    num_steps: int = _REQUIRED
    learning_rate: float = _REQUIRED
    patience: int = _REQUIRED

    def __post_init__(self):
        super().__post_init__()
        for name in Resolved.__annotations__:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is open. Pass the recipe to resolve_recipe, which finds it from the data.")

    def override(self, **changes: Any) -> "Resolved":
        """Do as `Recipe.override`; nothing can be left open again."""
        return cast(Resolved, super().override(**changes))

    @property
    def weights(self) -> LossWeights:
        """Weights of the terms of the loss."""
        return LossWeights(*(getattr(self, name) for name in LossWeights._fields))


def as_written_now(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a saved recipe; before December 2026 one of certain data had None where `patience` is 0
    now.
    """
    decided = (values.get(name) is not None for name in Resolved.__annotations__ if name != "patience")
    return {**values, "patience": 0} if "patience" in values and values["patience"] is None and all(decided) else values


#: Options of earlier versions, and what became of them.
REMOVED = {
    "test": "a fit does not look at test conditions, and `reporting.results.save_test` keeps them with its run",
    "linear_skip": "every fit starts at the best linear model",
    "translation": "the translation score has weight 1",
    "consistency": "it made no difference worth its cost",
    "cycle": "it made predictions worse",
    "latent_prior": "it made no difference",
    "group_lasso": "it made predictions worse",
    "weight_decay": "it made no difference",
    "refit_shift": "it made no difference",
}
_WEIGHT = Real(why="a weight of the loss must be 0 (left out) or greater")
_KINDS: Mapping[str, Kind] = {
    "latent_dim": Whole(),
    "noise": OneOf(NOISES),
    "noise_dim": Whole(0),
    "observed_effects": Flag(),
    "hidden": Several(Whole(), example="(128, 128, 128)"),
    "activation": OneOf(("relu", "gelu", "silu", "tanh", "leaky_relu")),
    "nonnegative": Flag(),
    "components": Whole(),
    "standardize": OneOf(("feature", "global", "none")),
    "kernel": OneOf(("energy", "gaussian", "laplace", "imq")),
    "beta": Real(0.0, 2.0, (False, False)),
    "bandwidths": Several(Real(0.0, ends=(False, True)), 1, "(0.5, 1.0, 2.0)"),
    "form": OneOf(("pairwise", "pooled")),
    **dict.fromkeys(LossWeights._fields, _WEIGHT),
    "num_sources": Whole(),
    "cells_per_source": Whole(2, why="the score of a predicted law needs at least 2 cells of it"),
    "num_targets": Whole(),
    "cells_per_target": Whole(),
    "num_steps": Whole(),
    "stop_step": Whole(0, why="0 is the linear start"),
    "learning_rate": Real(0.0, ends=(False, True)),
    "warmup_steps": Whole(0),
    "clip_norm": Real(0.0, ends=(False, True)),
    "average_decay": Real(0.0, 1.0),
    "log_every": Whole(),
    "eval_every": Whole(),
    "patience": Whole(0, why="0 is no stop"),
    "checkpoint_every": Whole(),
}
_OPEN = {field.name for field in dataclasses.fields(Recipe) if field.default is None}
