"""`pdae-jax evaluate` in a checkout: see `pdae_jax/cli/evaluate.py`, or call it with --help."""

import sys

from pdae_jax.cli import evaluate
from pdae_jax.cli.command import Call, execute

if __name__ == "__main__":
    sys.exit(execute(evaluate, Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))
