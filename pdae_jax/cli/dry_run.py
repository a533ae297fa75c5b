"""What an experiment has read and would hold out, in words: what ``run --dry_run`` prints."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

from pdae_jax.build import Experiment
from pdae_jax.reporting import overview


def describe(experiment: Experiment, warnings: Sequence[str] = ()) -> str:
    """Cells, values, perturbations with their doses, and every condition with its part and how it is identified."""
    return overview.describe(experiment.train, experiment.validation, experiment.test, warnings=warnings)


@contextlib.contextmanager
def warnings_heard() -> Iterator[list[str]]:
    """Warnings that the library logs inside, in order."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
