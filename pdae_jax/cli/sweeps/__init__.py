"""Sweeps: which points to try, where they are trained, what is reported of them."""
