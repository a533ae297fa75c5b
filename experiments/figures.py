"""Draw the figures of a run folder again, and its report, from the folder alone.

python experiments/figures.py --workdir=runs/simulated
"""

import pathlib
import sys

from absl import flags

from pdae_jax.cli.command import Call, execute
from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import results


def define(values):
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=values)


def main(asked, call):
    cache_compilations()
    workdir = pathlib.Path(asked.workdir)
    for caption, path in results.draw_figures(workdir).items():
        print(f"{workdir / path}: {caption}")
    print(results.render(workdir))


if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))
