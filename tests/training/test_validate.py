"""What an evaluation on validation conditions makes of a model that predicts no numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from pdae_jax.training.validate import _distance, check_errors


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_predicted_cells_that_are_no_numbers_stop_the_fit(wrong):
    random = np.random.default_rng(0)
    predicted, true = random.normal(size=(30, 12)).astype(np.float32), random.normal(size=(2, 40, 12))
    predicted[4, 3] = wrong
    errors = np.array([_distance(jnp.asarray(predicted), None, jnp.asarray(y), jnp.ones(40)) for y in true])
    with pytest.raises(FloatingPointError, match=r"At step 7 .*NaN or infinite: 'A', 'B'"):
        check_errors(errors, ["A", "B"], 7)
