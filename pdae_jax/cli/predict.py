"""Predict cells under labels that nobody measured, with a run that is finished.

pdae-jax predict --workdir=runs/simulated --label=p0+p2 --out=p0+p2.h5ad
pdae-jax predict --workdir=runs/simulated --label=p0+p2 --label=p0:0.5+p3 --num_samples=5000 --out=two.h5ad

Prints the verdict on each prediction. The file opens in scanpy: X, var names, obs["condition"].
"""

import pathlib

import jax
from absl import flags

from pdae_jax.cli.command import Call
from pdae_jax.cli.reading import read_run
from pdae_jax.compiled import cache_compilations
from pdae_jax.prediction.export import to_anndata
from pdae_jax.prediction.samples import predict
from pdae_jax.runs.files import written_path
from pdae_jax.runs.track import stage


def define(values: flags.FlagValues) -> None:
    """Add the flags of the command."""
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=values)
    flags.DEFINE_multi_string(
        "label", None, "A+B, or with doses A:0.5+B; repeat it for more", required=True, flag_values=values
    )
    flags.DEFINE_string("out", None, "file to write, .h5ad; it must not exist", required=True, flag_values=values)
    flags.DEFINE_integer(
        "num_samples", None, "predicted cells per label; default one per source cell", flag_values=values
    )
    flags.DEFINE_string(
        "source", "control", "whose cells: control, nearest, all, or a training condition", flag_values=values
    )
    flags.DEFINE_string("store", None, "folder of the cells, where it has been moved", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the choice of source cells and of the decoder noise", flag_values=values)


def main(asked: flags.FlagValues, call: Call) -> None:
    """Predict, and write what was predicted."""
    cache_compilations()
    out = pathlib.Path(asked.out)
    if out.exists():
        raise FileExistsError(f"{out} exists, and nothing is overwritten. Pass another --out, or remove it.")
    fitted, key = read_run(asked.workdir, asked.store), jax.random.key(asked.seed)
    with stage(True, f"Predicting {', '.join(asked.label)}"):
        predictions = [
            predict(fitted, label, key=key, num_samples=asked.num_samples, source=asked.source) for label in asked.label
        ]
    for prediction in predictions:
        print(prediction.verdict.summary())
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_path(out) as temporary:
        to_anndata(predictions).write_h5ad(temporary)
    print(f"{sum(len(p.samples) for p in predictions)} predicted cells in {out}")
