"""Figures and reports of what was found."""
