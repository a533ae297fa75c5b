r"""Your own files: .h5ad, .zarr, .csv, .tsv, .parquet, .fcs, a folder of tables, a sample sheet. No Python to write.

    make run CONFIG=experiments/configs/anndata.py WORKDIR=runs/mine \
        ARGS="--config.data.path=my.h5ad --config.data.condition=perturbation --config.data.control=ctrl"

Add `--dry_run` to ARGS to see what was read, and what would be held out, before anything is trained. The fields:

    config.data.path        the file, or a folder of tables or .fcs files
    config.data.sheet       a table with a line for each file: columns file, condition, and if you like dose, batch,
                            replicate, the stratum and others; its paths are from config.data.path or its own folder
    config.data.condition   column with one condition name per cell: of obs, of the table; for .fcs a channel, a
                            keyword; "file", the name of the file; or several columns, "('drug_1','drug_2')"
    config.data.control     name of the unperturbed condition; or several, "('NT-1','NT-2')"; or a pattern, "NegCtrl*"
    config.data.perturbations  names to be found whole, "('(+)-JQ1','A+B')", where they contain the separator
    config.data.separator   joins the perturbations of a combination, "+" in "A+B"
    config.data.dose        column with doses: one number, or "1+0.5" in the order of the names; or a column for each of
                            config.data.condition; none: every dose is 1
    config.data.dose_in_name  whether the number in "A:2" is a dose; none: where that is certain
    config.data.allow_doses "('zero','negative')": doses of 0 beside a named control, or below 0, that are meant so
    config.data.stratum     column with the cell type, line or donor, which becomes a part of conditions: "A+nk"
    config.data.reference   the stratum whose unperturbed cells are the control
    config.data.layer       layer of an .h5ad or .zarr file, or raw for its raw.X; none: X
    config.data.obsm        key of obsm of such a file with the values instead
    config.data.gene_symbols  column of var of such a file with the names of features; none: var_names
    config.data.features    features to keep, "('CD3','CD8')" or "CD*"; none: all that vary, and of tables those that
                            look like measurements
    config.data.exclude     features not to keep, by name or pattern
    config.data.highly_variable  number of features to keep instead, those that vary most; needs scanpy
    config.data.min_cells   conditions with fewer cells are dropped; the control stays
    config.data.normalize   True for raw counts: they become log(1 + counts per 10,000), and predictions counts again
    config.data.totals      column with the counts of each cell over all genes, where the file has only some of them
    config.data.arcsinh     cofactor for raw cytometry, 5 for CyTOF, 150 for fluorescence; none: values as they are
    config.data.compensate  True: the spillover that .fcs files name is taken off; none: left in, with a warning
    config.data.store       folder for the cells of an .h5ad or .zarr file that does not fit into memory
    config.data.test_path   another file, or sheet, with the test conditions; read as the first
    config.split.column     column that says of each cell train, validation or test; of a condition all cells the same
    config.split.test       conditions to hold out, "('A+B','A+C')"; choose nothing, only judge
    config.split.validation conditions that choose the last step and test additivity
    config.split.protocol   instead: a split of the field, pdae_jax/data/protocols.py; "stratum" holds out all that
                            perturbations do in one of config.split.strata, number config.split.seed

Where none are given, a fifth of the combinations whose perturbations were all measured alone is held out for the test,
and a tenth of the remaining ones for validation, at least one each, by `config.split.seed`. Values should be on a scale
on which effects add up: log1p of counts per 10,000 (`normalize` makes it of raw counts), or arcsinh of intensities.
.parquet and .fcs need `make .venv/files.stamp` once.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict, config_dict

from pdae_jax.cli import base


def get_config(arg: str = "default"):
    """The argument ``smoke`` trains a few steps on a small file that it makes; flags change values."""
    if arg not in ("default", "smoke"):
        raise ValueError(f"Unknown argument {arg!r}; pass anndata.py or anndata.py:smoke.")
    config = base.get_config()
    config.data = ConfigDict(type_safe=False)  # a column or a tuple of columns; `own_data` checks what it is given
    config.data.name = "own_data"
    config.data.path = config_dict.placeholder(str)
    config.data.sheet = config_dict.placeholder(str)
    config.data.condition = "condition"
    config.data.control = "control"
    config.data.perturbations = ()
    config.data.separator = "+"
    config.data.dose = config_dict.placeholder(str)
    config.data.dose_in_name = config_dict.placeholder(bool)
    config.data.allow_doses = ()
    config.data.stratum = config_dict.placeholder(str)
    config.data.reference = config_dict.placeholder(str)
    config.data.layer = config_dict.placeholder(str)
    config.data.obsm = config_dict.placeholder(str)
    config.data.gene_symbols = config_dict.placeholder(str)
    config.data.features = ()
    config.data.exclude = ()
    config.data.highly_variable = config_dict.placeholder(int)
    config.data.min_cells = 2
    config.data.test_path = config_dict.placeholder(str)
    config.data.normalize = False
    config.data.totals = config_dict.placeholder(str)
    config.data.arcsinh = config_dict.placeholder(float)
    config.data.compensate = config_dict.placeholder(bool)
    config.data.store = config_dict.placeholder(str)
    config.split.column = config_dict.placeholder(str)
    config.split.test_fraction = 0.2
    config.split.validation_fraction = 0.1
    config.split.protocol = config_dict.placeholder(str)
    config.split.strata = ()
    config.split.seed = 0
    if arg == "smoke":
        config.data.update(path=str(Path(_scratch().name, "smoke.h5ad")), condition="perturbation", control="ctrl")
        write_example(config.data.path)
        base.shorten(config)
    return config


def get_sweep():
    """How many latents? Ranked on the validation conditions."""
    for latent_dim in (2, 4, 8, 16):
        yield {"fit.latent_dim": latent_dim}


def write_example(path: str) -> None:
    """A small screen: three perturbations, all pairs, log-normal cells; the same file every time."""
    import anndata
    import pandas as pd

    random = np.random.default_rng(0)
    effects = {"A": (2, 0, 1, 0), "B": (0, 2, 0, 1), "C": (1, 1, 0, 0)}
    names = ["ctrl", "A", "B", "C", "A+B", "A+C", "B+C"]
    shifts = [sum((np.array(effects[p]) for p in name.split("+") if p in effects), np.zeros(4)) for name in names]
    x = np.concatenate([random.normal(shift, 1.0, (60, 4)) for shift in shifts])
    obs = pd.DataFrame({"perturbation": np.repeat(names, 60)}, index=[f"cell{i}" for i in range(len(x))])
    var = pd.DataFrame(index=["g0", "g1", "g2", "g3"])
    anndata.AnnData(np.exp(x / 2).astype(np.float32), obs=obs, var=var).write_h5ad(path)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory:
    """A folder that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="pdae_jax-")
