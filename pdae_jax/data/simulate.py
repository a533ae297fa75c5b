r"""Worlds with known truth: :math:`x = f(z + W a) + \text{noise}`, `z` from a base law, `f` smooth and injective.

Every world can be sampled at any label, so predictions are judged against fresh draws of the truth.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.compiled import as_door
from pdae_jax.labels import LabelLike, format_label, parse_label
from pdae_jax.randomness import check_key, make_random
from pdae_jax.settings import Kind, OneOf, Real, Whole
from pdae_jax.types import PerturbationData

BASES = ("gaussian", "correlated", "mixture")
MIXINGS = ("linear", "complex_exponential", "network")
NOISES = ("none", "gaussian", "counts")


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """A data-generating process: base law, shift matrix, mixing, observation noise."""

    shift_matrix: Float[np.ndarray, "perturbations latent"]  # W
    mixing: Callable  # [n, latent] -> [n, features], injective
    base: str  # one of BASES
    base_scale: Float[np.ndarray, "latent latent"]  # base latents = base_scale @ standard draws
    noise: str  # one of NOISES
    noise_scale: float
    perturbations: tuple[str, ...]
    features: tuple[str, ...]
    # latent shift of each pair beyond the sum of its parts; zero where effects add up, as the model assumes
    interactions: Float[np.ndarray, "perturbations perturbations latent"] | None = None

    @property
    def latent_dim(self) -> int:
        return self.shift_matrix.shape[1]

    def label(self, spec: LabelLike) -> Float[np.ndarray, " perturbations"]:
        return parse_label(spec, self.perturbations)

    def sample_latent(self, key: Array, label: LabelLike, n: int) -> Float[Array, "n latent"]:
        """Draw perturbed latents `z + W a` under a label, interactions added."""
        key_base, key_mode = jax.random.split(key)
        z = jax.random.normal(key_base, (n, self.latent_dim))
        if self.base == "mixture":
            # two modes along the first axis, unit variance overall
            side = jnp.where(jax.random.bernoulli(key_mode, 0.5, (n,)), 1.0, -1.0)
            z = z.at[:, 0].set(0.8 * side + 0.6 * z[:, 0])
        return z @ self.base_scale.T + self.shift(label)

    def shift(self, label: LabelLike) -> Float[np.ndarray, " latent"]:
        """Return the latent shift of a label: `W a`, and the interactions of its pairs."""
        a = self.label(label)
        if self.interactions is None:
            return a @ self.shift_matrix
        return a @ self.shift_matrix + np.einsum("i,j,ijk->k", a, a, self.interactions)

    def observe(self, key: Array, latent: Float[Array, "n latent"]) -> Float[Array, "n features"]:
        """Draw observations of given latents: mixing, then observation noise."""
        x = self.mixing(latent)
        if self.noise == "gaussian":
            x = x + self.noise_scale * jax.random.normal(key, x.shape)
        if self.noise == "counts":
            # negative binomial counts with log-normal library size, then log1p: the pipeline of scRNA data
            # drawn by NumPy: JAX's gamma and Poisson take several times as long on a CPU
            random = make_random(key)
            depth = np.exp(0.3 * random.normal(size=(x.shape[0], 1)))
            rate = depth * np.asarray(jax.nn.softplus(2.0 * x))
            inverse_dispersion = 1.0 / max(self.noise_scale, 1e-3)
            rate *= random.gamma(inverse_dispersion, 1.0 / inverse_dispersion, rate.shape)
            x = jnp.asarray(np.log1p(random.poisson(rate) / depth), jnp.float32)
        return x

    def sample(self, key: Array, label: LabelLike, n: int) -> Float[Array, "n features"]:
        """Draw observations under any label, seen or unseen: fresh draws of the truth."""
        key_latent, key_observe = jax.random.split(key)
        return self.observe(key_observe, self.sample_latent(key_latent, label, n))


class Simulation(NamedTuple):
    """The result of `simulate`: the data a user would have, and the truth behind them."""

    data: PerturbationData
    world: World
    latents: Float[np.ndarray, "cells latent"]  # perturbed latents, row by row those of data.x


@as_door()
def simulate(
    key: Array,
    *,
    latent_dim: int = 4,
    observed_dim: int = 10,
    num_perturbations: int = 4,
    labels: Sequence[LabelLike] | None = None,
    cells_per_condition: int = 1000,
    base: str = "gaussian",
    mixing: str = "network",
    nonlinearity: float = 1.0,
    shift_scale: float = 1.5,
    noise: str = "none",
    noise_scale: float = 0.1,
    interaction: float = 0.0,
) -> Simulation:
    """Draw a world and a data set from it.

    Args:
        key: typed PRNG key; the same key gives the same world and the same cells.
        latent_dim: dimension k of the latents.
        observed_dim: dimension d >= k of the observations (2 for ``complex_exponential``).
        num_perturbations: K; they are named ``"p0", "p1", ...``.
        labels: the conditions measured beside the control, ``"p0+p1"`` or dicts of doses; default: singles and all
            doubles.
        cells_per_condition: sample size of each condition.
        base: law of the base latents: standard ``gaussian``, ``correlated`` Gaussian, or two-mode ``mixture``.
        mixing: ``linear``, ``complex_exponential`` (2-d), or ``network`` (random, invertible, then injected).
        nonlinearity: weight of the non-linear part of the mixing, 0 = linear.
        shift_scale: typical length of one perturbation's latent shift, in standard deviations of the base.
        noise: ``none``, ``gaussian`` (sd `noise_scale`) or ``counts`` (log1p of over-dispersed counts).
        noise_scale: sd, or dispersion of the counts.
        interaction: length of each pair's latent shift beyond the sum of its parts, over `shift_scale`; above
            0 the assumption of the model is violated.

    Raises:
        ValueError: an unknown base, mixing or noise, or impossible dimensions.
    """
    check_key(key)
    _check(
        **{"latent_dim": latent_dim, "observed_dim": observed_dim, "mixing": mixing, "base": base, "noise": noise},
        **{"num_perturbations": num_perturbations, "cells_per_condition": cells_per_condition},
        **{"nonlinearity": nonlinearity, "shift_scale": shift_scale, "interaction": interaction},
        noise_scale=noise_scale,
    )
    key_shift, key_base, key_mixing, key_latents, key_cells = jax.random.split(key, 5)
    # In this JAX split(key, n)[i] is fold_in(key, i): the sixth key, and no child of another.
    key_interaction = jax.random.fold_in(key, 5)
    perturbations = tuple(f"p{i}" for i in range(num_perturbations))
    world = World(
        shift_matrix=_shift_matrix(key_shift, num_perturbations, latent_dim, shift_scale),
        mixing=_make_mixing(key_mixing, mixing, latent_dim, observed_dim, nonlinearity),
        base=base,
        base_scale=_base_scale(key_base, base, latent_dim),
        noise=noise,
        noise_scale=noise_scale,
        perturbations=perturbations,
        features=tuple(f"x{i}" for i in range(observed_dim)),
        interactions=_interactions(key_interaction, num_perturbations, latent_dim, interaction * shift_scale),
    )
    chosen = design(perturbations, singles=1.0, doubles=1.0) if labels is None else labels
    rows = [world.label(label) for label in chosen]
    matrix = np.stack([np.zeros(num_perturbations, np.float32), *(row for row in rows if row.any())])
    keys_latent = jax.random.split(key_latents, len(matrix))
    keys_cell = jax.random.split(key_cells, len(matrix))
    latents = [world.sample_latent(k, a, cells_per_condition) for k, a in zip(keys_latent, matrix, strict=True)]
    x = [world.observe(k, z) for k, z in zip(keys_cell, latents, strict=True)]
    data = PerturbationData(
        x=np.concatenate([np.asarray(block, dtype=np.float32) for block in x]),
        condition_index=np.repeat(np.arange(len(matrix), dtype=np.int32), cells_per_condition),
        labels=matrix,
        conditions=tuple(format_label(a, perturbations) for a in matrix),
        perturbations=perturbations,
        features=world.features,
        size_factors=np.ones(len(matrix) * cells_per_condition, np.float32) if noise == "counts" else None,
    )
    return Simulation(data, world, np.concatenate([np.asarray(z) for z in latents]))


def design(
    perturbations: Sequence[str], *, singles: float = 1.0, doubles: float = 0.0, doses: Sequence[float] = ()
) -> list[dict[str, float]]:
    """Return the label design without the control: all singles and doubles at given doses, and singles at further
    doses.

    Args:
        perturbations: names.
        singles: dose of the single perturbations, 0 to leave them out.
        doubles: dose of each partner in the pairs, 0 to leave them out.
        doses: more doses of each single.
    """
    names = list(perturbations)
    out = [{name: singles} for name in names] if singles else []
    out += [{name: dose} for dose in doses for name in names]
    if doubles:
        out += [{a: doubles, b: doubles} for i, a in enumerate(names) for b in names[i + 1 :]]
    return out


_SCALE = Real(0.0, ends=(True, False))
_KINDS: Mapping[str, Kind] = {
    "latent_dim": Whole(),
    "observed_dim": Whole(),
    "num_perturbations": Whole(),
    "cells_per_condition": Whole(),
    "base": OneOf(BASES),
    "mixing": OneOf(MIXINGS),
    "noise": OneOf(NOISES),
    **dict.fromkeys(("nonlinearity", "shift_scale", "noise_scale", "interaction"), _SCALE),
}


def _check(*, latent_dim: Any, observed_dim: Any, mixing: Any, **others: Any) -> None:
    given = {"latent_dim": latent_dim, "observed_dim": observed_dim, "mixing": mixing, **others}
    for name, value in given.items():
        _KINDS[name].checked(name, value)
    if observed_dim < latent_dim:
        raise ValueError(
            f"observed_dim={observed_dim} is smaller than latent_dim={latent_dim}: the mixing cannot be injective. "
            f"Pass observed_dim >= latent_dim."
        )
    if mixing == "complex_exponential" and (latent_dim, observed_dim) != (2, 2):
        raise ValueError(
            f"mixing='complex_exponential' lives in the plane, found latent_dim={latent_dim}, "
            f"observed_dim={observed_dim}. Pass latent_dim=2, observed_dim=2, or mixing='network'."
        )


def _shift_matrix(key: Array, num_perturbations: int, latent_dim: int, scale: float) -> np.ndarray:
    """Directions spread out (orthogonal in blocks of k), lengths between 0.75 and 1.25 of `scale`."""
    key_direction, key_length = jax.random.split(key)
    blocks = -(-num_perturbations // latent_dim)
    rotations = jax.random.orthogonal(key_direction, latent_dim, (blocks,))
    directions = rotations.reshape(blocks * latent_dim, latent_dim)[:num_perturbations]
    length = jax.random.uniform(key_length, (num_perturbations, 1), minval=0.75, maxval=1.25)
    return np.asarray(scale * length * directions)


def _interactions(key: Array, num_perturbations: int, latent_dim: int, length: float) -> np.ndarray | None:
    """A random direction for each pair, all of one length."""
    if not length:
        return None
    shape = (num_perturbations, num_perturbations, latent_dim)
    direction = np.array(jax.random.normal(key, shape))
    direction *= length / np.linalg.norm(direction, axis=-1, keepdims=True)
    direction[np.tril_indices(num_perturbations)] = 0.0  # a pair counts once, a perturbation has none with itself
    return direction


def _base_scale(key: Array, base: str, latent_dim: int) -> np.ndarray:
    if base != "correlated":
        return np.eye(latent_dim, dtype=np.float32)
    rotation = jax.random.orthogonal(key, latent_dim)
    spread = jnp.linspace(0.5, 1.5, latent_dim)
    return np.asarray(rotation * spread / jnp.sqrt(jnp.mean(spread**2)))


def _make_mixing(key: Array, kind: str, latent_dim: int, observed_dim: int, nonlinearity: float) -> Callable:
    key_network, key_inject = jax.random.split(key)
    inject = _orthonormal_columns(key_inject, observed_dim, latent_dim)
    if kind == "complex_exponential":
        # (r, t) -> exp(r + i t): injective where the angle stays within one turn
        return lambda z: (
            jnp.exp(0.3 * nonlinearity * z[:, :1])
            * jnp.concatenate([jnp.cos(0.5 * nonlinearity * z[:, 1:]), jnp.sin(0.5 * nonlinearity * z[:, 1:])], axis=1)
        )
    if kind == "linear":
        return lambda z: z @ inject.T
    # Injection, then residual layers in the observed space. Each adds a non-linear map with Lipschitz constant
    # below one, so each layer, and the whole, is invertible on its image (Behrmann et al., ICML 2019).
    layers = []
    for key_layer in jax.random.split(key_network, 3):
        key_in, key_out, key_bias = jax.random.split(key_layer, 3)
        weight_in = jax.random.orthogonal(key_in, observed_dim)
        weight_out = jax.random.orthogonal(key_out, observed_dim)
        bias = jax.random.normal(key_bias, (observed_dim,))
        layers.append((weight_in, weight_out, bias))

    def network(z: Float[Array, "n latent"]) -> Float[Array, "n features"]:
        x = z @ inject.T
        for weight_in, weight_out, bias in layers:
            x = x + 0.95 * nonlinearity * jnp.sin(x @ weight_in + bias) @ weight_out
        return x

    return network


def _orthonormal_columns(key: Array, rows: int, columns: int) -> Array:
    return jax.random.orthogonal(key, rows)[:, :columns]
