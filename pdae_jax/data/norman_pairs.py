r"""Semi-real Perturb-seq: the measured effects of Norman et al. 2019, with cells simulated around them.

The effects of 104 single perturbations and 126 pairs (CRISPRa, K562 cells; Science 365:786), interactions and
measurement noise included, are real: log fold changes of pseudobulks. The cells are simulated, so the law of every
condition is known and can be drawn from at will. Per 10,000 counts, a gene of a cell under condition `c` has the rate

.. math:: \exp(b + e \,\delta_c + u L), \qquad e \sim \text{Beta}(8, 2) / 0.8, \quad u \sim N(0, I_3)

with base rates `b` that are drawn too (the source has none), the effect :math:`\delta_c`, how well the perturbation
took `e`, and states `u` in which cells differ without any perturbation. Counts are Poisson with a log-normal library
size and a gamma factor for the over-dispersion of each gene. Observations are
:math:`\log(1 + \text{counts per } 10{,}000)`.
"""

import functools

import numpy as np
from jaxtyping import Float

from pdae_jax.data.files import find_file
from pdae_jax.data.load import from_arrays
from pdae_jax.types import PerturbationData

FILE = "norman_pairs/effects.npz"
CONTROL = "control"
_STATES, _LOADING = 3, 0.15
_FIRST_TRUE_SEED = 1_000_000  # seeds of true cells do not meet those of measured ones


class Law:
    """The known law of every condition.

    Args:
        genes: the most variable ones of 2,000.
        seed: of base rates, states and over-dispersion.
    """

    def __init__(self, genes: int = 300, seed: int = 0):
        random = np.random.default_rng(seed)
        self.log_rates, self.genes = _log_rates(genes)
        self.loadings = random.normal(0, _LOADING, (_STATES, genes))
        self.shape = np.exp(random.normal(np.log(3), 0.5, genes))  # of the gamma factor

    @property
    def conditions(self) -> tuple[str, ...]:
        """The control, singles, and pairs ``"A+B"`` whose singles were both measured."""
        return tuple(self.log_rates)

    def sample(self, condition: str, number: int, seed: int) -> Float[np.ndarray, "number genes"]:
        """Draw cells of a condition, log1p counts per 10,000."""
        random = np.random.default_rng(seed)
        base, target = self.log_rates[CONTROL], self.log_rates[condition]
        took = random.beta(8, 2, (number, 1)) / 0.8
        state = random.normal(size=(number, _STATES))
        log_rate = base + took * (target - base) + state @ self.loadings - np.sum(self.loadings**2, axis=0) / 2
        library = np.exp(random.normal(np.log(6000), 0.35, (number, 1)))
        gamma = random.gamma(self.shape, 1 / self.shape, log_rate.shape)
        counts = random.poisson(np.exp(np.minimum(log_rate, 7)) * library / 1e4 * gamma)
        return np.log1p(counts / library * 1e4).astype(np.float32)

    def data(
        self, conditions: tuple[str, ...], cells: int, *, control_cells: int = 0, first_seed: int
    ) -> PerturbationData:
        """Draw cells of several conditions; the labels have a column for every perturbation of the screen.

        Args:
            conditions: names.
            cells: of each.
            control_cells: of the control.
            first_seed: condition number `i` of `conditions` of the law is drawn with seed ``first_seed + i``.
        """
        names = self.conditions
        sizes = [control_cells if name == CONTROL else cells for name in conditions]
        drawn = [
            self.sample(name, size, first_seed + names.index(name))
            for name, size in zip(conditions, sizes, strict=True)
        ]
        return from_arrays(
            np.concatenate(drawn),
            np.repeat(np.array(conditions, dtype=object), sizes),
            perturbations=[name for name in names if name != CONTROL and "+" not in name],
            features=self.genes,
            control=CONTROL,
        )

    def true_cells(self, train: PerturbationData, conditions: list[str], cells: int = 1000) -> PerturbationData:
        """Draw fresh cells of held-out conditions, with the columns of `train`."""
        first = _FIRST_TRUE_SEED
        x = [self.sample(name, cells, first + self.conditions.index(name)) for name in conditions]
        return PerturbationData(
            x=np.concatenate(x),
            condition_index=np.repeat(np.arange(len(conditions), dtype=np.int32), cells),
            labels=np.stack([train.label(name) for name in conditions]),
            conditions=tuple(conditions),
            perturbations=train.perturbations,
            features=train.features,
            control=train.control,
            separator=train.separator,
        )


def norman_pairs(
    *, genes: int = 300, cells_per_condition: int = 100, control_cells: int = 500, seed: int = 0
) -> PerturbationData:
    """Draw cells of the control, 104 singles and 126 pairs, about 60 % zeros: real interactions at the size of the
    field.

    Args:
        genes: the most variable ones, at most 2,000.
        cells_per_condition: of every condition but the control.
        control_cells: of the control.
        seed: of the law and of the cells.

    Raises:
        FileNotFoundError: the effects are not on this machine.
    """
    law = Law(genes, seed)
    return law.data(law.conditions, cells_per_condition, control_cells=control_cells, first_seed=100 + 1000 * seed)


def split_pairs(seed: int = 1, *, test: int = 30, validation: int = 15) -> tuple[list[str], list[str]]:
    """Choose pairs to hold out, and pairs for validation, drawn by a seed."""
    pairs = [name for name in _log_rates(300)[0] if "+" in name]
    np.random.default_rng(seed).shuffle(pairs)
    return pairs[:test], pairs[test : test + validation]


@functools.lru_cache(maxsize=4)  # every law and split of one process asks for the same table of a file
def _log_rates(genes: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Log rate per 10,000 counts of the most variable genes, by condition, and their names."""
    table = np.load(find_file(FILE), allow_pickle=False)
    single, double = table["single_effects"].astype(float), table["double_effects"].astype(float)
    if not 1 <= genes <= single.shape[1]:
        raise ValueError(f"genes={genes}, but there are {single.shape[1]}. Pass 1 to {single.shape[1]}.")
    chosen = np.sort(np.argsort(-np.concatenate([single, double]).var(0))[:genes])
    base = np.clip(np.random.default_rng(5).normal(-0.4, 1.1, genes), -3, 3.5)
    rates = {CONTROL: base}
    rates |= {str(name): base + effect[chosen] for name, effect in zip(table["singles"], single, strict=True)}
    kept = zip(table["doubles"], double, table["both_singles_measured"], strict=True)
    rates |= {str(name): base + effect[chosen] for name, effect, both in kept if both}
    return rates, [str(name) for name in table["genes"][chosen]]
