"""The batch sampler: cells of the right condition, every condition equally often, every cell reachable."""

import jax
import numpy as np
from scipy import stats

from pdae_jax.data.sample import make_sampler, to_device
from pdae_jax.types import PerturbationData


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


def test_cells_are_drawn_evenly_and_apart_for_sources_and_targets():
    data = uneven_data()
    device = to_device(data)
    sample = jax.jit(make_sampler(3, num_sources=3, cells_per_source=400, num_targets=3, cells_per_target=400))
    batch = jax.device_get(sample(jax.random.key(1), device))
    for x in (batch.x_source, batch.x_target):
        for condition, count in enumerate(data.counts):
            cells = np.unique(x[condition, :, 0], return_counts=True)[1]
            assert len(cells) == count
            assert stats.chisquare(cells).pvalue > 1e-4
    assert np.mean(batch.x_source[1, :, 0] == batch.x_target[1, :, 0]) < 0.1  # 1 in 50 if they are independent
