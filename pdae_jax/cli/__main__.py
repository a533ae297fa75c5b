"""``python -m pdae_jax.cli``: the same as ``pdae-jax``."""

import sys

from pdae_jax.cli.main import main

sys.exit(main())
