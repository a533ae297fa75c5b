"""What is computed once for a data set or a model, and let go with it."""

import gc
import weakref

import numpy as np

import pdae_jax
from pdae_jax.types import once_for_each


def test_a_result_is_kept_as_long_as_its_data():
    calls = []

    @once_for_each
    def spread(data):
        calls.append(data.num_cells)
        return np.array([data.x.std()])

    first, second = (
        pdae_jax.from_arrays(np.arange(8.0).reshape(4, 2), conditions=["ctrl", "ctrl", "A", "A"], control="ctrl")
        for _ in range(2)
    )
    value = spread(first)
    assert spread(first) is value and calls == [4]
    np.testing.assert_array_equal(spread(second), value)  # equal data are another data set
    assert spread(first) is value and calls == [4, 4]
    calls.clear()
    gone = weakref.ref(first), weakref.ref(value)
    del first, value
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
