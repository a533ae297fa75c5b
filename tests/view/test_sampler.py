"""The batch sampler: cells of the right condition, every condition equally often, every cell reachable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import balanced_rows, bootstrap_rows, make_sampler, to_device


def uneven_data():
    counts = [3, 50, 7]
    index = np.repeat(np.arange(3, dtype=np.int32), counts)
    order = np.random.default_rng(0).permutation(60)  # cells of a condition need not be neighbours
    x = np.stack([np.arange(60), 100.0 * index], axis=1).astype(np.float32)[order]
    labels = np.eye(3, dtype=np.float32)[:, 1:]
    return PerturbationData(x, index[order], labels, ("control", "a", "b"), ("a", "b"), ("cell", "group"))


def test_batches_hold_cells_of_their_condition_and_reach_all_cells():
    data = uneven_data()
    device = to_device(data)
    sample = jax.jit(make_sampler(3, num_sources=2, cells_per_source=5, num_targets=9, cells_per_target=4))
    seen, drawn = set(), np.zeros(3)
    for seed in range(200):
        batch = jax.device_get(sample(jax.random.key(seed), device))
        assert batch.x_source.shape == (2, 5, 2) and batch.x_target.shape == (3, 4, 2)
        for x, label in ((batch.x_source, batch.label_source), (batch.x_target, batch.label_target)):
            condition = label @ np.array([1, 2])
            np.testing.assert_array_equal(x[..., 1], np.broadcast_to(100 * condition[:, None], x.shape[:2]))
            seen |= set(x[..., 0].ravel().tolist())
        assert len({tuple(row) for row in batch.label_source}) == 2  # without replacement
        drawn += np.bincount((batch.label_source @ np.array([1, 2])).astype(int), minlength=3)
    assert len(seen) == 60
    # 400 draws of 3 conditions: sizes 3, 50 and 7 do not matter
    assert np.all(np.abs(drawn - 400 / 3) < 5 * np.sqrt(400 * 2 / 9))


def draws(number, **shape):
    """Batches of many keys."""
    sample = jax.jit(jax.vmap(make_sampler(3, **shape), in_axes=(0, None)))
    return jax.device_get(sample(jax.random.split(jax.random.key(1), number), to_device(uneven_data())))


def test_cells_are_drawn_evenly_and_apart_for_sources_and_targets():
    batch = draws(400, num_sources=3, cells_per_source=40, num_targets=3, cells_per_target=20)
    for x in (batch.x_source, batch.x_target):
        for condition, count in enumerate(uneven_data().counts):
            times = np.unique(x[:, condition, :, 0], return_counts=True)[1]
            # with the same probability, and less often by chance than independent draws
            assert len(times) == count
            assert stats.chisquare(times).pvalue > 1e-4
    same = np.any(batch.x_source[:, 1, :1, 0] == batch.x_target[:, 1, :1, 0], axis=1)
    assert abs(np.mean(same) - 1 / 50) < 5 * np.sqrt(0.02 / 400)


@pytest.mark.parametrize("cells", [1, 7, 33, 49, 50])
def test_no_cell_is_twice_in_a_batch_where_there_are_enough(cells):
    batch = draws(100, num_sources=3, cells_per_source=cells, num_targets=3, cells_per_target=cells)
    for condition, count in enumerate(uneven_data().counts):
        for x in (batch.x_source, batch.x_target):
            drawn = [np.unique(row, return_counts=True)[1] for row in x[:, condition, :, 0]]
            # of too few cells each as often as another, but for one time
            assert {len(times) for times in drawn} == {min(cells, count)}
            assert all(np.ptp(times) <= 1 for times in drawn)
            share = np.mean([np.sum((times / cells) ** 2) for times in drawn])
            if x is batch.x_source:
                np.testing.assert_allclose(batch.same_source[:, condition], share, rtol=1e-6)


@pytest.mark.parametrize("cells", [3, 8, 16])
def test_the_spread_in_a_batch_is_that_of_the_condition(cells):
    """U form of the mean distance; with replacement it is too small by one over the number of cells."""
    batch = draws(4000, num_sources=3, cells_per_source=cells, num_targets=3, cells_per_target=cells)
    device = to_device(uneven_data())
    for condition, (first, count) in enumerate(zip(device.start, device.count, strict=True)):
        of_all = np.asarray(device.x[first : first + count, 0], np.float64)
        expected = np.sum(np.abs(of_all[:, None] - of_all)) / (count * (count - 1))
        x = batch.x_source[:, condition, :, 0].astype(np.float64)
        within = np.mean(np.abs(x[:, :, None] - x[:, None]), axis=(1, 2)) / (1 - batch.same_source[:, condition])
        assert abs(np.mean(within) - expected) < 4 * np.std(within) / 4000**0.5 + 0.005 * expected


@pytest.mark.slow
def test_replicas_draw_distinct_rows_of_their_own():
    """Under `vmap` over bootstrap samples: no row of a sample twice, though a cell may be in two rows."""
    data = to_device(uneven_data())
    keys = jax.random.split(jax.random.key(2), 5)
    rows = jax.vmap(bootstrap_rows, in_axes=(0, None))(keys, data)
    sample = make_sampler(3, num_sources=3, cells_per_source=30, num_targets=3, cells_per_target=2)
    by_place = data._replace(x=jnp.arange(60.0)[:, None])
    x = jax.vmap(lambda key, rows: sample(key, by_place._replace(rows=rows)).x_source)(keys, rows)
    for drawn, own in zip(np.asarray(x[:, 1, :, 0], int), np.asarray(rows), strict=True):
        available = np.bincount(own[3:53], minlength=60)
        assert np.all(np.bincount(drawn, minlength=60) <= available)


def test_rows_of_the_start_are_distinct_as_long_as_they_last():
    data = uneven_data()
    for cells in (3, 20, 50):
        rows = balanced_rows(np.random.default_rng(0), data.condition_index, cells)
        np.testing.assert_array_equal(data.condition_index[rows], np.repeat(np.arange(3), cells))
        for condition, count in enumerate(data.counts):
            times = np.unique(rows[data.condition_index[rows] == condition], return_counts=True)[1]
            assert len(times) == min(cells, count) and np.ptp(times) <= 1
