"""The tiled sums and their derivatives against float64 loops, finite differences, and each other."""

import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from test_kernels import FORMULAS

from pdae_jax import kernels, losses
from pdae_jax.two_sample import pair_sum, summation


def h(x, y, kernel, formula):
    return formula(cdist(x, y, "cityblock" if kernel.metric == "manhattan" else "euclidean"))


def value(total):
    return np.float64(total.high) + np.float64(total.low)


def cross(kernel, x, y, w, v):
    return pair_sum.pair_sum(x, y, w, v, kernel, tile=9)


def within(kernel, x, w):
    return pair_sum.self_pair_sum(x, w, kernel, tile=9)


# kernels of one formula share a program
SUMS = {"cross": jax.jit(cross), "within": jax.jit(within)}
GRADIENTS = {
    "cross": jax.jit(jax.grad(lambda *a: cross(*a).high, argnums=(1, 2, 3, 4))),
    "within": jax.jit(jax.grad(lambda *a: within(*a).high, argnums=(1, 2))),
}


# of many features distances come by another way, which knows the metric and not the formula of a kernel
@pytest.mark.parametrize(
    ("kernel", "formula", "d"),
    [(*each, 2) for each in FORMULAS]
    + [pytest.param(*FORMULAS[number], 30, marks=pytest.mark.slow) for number in (0, 1, 3, 5)],
)
def test_sums_and_gradients_equal_float64_loops(kernel, formula, d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, d)).astype(np.float32), 1 + rng.normal(size=(17, d)).astype(np.float32)
    w, v = rng.uniform(size=23).astype(np.float32), rng.uniform(size=17).astype(np.float32)
    double = lambda *arrays: (a.astype(np.float64) for a in arrays)  # noqa: E731
    x64, y64, w64, v64 = double(x, y, w, v)
    arrays = tuple(map(jnp.asarray, (x, y, w, v)))

    exact_cross = lambda x, y, w, v: w @ h(x, y, kernel, formula) @ v  # noqa: E731
    exact_within = lambda x, w: w @ h(x, x, kernel, formula) @ w  # noqa: E731
    np.testing.assert_allclose(value(SUMS["cross"](kernel, *arrays)), exact_cross(x64, y64, w64, v64), rtol=1e-6)
    np.testing.assert_allclose(value(SUMS["within"](kernel, arrays[0], arrays[2])), exact_within(x64, w64), rtol=1e-6)

    step = 1e-6
    for name, exact, args, args64 in (
        ("cross", exact_cross, arrays, (x64, y64, w64, v64)),
        ("within", exact_within, (arrays[0], arrays[2]), (x64, w64)),
    ):
        gradients = GRADIENTS[name](kernel, *args)
        for position, gradient in enumerate(gradients):
            direction = rng.normal(size=gradient.shape)
            moved = [list(args64), list(args64)]
            moved[0][position] = args64[position] + step * direction
            moved[1][position] = args64[position] - step * direction
            expected = (exact(*moved[0]) - exact(*moved[1])) / (2 * step)
            scale = np.sum(np.abs(np.asarray(gradient) * direction))
            assert abs(np.sum(np.asarray(gradient, np.float64) * direction) - expected) < 2e-6 * scale + 1e-6


@pytest.mark.slow
def test_a_derivative_asked_for_alone_is_the_same():
    rng = np.random.default_rng(6)
    args = [jnp.asarray(rng.uniform(size=shape), jnp.float32) for shape in ((23, 30), (17, 30), (23,), (17,))]
    function = lambda *a: pair_sum.pair_sum(*a, kernels.energy(), tile=9).high  # noqa: E731
    together = jax.jit(jax.grad(function, argnums=(0, 1, 2, 3)))(*args)
    for position in range(4):
        alone = jax.jit(jax.grad(function, argnums=position))(*args)
        np.testing.assert_allclose(alone, together[position], rtol=1e-6, atol=1e-6)


def test_gradient_by_bandwidths_equals_finite_differences():
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.normal(size=(n, 4)), jnp.float32) for n in (30, 20))
    w, v = jnp.ones(30) / 30, jnp.ones(20) / 20

    def loss(bandwidths):
        return pair_sum.pair_sum(x, y, w, v, kernels.gaussian(bandwidths), tile=8).high

    def exact(s):
        r = cdist(x, y)
        return np.mean([np.mean(1 - np.exp(-(r**2) / 2 / b**2)) for b in s])

    s = np.array([1.0, 2.5])
    expected = [(exact(s + e) - exact(s - e)) / 2e-5 for e in 1e-5 * np.eye(2)]
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(s, jnp.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize("d", [3, 40])
def test_pairs_much_nearer_than_the_mean_keep_their_digits(d):
    # every cell of y is a millionth of the spread away from one of x: a matrix product sees a distance of zero
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, d)).astype(np.float32)
    y = (x + 1e-6 * rng.normal(size=x.shape)).astype(np.float32)
    w = jnp.ones(60) / 60
    total = pair_sum.pair_sum(jnp.asarray(x), jnp.asarray(y), w, w, kernels.energy(), tile=25)
    np.testing.assert_allclose(value(total), cdist(x, y).mean(), rtol=2e-7)
    gradient = jax.grad(lambda x: pair_sum.pair_sum(x, jnp.asarray(y), w, w, kernels.energy(), tile=25).high)
    difference = x[:, None].astype(np.float64) - y[None]
    expected = np.sum(difference / np.linalg.norm(difference, axis=2, keepdims=True), axis=1) / 3600
    np.testing.assert_allclose(gradient(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-9)


def test_coinciding_cells_have_finite_gradients():
    x = jnp.ones((40, 12))
    w = jnp.ones(40) / 40
    for kernel in (kernels.energy(), kernels.energy(0.5), kernels.laplace(1.0), kernels.matern(1.5, 1.0)):
        gradient = jax.jit(jax.grad(lambda x, k=kernel: pair_sum.self_pair_sum(x, w, k, tile=15).high))(x)
        assert np.all(np.isfinite(gradient))


def test_weights_of_zero_mask_rows_whatever_they_hold():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 20)).astype(np.float32)
    padded = np.concatenate([x, np.full((70, 20), 9.0, np.float32)])  # whole tiles of copies
    weights = jnp.asarray(np.arange(120) < 50, jnp.float32) / 50
    whole = pair_sum.self_pair_sum(jnp.asarray(x), jnp.ones(50) / 50, kernels.energy())
    for tile in (None, 16):
        masked = pair_sum.self_pair_sum(jnp.asarray(padded), weights, kernels.energy(), tile=tile)
        np.testing.assert_allclose(value(masked), value(whole), rtol=1e-7)


def test_group_sums_equal_loops():
    rng = np.random.default_rng(4)
    x, weights = rng.normal(size=(70, 15)).astype(np.float32), rng.uniform(size=(70, 3)).astype(np.float32)
    expected = weights.T @ (cdist(x, x) - 5.0) @ weights
    for tile in (None, 20):
        sums = pair_sum.group_pair_sums(jnp.asarray(x), jnp.asarray(weights), kernels.energy(), offset=5.0, tile=tile)
        np.testing.assert_allclose(sums, expected, rtol=1e-5)


@pytest.mark.slow
def test_compensated_sum_is_exact():
    a = np.random.default_rng(5).normal(size=10_001).astype(np.float32) * np.float32(1e4)
    exact = math.fsum(map(float, a))
    for total in (summation.compensated_sum(jnp.asarray(a)), jax.jit(summation.compensated_sum)(a)):
        assert abs(float(total) - exact) <= abs(exact) * 2**-23
    assert np.all(jax.grad(summation.compensated_sum)(jnp.asarray(a)) == 1)


def test_memory_of_a_hundred_thousand_cells_with_gradient():
    # what XLA sets aside, without running it; one 100,000 x 100,000 matrix would be 40 GB
    cells = jax.ShapeDtypeStruct((100_000, 50), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(losses.energy_distance, argnums=(0, 1))).lower(cells, cells).compile()
    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert total < 0.5e9


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, re
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from pdae_jax import losses
assert jax.device_count() == 8
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(1600, 20)), jnp.float32)
y = jnp.asarray(rng.normal(size=(2400, 20)) + 0.3, jnp.float32)
mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
spread = [jax.device_put(a, NamedSharding(mesh, P("rows"))) for a in (x, y)]
function = jax.jit(jax.value_and_grad(losses.energy_distance))
compiled = function.lower(*spread).compile()
(value, gradient), (expected, expected_gradient) = compiled(*spread), function(x, y)
np.testing.assert_allclose(value, expected, rtol=1e-6)
np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)
assert gradient.sharding.spec == P("rows")
# every tile of distances is split over the devices: 800 rows, 100 on each
tiles = set(re.findall(r"f32\\[(\\d+,\\d+)\\]\\S* dot\\(", compiled.as_text()))
assert "100,800" in tiles and "800,800" not in tiles, tiles
group = jnp.arange(1600) % 3
matrix = jax.jit(lambda x: losses.two_sample_matrix(x, group, num_groups=3))
np.testing.assert_allclose(matrix(spread[0]), matrix(x), atol=1e-6)
# a mesh of explicit axes: under auto_axes
explicit = jax.make_mesh((8,), ("rows",))
with jax.set_mesh(explicit):
    arrays = [jax.device_put(a, NamedSharding(explicit, P("rows"))) for a in (x, y)]
    value = jax.jit(jax.sharding.auto_axes(losses.energy_distance, out_sharding=P()))(*arrays)
np.testing.assert_allclose(value, expected, rtol=1e-6)
print("same numbers")
"""


@pytest.mark.slow
def test_rows_spread_over_eight_devices_give_the_same_numbers():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "same numbers" in run.stdout, run.stderr[-3000:]
