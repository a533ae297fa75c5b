"""The command line: `pdae-jax run`, `evaluate`, `predict`, `check` and `sweep`."""
