"""`fit`: one fit that is asked for."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from pdae_jax.compiled import as_door
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import check_key
from pdae_jax.recipe import Recipe
from pdae_jax.runs.track import Progress
from pdae_jax.training.plan import Request
from pdae_jax.training.train import train_request
from pdae_jax.types import PerturbationData


@as_door()
def fit(
    train: PerturbationData,
    *,
    key: Array,
    validation: PerturbationData | None = None,
    source: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    workdir: str | pathlib.Path | None = None,
    start_from: str | pathlib.Path | None = None,
    devices: int | None = None,
    progress: bool | Progress | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Fitted:
    """Train a perturbation distribution autoencoder.

    Args:
        train: training conditions, the control among them.
        key: typed PRNG key; the same key, data and recipe give the same result on the same kind of device. A run that
            an earlier version began goes on as that version had it.
        validation: conditions that are never trained on (`hold_out` makes them). With them, the parameters of the
            latest evaluation are kept that is as good as the best but for chance, `patience` can stop early, and
            verdicts can say how well combinations were predicted. Without them, where the labels of at least five
            combinations are determined by the others, up to five more fits leave a fifth of these out and choose the
            last step, unless the recipe has a `stop_step`.
        source: validation condition -> training condition whose cells are translated to it; default the control.
        recipe: hyperparameters; default `Recipe()`.
        workdir: folder of the run. Written as training goes on; an interrupted fit with the same data, key and
            recipe resumes there and ends with the same numbers.
        start_from: folder of another run of the same data and structure. The fit goes on from its newest checkpoint,
            at the same step, with the rates, weights and steps of this recipe; from then on it does not need it.
        devices: how many share each step, a divisor of the number of targets in a batch; None: one. The numbers are
            those of one device to rounding, and a run may go on with another number. After `jax.distributed.initialize`
            all processes pass ``jax.device_count()`` and the same other arguments; the first has the folder and the
            bar, and all get the model.
        progress: show a bar on stderr; None: if it is a terminal; or a `Progress`, which is told instead.
        config: further provenance for ``config.json``, plain values.
        **options: single fields of the recipe, ``fit(train, key=key, latent_dim=8)``.

    Raises:
        ValueError: unusable data, a workdir that holds a different run, or a start_from of other data or structure.
        RuntimeError: another process works in the workdir.
        OSError: the workdir cannot be written to; checkpoints that were written before are kept.
        TypeError: an option the recipe does not have.
        FloatingPointError: the loss, or the error on a validation condition, became NaN or infinite; names the steps.
    """
    check_key(key)
    request = Request(
        *(train, key, (recipe or Recipe()).override(**options), validation, source, workdir, config or {}),
        start_from=start_from,
        devices=devices,
    )
    return train_request(request, progress)
