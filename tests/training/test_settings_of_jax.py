"""Whatever JAX is told to refuse in programs of a user, ours run with the same numbers; not in a forked process."""

import os
import warnings

import jax
import numpy as np
import pytest

import pdae_jax

KEY = jax.random.key(0)
STRICT = {
    "jax_debug_infs": True,
    "jax_debug_nans": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_disable_jit": True,
}
SMALL = {
    **{"latent_dim": 2, "hidden": (4,), "cells_per_source": 4, "cells_per_target": 4},
    **{"num_steps": 2, "log_every": 2, "eval_every": 2, "checkpoint_every": 2, "progress": False},
}


@pytest.fixture
def strict():
    before = {name: jax.config.values[name] for name in STRICT}
    for name, value in STRICT.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def all_of_it():
    """A fit, what is asked of it, and what is on the way."""
    labels = ["p0", "p1", "p0+p1"]
    world = pdae_jax.simulate(
        KEY, latent_dim=2, observed_dim=3, num_perturbations=2, labels=labels, cells_per_condition=30
    )
    train, test = pdae_jax.hold_out(world.data, conditions=["p0+p1"])
    fitted = pdae_jax.fit(train, key=KEY, validation=test, **SMALL)
    predicted = pdae_jax.predict(fitted, "p0+p1", key=KEY, num_samples=10).samples
    baselines, metrics = ["additive"], ["energy_distance", "mean_l2"]
    table = pdae_jax.evaluate(fitted, test, num_samples=10, progress=False, baselines=baselines, metrics=metrics)
    return [predicted, fitted.shift_matrix, fitted.encode(train.x[:5]), table["value"].to_numpy()]


@pytest.mark.slow
def test_a_fit_has_the_same_numbers_whatever_jax_refuses(request):
    before = all_of_it()
    request.getfixturevalue("strict")
    for then, now in zip(before, all_of_it(), strict=True):
        np.testing.assert_array_equal(then, now)


def test_distances_have_the_same_numbers_whatever_jax_refuses(request):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    y = x[:15] + np.float32(0.5)

    def all_distances():
        losses = pdae_jax.losses
        return [
            losses.energy_distance(x, y),
            losses.energy_distance(x, y, beta=1.5),
            losses.mmd2(x, y, unbiased=False),
            losses.energy_score(x, y),
            pdae_jax.two_sample_test(x, y, key=KEY, num_permutations=19).p_value,
        ]

    before = [np.asarray(value) for value in all_distances()]
    request.getfixturevalue("strict")
    np.testing.assert_array_equal(before, [np.asarray(value) for value in all_distances()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_is_told_and_does_not_hang():
    jax.block_until_ready(jax.numpy.zeros(1))  # JAX has started
    data = pdae_jax.from_arrays(np.eye(4), conditions=["a", "a", "control", "control"], control="control")
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of the fork
        child = os.fork()
    if not child:
        try:
            pdae_jax.fit(data, key=KEY)
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "multiprocessing.get_context('spawn')" in said.read()
    os.waitpid(child, 0)
    assert pdae_jax.losses.energy_distance(np.eye(2), np.eye(2)) is not None  # the parent goes on
