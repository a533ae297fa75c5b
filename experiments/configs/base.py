"""What every config has, under the path that configs of users import it by."""

from pdae_jax.cli.base import get_config, shorten

__all__ = ["get_config", "shorten"]
