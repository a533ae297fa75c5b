"""First singular values and directions, against all of them by NumPy in double precision."""

import numpy as np
import pytest

from pdae_jax.data import principal
from pdae_jax.data.principal import principal_axes, principal_directions


def rows(values, n, d):
    """A matrix with these singular values, in single precision."""
    random = np.random.default_rng(1)
    left, right = (np.linalg.qr(random.normal(size=(size, len(values))))[0] for size in (n, d))
    return ((left * np.asarray(values)) @ right.T).astype(np.float32)


DECAYING = 100.0 * 0.97 ** np.arange(300)
SPECTRA = {
    "distinct": np.concatenate([[50, 40, 30, 20, 10], DECAYING / 100]),
    "clustered": np.concatenate([[50, 50, 50, 20, 20], DECAYING / 100]),  # no direction is determined, their span is
    "low rank": np.array([9.0, 6.0, 3.0]),  # and then zeros
    "flat": 1.0 + 1e-3 * DECAYING,  # by subspaces would take too long
    "zero": np.zeros(5),
}


@pytest.mark.parametrize("shape", [(400, 700), (700, 400)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_values_and_spans_are_those_of_the_whole_decomposition(spectrum, shape):
    x = rows(SPECTRA[spectrum], *shape)
    values, directions = principal_directions(x, 5)
    _, whole, wanted = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    scale = max(whole[0], 1e-30)
    # of zeros the products know the squares only
    np.testing.assert_allclose(values, whole[:5], atol=3e-6 * scale)
    np.testing.assert_allclose(directions @ directions.T, np.eye(5), atol=1e-5)
    assert values.dtype == directions.dtype == np.float32
    number = {"low rank": 3, "zero": 0}.get(spectrum, 5)
    span, expected = directions[:number].T @ directions[:number], wanted[:number].T @ wanted[:number]
    np.testing.assert_allclose(span, expected, atol=2e-5 if spectrum != "flat" else 1e-3)
    again = principal_directions(x, 5)
    np.testing.assert_array_equal(values, again[0])
    np.testing.assert_array_equal(directions, again[1])


@pytest.mark.parametrize("shape", [(400, 700), (700, 400)])
def test_both_ways_agree(shape):
    x = rows(SPECTRA["distinct"], *shape)
    (values, directions), other = principal._by_subspaces(x, 5), principal._by_products(x, 5)
    np.testing.assert_allclose(values, other[0], rtol=1e-6)
    np.testing.assert_allclose(principal._signed(directions), principal._signed(other[1]), atol=1e-5)


def test_small_matrices_and_most_of_the_spectrum_are_decomposed_whole():
    random = np.random.default_rng(2)
    for shape, number in (((500, 10), 3), ((300, 400), 200), ((300, 260), 400)):
        x = random.normal(size=shape)
        values, directions = principal_directions(x, number)
        _, whole, wanted = np.linalg.svd(x, full_matrices=False)
        np.testing.assert_allclose(values, whole[:number], rtol=1e-12)
        np.testing.assert_allclose(np.abs(np.sum(directions * wanted[:number], axis=1)), 1.0, rtol=1e-9)


@pytest.mark.parametrize("spectrum", ["distinct", "clustered", "low rank", "flat"])
def test_axes_of_a_covariance(spectrum):
    x = rows(SPECTRA[spectrum], 700, 400).astype(np.float64)
    values, vectors = principal_axes(x.T @ x, 5)
    whole = np.linalg.eigvalsh(x.T @ x)[::-1]
    np.testing.assert_allclose(values, whole[:5], atol=1e-10 * whole[0])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(x.T @ (x @ vectors.T), vectors.T * values, atol=1e-10 * whole[0])
