"""`pdae-jax sweep` in a checkout: see `pdae_jax/cli/sweep.py`, or call it with --help."""

import sys

from pdae_jax.cli import sweep
from pdae_jax.cli.command import Call, execute

if __name__ == "__main__":
    sys.exit(execute(sweep, Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))
