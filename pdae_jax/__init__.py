"""pdae_jax: predict the distribution of measurements under combinations of perturbations nobody has measured."""
