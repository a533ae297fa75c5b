"""The scale of values: simulated cells whose scale is known by construction."""

import numpy as np
import pytest

from pdae_jax.data.scale import COMPRESSED, COUNTS, LOG_COUNTS, RAW, UNKNOWN, UNLOGGED, found_scale

RANDOM = np.random.default_rng(0)
DEPTH = RANDOM.lognormal(0, 0.5, (300, 1))
DRAWN = RANDOM.poisson(RANDOM.gamma(0.5, 2.0, 40) * DEPTH * RANDOM.gamma(2, 0.5, (300, 40))) + np.eye(300, 40)
RATES = DRAWN / DRAWN.sum(axis=1, keepdims=True)
INTENSITY = RANDOM.lognormal(3.0, 1.0, (300, 6))


@pytest.mark.parametrize(
    ("x", "kind", "total"),
    [
        (DRAWN, COUNTS, None),
        (np.log1p(RATES * 1e4), LOG_COUNTS, 1e4),
        (np.log1p(RATES * 1e6), LOG_COUNTS, 1e6),
        (np.log1p(RATES * np.median(DRAWN.sum(axis=1))), LOG_COUNTS, np.median(DRAWN.sum(axis=1))),
        (np.log1p(RATES * 1e4)[:, :25], LOG_COUNTS, None),  # some of the genes: totals differ
        (RATES * 1e6, UNLOGGED, 1e6),
        ((RATES * 1e6)[:, :25], UNLOGGED, None),
        (RATES, COMPRESSED, None),  # shares
        (DRAWN * RANDOM.uniform(0.5, 1.0, DRAWN.shape), RAW, None),
        (INTENSITY, RAW, None),
        (np.round(INTENSITY * (INTENSITY > 8), 1), RAW, None),
        (INTENSITY - 5, RAW, None),  # compensated
        (np.arcsinh(INTENSITY / 5), COMPRESSED, None),
        (np.arcsinh((INTENSITY - 5) / 5), COMPRESSED, None),
        (RANDOM.normal(size=(300, 6)), UNKNOWN, None),  # centred
        (np.where(DRAWN > 5, np.nan, DRAWN), UNKNOWN, None),
    ],
)
def test_the_scale_is_that_of_the_construction(x, kind, total):
    found = found_scale(x.astype(np.float32))
    assert found.kind == kind
    assert (found.total is None) == (total is None)
    assert total is None or abs(found.total / total - 1) < 1e-3
