"""`pdae-jax run` in a checkout: see `pdae_jax/cli/run.py`, or call it with --help."""

import sys

from pdae_jax.cli import run
from pdae_jax.cli.command import Call, execute

if __name__ == "__main__":
    sys.exit(
        execute(run, Call(("python", sys.argv[0]), tuple(sys.argv[1:])), config="experiments/configs/simulated.py")
    )
