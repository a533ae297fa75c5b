"""Samples of any label, and what may be claimed about them."""
