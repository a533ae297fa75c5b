"""`pdae-jax check` in a checkout: see `pdae_jax/cli/check.py`, or call it with --help."""

import sys

from pdae_jax.cli import check
from pdae_jax.cli.command import Call, execute

if __name__ == "__main__":
    sys.exit(execute(check, Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))
