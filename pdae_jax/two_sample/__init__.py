"""Statistics and tests of two samples; nothing here knows of perturbations."""
