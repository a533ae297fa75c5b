"""From a recipe and data to a fitted model."""
