r"""The published loss in plain eager PyTorch, from its equations: what step_time and time_to_quality compare with.

Ungrouped: every row :math:`i` of a batch of :math:`B` is a target of its own, so all :math:`B \times B` pairs
(source j, label of i) are decoded, each with fresh noise, and each row pays for :math:`B^2` distances:

.. math::
    f_{ij} = f(g(x_j) + W (a_i - a_j), \epsilon_{ij}), \quad
    \frac1B \sum_i \Big[ \operatorname{mean}_{j \ne i} |f_{ij} - x_i|
    - \tfrac12 \operatorname{mean}_{j \ne j';\, j, j' \ne i} |f_{ij} - f_{ij'}| \Big]

plus the energy score of two decodes of :math:`g(x_i)` against :math:`x_i`.

``grouped`` is the same loss decoded once per distinct label (`pdae_jax.losses.grouped_score`), still eager: what is
owed to the grouping, and what to the compiler, can be told apart.

"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]


class Setting(NamedTuple):
    """Widths of the networks and of the data; both sides of the comparison are built from it."""

    num_features: int
    num_perturbations: int
    latent_dim: int
    noise_dim: int
    encoder_hidden: tuple[int, ...]
    decoder_hidden: tuple[int, ...]


SETTINGS = {
    "2-d": Setting(2, 3, 2, 2, (64,) * 4, (64,) * 4),
    "10-d": Setting(10, 5, 4, 4, (128,) * 3, (128,) * 3),
    "norman": Setting(1000, 101, 101, 27, (512, 256, 256, 128), (128, 256, 256, 512)),
}


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width_in, width_out in zip((inputs, *hidden), (*hidden, outputs), strict=True):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def within_distances(f: Tensor) -> Tensor:
    """|f_ij - f_ij'| within each target, ``[targets, sources, features] -> [targets, sources, sources]``.

    The faster of the eager forms at each width. CPU ms of a whole step at batch 128 on one thread (2-d, 10-d, norman):
    ``torch.cdist`` 48, 94, 1770; the Gram form below 62, 107, 1400; broadcast differences 112, 381, out of memory.
    """
    if f.shape[-1] <= 32:
        return torch.cdist(f, f)
    gram = f @ f.mT
    square = gram.diagonal(dim1=1, dim2=2)
    distances = (square[:, :, None] + square[:, None] - 2 * gram).clamp_min(1e-12).sqrt()  # sqrt'(0) is inf
    return distances.masked_fill(torch.eye(f.shape[1], dtype=torch.bool), 0)


def energy_score(f: Tensor, x: Tensor) -> Tensor:
    """Energy score (U form) of the samples ``f[i]`` against ``x[i]``, mean over i; shapes ``[B, m, d]``, ``[B, d]``."""
    m = f.shape[1]
    accuracy = (f - x[:, None]).norm(dim=-1).mean()
    diversity = within_distances(f).sum() / (f.shape[0] * m * (m - 1))
    return accuracy - diversity / 2


def make_loss(
    encoder: nn.Module, decoder: nn.Module, shift: Tensor, noise_dim: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """``(x [B, d], labels [B, K]) -> loss``, with as many decodes as the module docstring says."""

    def decode(z: Tensor) -> Tensor:
        return decoder(torch.cat([z, torch.randn(*z.shape[:-1], noise_dim)], dim=-1))

    def loss_fn(x: Tensor, labels: Tensor) -> Tensor:
        b = x.shape[0]
        z = encoder(x)
        effect = labels @ shift
        others = torch.arange(b * b).view(b, b)[~torch.eye(b, dtype=torch.bool)].view(b, b - 1) % b  # j != i
        translated = (z - effect)[others] + effect[:, None]  # [targets, sources, latent]
        reconstructed = decode(z[:, None].expand(-1, 2, -1))  # two decodes of every row
        return energy_score(decode(translated), x) + energy_score(reconstructed, x)

    return loss_fn


def make_grouped_loss(
    encoder: nn.Module, decoder: nn.Module, shift: Tensor, noise_dim: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of `make_loss`, rows of one label sharing their decodes."""

    def decode(z: Tensor) -> Tensor:
        return decoder(torch.cat([z, torch.randn(*z.shape[:-1], noise_dim)], dim=-1))

    def loss_fn(x: Tensor, labels: Tensor) -> Tensor:
        b, z = len(x), encoder(x)
        distinct, group = torch.unique(labels, dim=0, return_inverse=True)
        decoded = decode((z - labels @ shift) + (distinct @ shift)[:, None])  # [distinct, sources, features]
        member = nn.functional.one_hot(group, len(distinct)).T.to(x.dtype)  # [distinct, rows]
        cross = torch.cdist(decoded, x.expand(len(distinct), -1, -1))
        own = cross.diagonal(dim1=1, dim2=2)  # a row does not predict itself
        attraction = (member * (cross.sum(dim=1) - own)).sum() / (b - 1)
        rows = within_distances(decoded).sum(dim=-1)
        diversity = (member.sum(dim=1) * rows.sum(dim=1)).sum() - 2 * (member * rows).sum()
        score = (attraction - diversity / (2 * (b - 1) * (b - 2))) / b
        return score + energy_score(decode(z[:, None].expand(-1, 2, -1)), x)

    return loss_fn


class Networks(NamedTuple):
    """What the published algorithm trains."""

    encoder: nn.Module
    decoder: nn.Module
    shift: nn.Parameter  # [perturbations, latent]
    noise_dim: int


def make_networks(setting: Setting) -> Networks:
    """Plain MLPs from PyTorch's random start, shifts of about unit length."""
    return Networks(
        encoder=mlp(setting.num_features, setting.encoder_hidden, setting.latent_dim),
        decoder=mlp(setting.latent_dim + setting.noise_dim, setting.decoder_hidden, setting.num_features),
        shift=nn.Parameter(torch.randn(setting.num_perturbations, setting.latent_dim) / setting.latent_dim**0.5),
        noise_dim=setting.noise_dim,
    )


def make_step(
    networks: Networks, x: Tensor, labels: Tensor, batch_size: int = 128, *, grouped: bool = False
) -> Callable[[], Tensor]:
    """One call is one Adam step on a batch of rows of the data, and returns the loss.

    Args:
        networks: trained in place.
        x: cells, ``[cells, features]``.
        labels: of each cell, ``[cells, perturbations]``.
        batch_size: rows B of a batch.
        grouped: decode once per distinct label.
    """
    encoder, decoder, shift, noise_dim = networks
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), shift], lr=1e-3)
    loss_fn = (make_grouped_loss if grouped else make_loss)(encoder, decoder, shift, noise_dim)

    def step() -> Tensor:
        rows = torch.randint(len(x), (batch_size,))
        optimizer.zero_grad()
        loss = loss_fn(x[rows], labels[rows])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@torch.no_grad()
def translate(networks: Networks, x: Tensor, difference: Tensor, seed: int = 0) -> Tensor:
    """Cells moved by a difference of labels ``[perturbations]``; the random state of the training is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        noise = torch.randn(len(x), networks.noise_dim)
    return networks.decoder(torch.cat([networks.encoder(x) + difference @ networks.shift, noise], dim=-1))


def make_torch_step(
    setting: str, batch_size: int = 128, *, num_labels: int, grouped: bool = False, num_rows: int = 4096, seed: int = 0
) -> Callable[[], Tensor]:
    """The step of a setting on random data: the time does not depend on the values.

    Args:
        setting: a key of `SETTINGS`.
        batch_size: rows B of a batch.
        num_labels: distinct labels in the data.
        grouped: decode once per distinct label.
        num_rows: rows of the data that batches are drawn from.
        seed: of data, parameters, batches and noise.
    """
    s = SETTINGS[setting]
    torch.manual_seed(seed)
    x = torch.randn(num_rows, s.num_features)
    table = torch.randint(0, 2, (num_labels, s.num_perturbations)).float()
    labels = table[torch.randint(num_labels, (num_rows,))]
    return make_step(make_networks(s), x, labels, batch_size, grouped=grouped)


def time_step(step: Callable[[], object], *, repeats: int = 10, seconds: float = 3.0) -> float:
    """Ms that one call of `step` takes: the fastest of `repeats` blocks of about `seconds` in all."""
    step()
    start = time.perf_counter()
    step()
    calls = max(1, round(seconds / repeats / (time.perf_counter() - start)))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        times.append((time.perf_counter() - start) / calls)
    return 1000 * min(times)


def fastest_threads(make: Callable[[], Callable[[], object]], *, seconds: float = 3.0) -> tuple[float, int]:
    """Ms per step, and the number of threads, one or all, at which PyTorch was faster; `make` returns a new step."""
    all_threads = torch.get_num_threads()
    timed = []
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        timed.append((time_step(make(), seconds=seconds), threads))
    torch.set_num_threads(all_threads)
    return min(timed)


def time_torch_step(
    setting: str, batch_size: int = 128, *, num_labels: int, grouped: bool = False
) -> tuple[float, int]:
    """Ms per step and the number of threads, one or all, at which PyTorch was faster."""
    return fastest_threads(lambda: make_torch_step(setting, batch_size, num_labels=num_labels, grouped=grouped))


if __name__ == "__main__":
    raise SystemExit("This is no script. Run python experiments/benchmarks/step_time.py, which uses it.")
