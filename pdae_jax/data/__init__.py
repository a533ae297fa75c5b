"""Data in: loading and validation, splits, named public data sets, simulated worlds, the batch sampler."""
