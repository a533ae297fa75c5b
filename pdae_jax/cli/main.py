"""``pdae-jax COMMAND``: what the console script does."""

import importlib
import sys
from collections.abc import Sequence

from pdae_jax.cli.command import MISUSED, Call, execute

#: The commands, each a module of this room, in the order in which people need them.
COMMANDS = {
    "run": "train and evaluate what a config or a file of your own says, in one run folder",
    "evaluate": "evaluate a run folder again",
    "predict": "predict cells under labels that nobody measured",
    "check": "what may be claimed about predictions of labels, before or after training",
    "sweep": "train every point of a sweep, and rank the points on validation conditions",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line, and return the status of the process."""
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if command in COMMANDS:
        return execute(importlib.import_module(f"pdae_jax.cli.{command}"), Call(("pdae-jax", command), tuple(rest)))
    listed = "\n".join(f"  {name:10}{meaning}" for name, meaning in COMMANDS.items())
    if command in ("-h", "-help", "--help", "help"):
        print(
            f"pdae-jax: predict distributions under combinations of perturbations.\n\n{listed}\n\n"
            f"pdae-jax run --config.data.path=my.h5ad trains on a file of your own; pdae-jax COMMAND --help lists all "
            f"flags, and the fields of the config."
        )
        return 0
    print(f"{command!r} is no command of pdae-jax. Pass one of these:\n{listed}", file=sys.stderr)
    return MISUSED
