"""Whatever a sample comes as, every statistic and test gives what it gives for the array, or says what to pass."""

import anndata
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pdae_jax import aggregated_test, kernels, linear_time, losses, two_sample_test, two_sample_tests
from pdae_jax.data.load import from_arrays

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.poisson(1.0, (24, 3)).astype(float), RANDOM.poisson(2.0, (20, 3)).astype(float)
BOTH = anndata.AnnData(
    scipy.sparse.csr_matrix(np.concatenate([X, Y])),
    obs=pd.DataFrame({"which": ["x"] * 24 + ["y"] * 20}, index=[f"cell{row}" for row in range(44)]),
    var=pd.DataFrame(index=["f", "g", "h"]),
)

ENTRIES = {
    "energy_distance": losses.energy_distance,
    "mmd2": losses.mmd2,
    "two_sample_statistic": lambda x, y: losses.two_sample_statistic(x, y, kernels.energy()),
    "two_sample_matrix": lambda x, y: losses.two_sample_matrix(x, [0, 1] * 12)[0, 1],
    "energy_score": losses.energy_score,
    "kernel_score": lambda x, y: losses.kernel_score(x, y, kernels.energy()),
    "median_bandwidth": lambda x, y: kernels.median_bandwidth(KEY, x),
    "incomplete_statistic": lambda x, y: linear_time.incomplete_statistic(KEY, x, y, pairs_per_cell=2).value,
    "sliced_energy_distance": lambda x, y: linear_time.sliced_energy_distance(KEY, x, y, num_projections=4).value,
    "two_sample_test": lambda x, y: two_sample_test(x, y, key=KEY, num_permutations=19).statistic,
    "two_sample_tests": lambda x, y: two_sample_tests({"A": (x, y)}, key=KEY, num_permutations=19).statistic[0],
    "aggregated_test": lambda x, y: aggregated_test(x, y, key=KEY, num_quantile=40, num_level=40).statistic[0],
}
KINDS = {
    "sparse": (scipy.sparse.csr_matrix(X), scipy.sparse.csc_array(Y)),
    "AnnData": (BOTH[BOTH.obs["which"] == "x"], BOTH[BOTH.obs["which"] == "y"]),
    "frame": (pd.DataFrame(X).astype("Int64"), pd.DataFrame(Y).astype("float32")),
    "list": (X.tolist(), Y.astype(int).tolist()),
    "mixed": (jnp.asarray(X), scipy.sparse.coo_matrix(Y)),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_kind_of_sample_gives_the_same(entry):
    expected = float(ENTRIES[entry](X, Y))
    for kind, pair in KINDS.items():
        np.testing.assert_allclose(float(ENTRIES[entry](*pair)), expected, rtol=1e-5, err_msg=kind)


def test_grouped_score_takes_arrays_of_numpy_and_lists():
    decoded, x = RANDOM.normal(size=(2, 6, 3)).astype(np.float32), RANDOM.normal(size=(6, 3)).astype(np.float32)
    group, energy = np.array([0, 1, 0, 1, 1, 0]), kernels.energy()
    expected = losses.grouped_score(jnp.asarray(decoded), jnp.asarray(x), jnp.asarray(group), energy)
    found = losses.grouped_score(decoded.tolist(), scipy.sparse.csr_matrix(x), group.tolist(), energy)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


BAD = {
    "text": (X.astype(str), TypeError, r"x is a ndarray of dtype <U\d+, which is not numeric.*Pass real numbers"),
    "masked": (np.ma.masked_greater(X, 0), ValueError, "x has values that are masked"),
    "objects": (X.astype(object), TypeError, r"dtype object, which is not numeric.*astype"),
    "nothing": (None, TypeError, r"x is a NoneType.*Pass real numbers"),
    "uneven rows": ([[1.0, 2.0], [3.0]], ValueError, r"x is a list that is no matrix.*rows of one length"),
    "a column of names": (
        pd.DataFrame(X).assign(well="a1"),
        TypeError,
        r"column 'well', which is not numeric.*frame\[",
    ),
    "AnnData without X": (anndata.AnnData(None, obs=BOTH.obs), ValueError, r"AnnData without X.*layers"),
    "one feature": (X[:, 0].tolist(), ValueError, r"x has shape \(24,\)"),
    "data": (from_arrays(X, ["control", "A"] * 12), TypeError, r"PerturbationData, not a sample. Pass data.cells"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize(
    "entry", ["energy_distance", "energy_score", "two_sample_test", "two_sample_tests", "kernel_score"]
)
def test_what_is_no_sample_is_named_with_the_fix(entry, what):
    sample, error, message = BAD[what]
    message = message.replace("x ", "samples ") if "score" in entry else message
    with pytest.raises(error, match=f"(?s){message}"):
        ENTRIES[entry](sample, Y)


def test_features_in_another_order_are_refused():
    x, y = (pd.DataFrame(sample, columns=["f", "g", "h"]) for sample in (X, Y))
    with pytest.raises(ValueError, match=r"same features: the order or number differs.*one order"):
        losses.energy_distance(x, y[["g", "f", "h"]])
    with pytest.raises(ValueError, match="y has no 'h'"):
        losses.energy_distance(BOTH[:20], y.rename(columns={"h": "k"}))
    assert losses.energy_distance(BOTH[24:], y) == losses.energy_distance(Y, Y)
    with pytest.raises(ValueError, match="Condition 'B': x and y do not have the same features"):
        two_sample_tests({"A": (x, y), "B": (x, y[["g", "f", "h"]])}, key=KEY)
