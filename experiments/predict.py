"""`pdae-jax predict` in a checkout: see `pdae_jax/cli/predict.py`, or call it with --help."""

import sys

from pdae_jax.cli import predict
from pdae_jax.cli.command import Call, execute

if __name__ == "__main__":
    sys.exit(execute(predict, Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))
