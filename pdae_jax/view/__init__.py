"""Cells as a model has them, and the way back to the user's units."""
