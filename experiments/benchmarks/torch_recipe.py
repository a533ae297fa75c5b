r"""The recipe of `time_to_quality` in eager PyTorch: what of the time to quality is owed to the recipe, and not to JAX.

The same start, networks, batches, loss and schedule as ours there, written as one would in PyTorch: linear maps beside
SiLU networks that start near zero, the linear model's effects as shifts, every condition as a source and as a target,
each law scored by itself, half the weight on reconstruction, the contrast between conditions, Adam with clipping,
warm-up and cosine decay, averaged parameters.
"""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from pdae_jax.model.model import Start
from pdae_jax.recipe import Recipe


class Skip(nn.Module):
    """``x A + b + MLP(x)``, the MLP near zero at the start."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, hidden: tuple[int, ...]):
        super().__init__()
        widths = (kernel.shape[0], *hidden)
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layer = nn.Linear(width_in, width_out)
            nn.init.normal_(layer.weight, std=(2 / width_in) ** 0.5)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.SiLU()]
        out = nn.Linear(widths[-1], kernel.shape[1])
        nn.init.normal_(out.weight, std=0.01 / widths[-1] ** 0.5)
        nn.init.zeros_(out.bias)
        self.net = nn.Sequential(*layers, out)
        self.skip = nn.Linear(*kernel.shape)
        with torch.no_grad():
            self.skip.weight.copy_(torch.from_numpy(np.asarray(kernel, np.float32).T))
            self.skip.bias.copy_(torch.from_numpy(np.asarray(bias, np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.net(x)


class Autoencoder(nn.Module):
    """Encoder, shifts and a decoder without noise."""

    def __init__(self, start: Start, hidden: tuple[int, ...]):
        super().__init__()
        self.encoder = Skip(np.asarray(start.encoder_kernel), np.asarray(start.encoder_bias), hidden)
        self.decoder = Skip(np.asarray(start.decoder_kernel), np.asarray(start.decoder_bias), hidden[::-1])
        self.shift = nn.Parameter(torch.from_numpy(np.asarray(start.shift_matrix, np.float32)))

    def translate(self, x: Tensor, difference: Tensor) -> Tensor:
        return self.decoder(self.encoder(x) + difference @ self.shift)


def loss_of(model: Autoencoder, x: Tensor, y: Tensor, labels: Tensor, reconstruction: float) -> Tensor:
    """Sources ``x [E, m, d]`` and targets ``y [E, n, d]`` of all conditions, labels ``[E, K]``."""
    z = model.encoder(x)
    centre = labels @ model.shift  # [E, k]
    moved = z[None] + centre[:, None, None] - centre[None, :, None]  # [targets, sources, m, k]
    predicted = model.decoder(moved)
    e, m, d = x.shape
    cross = torch.cdist(predicted.reshape(e, e * m, d), y).mean()
    within = torch.cdist(predicted, predicted).mean() * m / (m - 1)
    size = centre.square().sum(dim=-1) / 2
    logits = z @ centre.T - size  # [E, m, E]
    own = torch.arange(e)[:, None].expand(e, m)
    contrast = nn.functional.cross_entropy(logits.reshape(e * m, e), own.reshape(-1))
    rebuilt = (model.decoder(z) - x).norm(dim=-1).mean()
    return cross - within / 2 + reconstruction * rebuilt + contrast


def make_recipe_step(
    start: Start, x: Tensor, rows: list[np.ndarray], labels: Tensor, recipe: Recipe
) -> tuple[Callable[[], Any], Autoencoder]:
    """One call is one step; the averaged model, which predicts.

    Args:
        start: the linear start, as ours has it.
        x: cells, standardised.
        rows: of each condition.
        labels: of the conditions.
        recipe: numbers of cells, schedule, weight of the reconstruction.
    """
    model = Autoencoder(start, tuple(recipe.hidden))
    average = copy.deepcopy(model)
    num_steps, peak = int(recipe.num_steps or 0), float(recipe.learning_rate or 0.0)
    warmup = min(recipe.warmup_steps, num_steps // 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=peak)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: (
            t / warmup
            if t < warmup
            else 0.01 + 0.99 * (1 + math.cos(math.pi * (t - warmup) / (num_steps - warmup))) / 2
        ),
    )
    first = torch.tensor([r[0] for r in rows])[:, None]  # cells of a condition are neighbours
    count = torch.tensor([len(r) for r in rows])[:, None]
    taken = 0

    def draw(number: int) -> Tensor:
        return x[first + (torch.rand(len(rows), number) * count).long()]

    def step() -> None:
        nonlocal taken
        optimizer.zero_grad()
        source, target = draw(recipe.cells_per_source), draw(recipe.cells_per_target)
        loss_of(model, source, target, labels, float(recipe.reconstruction or 0.0)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        decay = min(recipe.average_decay, (1 + taken) / (10 + taken))
        taken += 1
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    return step, average


if __name__ == "__main__":
    raise SystemExit("This is no script. Run python experiments/benchmarks/step_time.py, which uses it.")
