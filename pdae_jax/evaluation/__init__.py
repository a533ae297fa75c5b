"""Baselines, metrics, and the table that compares."""
