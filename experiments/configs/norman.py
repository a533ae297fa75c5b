"""CRISPRa Perturb-seq of Norman et al. 2019: singles and pairs of genes, with the protocols of the field.

    make run CONFIG=experiments/configs/norman.py:doubles ARGS="--config.data.path=norman.h5ad --config.split.seed=0"

The file may be that of GEARS, scPerturb or CPA, or GSE133344 itself with its column `guide_identity`. The argument
names a protocol of `pdae_jax.design.protocols`: ``doubles`` (half of the pairs held out, the default), ``tenth`` (ten
folds), ``seen2``, ``seen1``, ``seen0``. Two more need no file of your own: ``pairs``, semi-real cells around the
measured effects of this screen, and ``devel``, a small real part of it. ``smoke`` is a few steps on it.
"""

from pdae_jax.cli import base
from pdae_jax.design.protocols import PROTOCOLS

DEVEL_PAIRS = ("KLF1+MAP2K6", "KLF1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2")


def get_config(arg: str = "doubles"):
    """A protocol, ``pairs``, ``devel`` or ``smoke``."""
    from ml_collections import config_dict

    if arg not in (*PROTOCOLS, "pairs", "devel", "smoke"):
        known = ", ".join((*PROTOCOLS, "pairs", "devel", "smoke"))
        raise ValueError(f"Unknown argument {arg!r}; pass norman.py:<one of {known}>.")
    config = base.get_config()
    config.split.seed = 0
    config.split.protocol = arg if arg in PROTOCOLS else "doubles"
    if arg in PROTOCOLS:
        config.data.name = "norman"
        config.data.path = config_dict.placeholder(str)
        config.data.genes = 1000
        config.data.by = "mean"
        config.data.min_cells = 50
    elif arg == "pairs":
        config.data.name = "norman_pairs"
    else:
        config.data.name = "norman_devel"
        del config.split.protocol
        config.split.test, config.split.validation = DEVEL_PAIRS[:3], DEVEL_PAIRS[3:]
    if arg == "smoke":
        config.data.features = "expressed"
        base.shorten(config)
    return config


def get_sweep():
    """How many latents? Ranked on the validation conditions."""
    for latent_dim in (8, 16, 32, 64):
        yield {"fit.latent_dim": latent_dim}
