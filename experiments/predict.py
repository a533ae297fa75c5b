"""Predict cells under labels that nobody measured, with a run that is finished.

python experiments/predict.py --workdir=runs/simulated --label=p0+p2 --out=p0+p2.h5ad
python experiments/predict.py --workdir=runs/simulated --label=p0+p2 --label=p0:0.5+p3 --num_samples=5000 --out=two.h5ad

Prints the verdict on each prediction. The file opens in scanpy: X, var names, obs["condition"].
"""

import pathlib

import jax
from absl import app, flags, logging

from pdae_jax import predict, to_anndata
from pdae_jax.compiled import cache_compilations
from pdae_jax.training.restore import load_model

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
LABEL = flags.DEFINE_multi_string("label", None, "A+B, or with doses A:0.5+B; repeat it for more", required=True)
OUT = flags.DEFINE_string("out", None, "file to write, .h5ad; it must not exist", required=True)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "predicted cells per label; default one per source cell")
SOURCE = flags.DEFINE_string("source", "control", "whose cells: control, nearest, all, or a training condition")
SEED = flags.DEFINE_integer("seed", 0, "of the choice of source cells and of the decoder noise")


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    out = pathlib.Path(OUT.value)
    if out.exists():
        raise FileExistsError(f"{out} exists, and nothing is overwritten. Pass another --out, or remove it.")
    fitted, key = load_model(WORKDIR.value), jax.random.key(SEED.value)
    predictions = [
        predict(fitted, label, key=key, num_samples=NUM_SAMPLES.value, source=SOURCE.value) for label in LABEL.value
    ]
    for prediction in predictions:
        print(prediction.verdict.summary())
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".partial.{out.name}")
    to_anndata(predictions).write_h5ad(temporary)
    temporary.replace(out)
    print(f"{sum(len(p.samples) for p in predictions)} predicted cells in {out}")


if __name__ == "__main__":
    app.run(main)
