"""Ensembles: replicas are the fits they stand for, bad ones are found, what is saved is loaded, spread is real."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pdae_jax
from pdae_jax.model.ensemble import Ensemble, find_bad, pairwise_alignment
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.agreement import replica_disagreement, source_disagreement
from pdae_jax.reporting import results
from pdae_jax.view.sampler import bootstrap_rows, make_sampler, to_device

pytestmark = pytest.mark.slow  # they train

KEY = jax.random.key(5)
SMALL = {
    "latent_dim": 2,
    "num_steps": 20,
    "log_every": 10,
    "eval_every": 10,
    "checkpoint_every": 10,
    "hidden": (8,),
    "cells_per_source": 8,
    "cells_per_target": 8,
    "noise_dim": 2,
}


@pytest.fixture(scope="module")
def split():
    """A linear world: the start of every fit is the truth, up to the error of finite samples."""
    data = pdae_jax.simulate(
        jax.random.key(0),
        latent_dim=2,
        observed_dim=3,
        num_perturbations=2,
        labels=["p0", "p1", "p0+p1", "p0:2", "p0:2+p1"],
        cells_per_condition=300,
        mixing="linear",
        shift_scale=2.0,
    ).data
    train, test = pdae_jax.hold_out(data, ["p0:2+p1"])
    return (*pdae_jax.hold_out(train, ["p0+p1"]), test)


@pytest.fixture(scope="module")
def ensemble(split, tmp_path_factory):
    train, validation, test = split
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    fitted = pdae_jax.fit_ensemble(
        train, key=KEY, num_replicas=3, bootstrap=True, validation=validation, workdir=folder, **SMALL
    )
    results.save_test(folder, test)
    return fitted


def leaves(ensemble: Ensemble) -> list[np.ndarray]:
    return [np.asarray(leaf) for replica in ensemble.replicas for leaf in jax.tree.leaves(replica.params)]


def test_a_replica_is_the_fit_with_its_key(split):
    train, _, _ = split
    together = pdae_jax.fit_ensemble(train, key=KEY, num_replicas=2, bootstrap=False, **SMALL)
    for r, replica in enumerate(together.replicas):
        alone = pdae_jax.fit(train, key=jax.random.fold_in(KEY, r), **SMALL)
        for a, b in zip(jax.tree.leaves(replica.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    first, second = together.replicas
    assert not np.allclose(first.shift_matrix, second.shift_matrix, atol=1e-3)


def test_resumed_and_loaded_ensembles_are_the_same_bits(split, ensemble, tmp_path):
    train, validation, _ = split

    class Interrupt:
        """A progress bar that breaks off the run in its second replica."""

        def update(self, step, num_steps, loss):
            assert num_steps == 60
            if step == 40:
                raise KeyboardInterrupt

        def close(self):
            pass

    options: dict = {
        "key": KEY,
        "num_replicas": 3,
        "bootstrap": True,
        "validation": validation,
        "workdir": tmp_path / "run",
        **SMALL,
    }
    with pytest.raises(KeyboardInterrupt):
        pdae_jax.fit_ensemble(train, progress=Interrupt(), **options)
    resumed = pdae_jax.fit_ensemble(train, **options)
    loaded = pdae_jax.load_ensemble(ensemble.workdir)
    for other in (resumed, loaded):
        assert all(np.array_equal(a, b) for a, b in zip(leaves(other), leaves(ensemble), strict=True))
        assert other.diagnosis == ensemble.diagnosis
    with pytest.raises(ValueError, match="num_replicas is 3 there, 2 here"):
        pdae_jax.fit_ensemble(train, **(options | {"num_replicas": 2}))


def test_single_fits_and_ensembles_are_not_taken_for_each_other(split, ensemble, tmp_path):
    train, _, _ = split
    pdae_jax.fit(train, key=KEY, workdir=tmp_path / "single", **SMALL)
    with pytest.raises(ValueError, match="load_run"):
        pdae_jax.load_ensemble(tmp_path / "single")
    with pytest.raises(ValueError, match="load_ensemble"):
        pdae_jax.load_run(ensemble.workdir)
    with pytest.raises(ValueError, match="at least 2"):
        pdae_jax.fit_ensemble(train, key=KEY, num_replicas=1)


def test_bootstrap_draws_cells_of_the_same_condition_with_replacement(split):
    train, _, _ = split
    data = to_device(train)
    rows = np.asarray(bootstrap_rows(KEY, data))
    own = np.repeat(np.arange(train.num_conditions), train.counts)
    np.testing.assert_array_equal(own[rows], own)  # sorted by condition on the device
    distinct = len(np.unique(rows)) / len(rows)
    assert abs(distinct - (1 - np.exp(-1))) < 0.03
    sample = make_sampler(4, num_sources=4, cells_per_source=50, num_targets=4, cells_per_target=50)
    first_rows = jnp.repeat(data.start, train.counts)  # only the first cell of each condition
    batch = sample(KEY, data._replace(rows=first_rows))
    np.testing.assert_array_equal(batch.x_target, np.broadcast_to(data.x[data.start][:, None], batch.x_target.shape))


NEAR = np.full((5, 5), 0.1)


@pytest.mark.parametrize(
    "errors, far, kept",
    [
        ([0.02, 0.021, 0.022, 0.019, 0.02], (), [True] * 5),
        ([0.02, 0.021, 0.3, 0.019, 0.02], (), [True, True, False, True, True]),
        ([0.4, 0.021, 0.3, 0.019, 0.02], (), [False, True, False, True, True]),
        ([0.02, 0.021, 0.022, 0.019, 0.02], (1,), [True, False, True, True, True]),  # only its latents reveal it
        ([0.001, 0.015, 0.002, 0.001, 0.001], (), [True] * 5),  # all errors are small
        ([0.02, np.nan, 0.022, 0.019, 0.02], (), [True, False, True, True, True]),
    ],
)
def test_bad_replicas_are_dropped(errors, far, kept):
    alignment = NEAR.copy()
    for r in far:
        alignment[r, :] = alignment[:, r] = 1.2
    np.fill_diagonal(alignment, 0.0)
    assert [d.kept for d in find_bad(np.array(errors), alignment)] == kept


def mirrored(fitted: Fitted, bend: float) -> Fitted:
    """The same model in latents that are mirrored, and bent."""
    model = fitted.model

    def encode(params, x):
        z = model.encode(params, x)
        return jnp.stack([-z[..., 0], z[..., 1] + bend * jnp.square(z[..., 0])], axis=-1)

    return dataclasses.replace(fitted, model=model._replace(encode=encode))


def test_alignment_ignores_orthogonal_maps_and_sees_bends(ensemble):
    first = ensemble.replicas[0]
    found = pairwise_alignment((first, mirrored(first, 0.0), mirrored(first, 0.5)))
    assert found[0, 1] < 1e-4 < 0.3 < found[0, 2]
    np.testing.assert_array_equal(found, found.T)


def test_predictions_are_the_mixture_of_the_members(split, ensemble):
    *_, test = split
    # whoever was dropped is kept here: it is mixing that is tested
    ensemble = dataclasses.replace(ensemble, diagnosis=tuple(d._replace(kept=True) for d in ensemble.diagnosis))
    found = pdae_jax.predict(ensemble, "p0:2+p1", key=KEY, num_samples=301)
    members = len(ensemble.members)
    assert found.replica is not None
    counts = np.bincount(found.replica, minlength=members)
    assert members == 3 and counts.sum() == 301 and counts.max() - counts.min() <= 1
    assert found.verdict.replica_disagreement is not None and found.verdict.replica_disagreement < 0.1
    table = pdae_jax.evaluate(ensemble, test, metrics=["energy_distance"], baselines=["control"])
    value = table.set_index("method").value
    assert value["pdae"] < 0.05 * value["control"]  # the truth is linear, and so is the start
    dropped = dataclasses.replace(
        ensemble, diagnosis=tuple(d._replace(kept=r == 1) for r, d in enumerate(ensemble.diagnosis))
    )
    alone = pdae_jax.predict(dropped, "p0:2+p1", key=KEY, num_samples=50)
    expected = pdae_jax.predict(ensemble.replicas[1], "p0:2+p1", key=KEY, num_samples=50)
    np.testing.assert_array_equal(alone.samples, expected.samples)


def test_disagreement_is_small_where_the_model_is_right_and_seen_where_it_is_not(ensemble):
    fitted = ensemble.replicas[0]
    label = fitted.train.label("p0:2+p1")
    assert source_disagreement(fitted, label, "control").share < 0.03
    # `W` of p1 without effect: from p1 and from the control the same label is now predicted in different places
    wrong = dataclasses.replace(fitted, params=jax.tree.map(jnp.asarray, fitted.params))
    wrong.params["shift"]["matrix"] = wrong.params["shift"]["matrix"].at[1].set(0.0)
    assert source_disagreement(wrong, label, "control").share > 0.1
    assert replica_disagreement((fitted, wrong), label, "control") > 0.1


def test_the_folder_of_an_ensemble_has_all_results(ensemble):
    text = results.write_results(ensemble.workdir, num_samples=100, baselines=["additive"], metrics=["energy_distance"])
    assert "pdae" in text and "additive" in text
    table = results.read_evaluation(ensemble.workdir)
    assert (table.replica_disagreement < 0.2).all()
    assert {"report.md", "predictions.h5ad"} <= {path.name for path in ensemble.workdir.iterdir()}
