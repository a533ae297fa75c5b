"""Draw the figures of a run folder again, and its report, from the folder alone.

python experiments/figures.py --workdir=runs/simulated
"""

import pathlib

from absl import app, flags, logging

from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import results

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    workdir = pathlib.Path(WORKDIR.value)
    for caption, path in results.draw_figures(workdir).items():
        print(f"{workdir / path}: {caption}")
    print(results.render(workdir))


if __name__ == "__main__":
    app.run(main)
