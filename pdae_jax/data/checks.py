"""What a fit needs of its data."""

from pdae_jax.types import PerturbationData


def check_training_data(train: PerturbationData, validation: PerturbationData | None) -> None:
    """What a fit needs of its data; ``ValueError`` that names what is missing."""
    if not isinstance(train, PerturbationData):
        raise TypeError(
            f"train is a {type(train).__name__}, not PerturbationData. Build it with pdae_jax.from_arrays, "
            f"from_frame or from_anndata."
        )
    if train.control not in train.conditions:
        raise ValueError(
            f"No control condition {train.control!r} in the training data; it has {list(train.conditions[:5])}. "
            f"Shifts are measured from the control: do not hold it out."
        )
    if train.num_conditions < 2:
        raise ValueError("Only the control is in the training data. Pass at least one perturbed condition.")
    if validation is None:
        return
    check_same_columns(validation, train, "validation")
    shared = [name for name in validation.conditions if name in train.conditions]
    if shared or validation.num_conditions == 0:
        raise ValueError(
            f"Validation conditions must be unseen and at least one; shared with the training data: {shared}. "
            f"Make the two sets with pdae_jax.hold_out."
        )


def check_same_columns(data: PerturbationData, train: PerturbationData, name: str) -> None:
    """Data that meets a model must have its features and perturbations, in order."""
    for kind in ("features", "perturbations"):
        here, there = getattr(data, kind), getattr(train, kind)
        if here != there:
            extra = [n for n in here if n not in there][:5]
            missing = [n for n in there if n not in here][:5]
            detail = f"missing {missing}, unknown {extra}" if missing or extra else "the order differs"
            raise ValueError(
                f"The {name} data do not have the {kind} of the training data: {detail}. "
                f"Build both from one data set with pdae_jax.hold_out."
            )
