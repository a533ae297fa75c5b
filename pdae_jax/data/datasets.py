"""Named public data sets, parsed from the files that their authors published."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from absl import logging

from pdae_jax.data.files import find_file
from pdae_jax.data.load import from_anndata, from_arrays
from pdae_jax.data.tables import find_columns
from pdae_jax.types import PerturbationData

#: What Bodenmiller's cells were stimulated with.
STIMULATIONS = ("BCR/FcR-XL", "PMA/Ionomycin", "vanadate")

#: Cell types with at least 150 cells under every stimulation and without one.
COMMON_CELL_TYPES = ("cd4+", "cd8+", "cd14+hladrmid", "cd14-surf-", "igm+", "nk")

_GENES = """
5PtaseI Btk29A CG10089 CG10376 CG10417 CG10426 CG12746 CG13197 CG17029 CG17598 CG17746 CG3530 CG3573 CG3632 CG42327
CG6805 CG7115 CG9391 CG9784 CanA-14F Cka Doa Dsor1 Gadd45 Gap1 Gef26 Jra Krn Lar MKP-4 Mekk1 Mkk4 Mkp3 Mtl PRL-1 PTP-ER
Pak Pdp Pez Plip Pp1alpha-96A Pp2C1 PpD3 PpV Pten Ptp10D Ptp4E Ptp61F Ptp69D Ptp99A Ptpmeg Pvr Rac2 Ras85D Rho1 Sos
Src42A Src64B Tak1 alph aop bsk cbt cdc14 csw dome drk egr grk kay l(1)G0232 lic mRNA-capping-enzyme mbt mop msk msn
mtm mts p38b phl pnt puc pyd rl shark slpr ssh stg synj twe wun wun2
"""

#: The signalling genes of `mapk_rnai`, in the order of its label columns.
MAPK_GENES = tuple(_GENES.split())

_REFERENCE_CELL_TYPE = "cd4+"


def bodenmiller(
    *, features: str = "functional", cell_types: Sequence[str] | None = None, min_cells: int = 2
) -> PerturbationData:
    """Load mass cytometry of human blood cells under three stimulations (Bodenmiller et al. 2012), arcsinh scale.

    Stimulation and cell type are both perturbations of the unstimulated cd4+ cell, which is the control
    (``"unstimulated"``). A name leaves out what it shares with the control: ``"nk"`` are unstimulated nk cells,
    ``"vanadate"`` are cd4+ cells with vanadate, ``"vanadate & nk"`` nk cells with vanadate. The separator is
    ``" & "``, because cell types are named with ``+``.

    Args:
        features: ``"functional"``, the 14 markers that stimulations change, or ``"all"``, with the 9 surface markers
            by which the cell types were gated.
        cell_types: those to keep, of 14; cd4+ must be among them. `COMMON_CELL_TYPES` are measured well throughout.
        min_cells: conditions with fewer cells are dropped. The default 2, the least that data may have, drops two
            conditions of one cell each and keeps 51,934 of 51,936 cells in 54 conditions.

    Raises:
        KeyError: an unknown cell type.
        ValueError: unknown `features`, cd4+ left out, or `min_cells` below 2.
    """
    if features not in ("functional", "all"):
        raise ValueError(f"features is {features!r}. Pass 'functional' or 'all'.")
    if min_cells < 2:
        raise ValueError(f"min_cells is {min_cells}. Pass at least 2: a distribution needs two cells.")
    x, markers, stimulation, cell_type = _read_bodenmiller(surface=features == "all")
    kinds = sorted(set(cell_type))
    kept = kinds if cell_types is None else list(cell_types)
    find_columns(kept, kinds, "the cell types")
    if _REFERENCE_CELL_TYPE not in kept:
        raise ValueError(f"cell_types has no {_REFERENCE_CELL_TYPE!r}, which is the control. Add it.")
    parts = [(stimulation, "unstimulated"), (cell_type, _REFERENCE_CELL_TYPE)]
    pairs = np.stack([np.where(values == plain, "", values) for values, plain in parts], axis=1)
    names = np.array([" & ".join(filter(None, pair)) or "unstimulated" for pair in pairs.tolist()], dtype=object)
    keep = np.isin(cell_type, kept)
    counts = Counter(names[keep])
    few = [name for name, count in counts.items() if count < min_cells]
    if few:
        logging.info("bodenmiller: dropped conditions of fewer than %d cells: %s", min_cells, ", ".join(few))
    keep &= ~np.isin(names.astype(str), few)
    present = set(pairs[keep].ravel())
    return from_arrays(
        x[keep],
        names[keep],
        perturbations=[name for name in (*STIMULATIONS, *kinds) if name in present],
        features=markers,
        control="unstimulated",
        separator=" & ",
    )


def _read_bodenmiller(*, surface: bool) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Values, marker names, stimulation and cell type of all cells, the unstimulated ones first."""
    import rdata

    def read(name: str) -> Any:
        return rdata.read_rda(find_file(f"bodenmiller2012/upstream/{name}.rda"))[name]

    matrices = ("FuncMat", "PhenoMat") if surface else ("FuncMat",)
    blocks = [[read(group + matrix) for matrix in matrices] for group in ("ref", "untreated")]
    x = np.concatenate([np.concatenate([block.values for block in row], axis=1) for row in blocks])
    markers = [str(name) for block in blocks[0] for name in block.coords["dim_1"].values]
    still, treated = read("refAnnots"), read("untreatedAnnots")
    stimulation = np.array(["unstimulated"] * len(still) + treated["Treatment"].tolist())
    cell_type = np.array(still["Cells"].tolist() + treated["Cells"].tolist())
    return x, markers, stimulation, cell_type


def mapk_rnai(
    *,
    log2: bool = True,
    screen: int | None = None,
    center: bool = True,
    positive_controls: bool = False,
    double_dose: bool = True,
    genes: int | None = None,
) -> PerturbationData:
    """Load pairwise RNAi of 93 signalling genes in Drosophila cells (Horn et al. 2011); one observation is one well.

    Conditions are unordered pairs of genes (``"Gap1+drk"``, 16 wells), single genes (with the inert dsRNA
    ``Ctrl_Fluc``, 8 wells), one gene targeted twice (dose 2, ``"drk:2"``, 8 wells), and the control ``Ctrl_Fluc``
    with itself, of which there is one well in each of the two screens. Features: cell number, nuclear area, intensity.

    Args:
        log2: logarithms, in which effects are nearly additive, or raw values.
        screen: 1, 2, or both when None.
        center: screens differ by a batch effect: shift every well by the median of its screen to the median of all, or
            to that of the asked screen, which then takes the control well of the other one too.
        positive_controls: keep the wells with one of the five positive controls, as perturbations.
        double_dose: keep the wells in which one gene is targeted twice, as dose 2. Two dsRNAs against one gene need
            not do twice what one does, which is what an additive label says.
        genes: only the first so many of `MAPK_GENES`: a small problem for trials. Screens are still centred over all
            wells.

    Raises:
        ValueError: a screen that is not 1 or 2; one screen without centring or with the positive controls, of which it
            has single wells; fewer than two genes or more than there are.
    """
    if genes is not None and not 2 <= genes <= len(MAPK_GENES):
        raise ValueError(f"genes is {genes}. Pass 2 to {len(MAPK_GENES)}, or None for all.")
    if screen not in (None, 1, 2):
        raise ValueError(f"screen is {screen!r}. Pass 1, 2 or None for both.")
    if screen is not None and (positive_controls or not center):
        raise ValueError(
            f"screen={screen} has one well of {'each positive control with itself' if center else 'the control'}, and "
            f"a condition needs two. Pass {'positive_controls=False' if center else 'center=True'} or screen=None."
        )
    wells, groups = _read_mapk()
    x = wells[["nrCells", "area", "intensity"]].to_numpy(dtype=np.float64)
    x = np.log2(x) if log2 else x
    of_screen = wells["screen"].to_numpy()
    if center:
        to = np.median(x if screen is None else x[of_screen == screen], axis=0)
        for each in (1, 2):
            x[of_screen == each] += to - np.median(x[of_screen == each], axis=0)
    pairs = np.sort(wells[["template", "query"]].to_numpy(dtype=str), axis=1)
    control = (pairs == "Ctrl_Fluc").all(axis=1)
    keep = control | (of_screen == screen) if screen is not None else np.ones(len(x), dtype=bool)
    positive = [name for name, group in groups.items() if group == "pos"]
    if not positive_controls:
        keep &= ~np.isin(pairs, positive).any(axis=1)
    if not double_dose:
        keep &= control | (pairs[:, 0] != pairs[:, 1])
    keep &= ~np.isin(pairs, [] if genes is None else MAPK_GENES[genes:]).any(axis=1)
    names = ["Ctrl_Fluc" if a == b == "Ctrl_Fluc" else f"{a}:2" if a == b else f"{a}+{b}" for a, b in pairs.tolist()]
    names = np.array([name.removeprefix("Ctrl_Fluc+").removesuffix("+Ctrl_Fluc") for name in names], dtype=object)
    return from_arrays(
        x[keep],
        names[keep],
        perturbations=[*MAPK_GENES[:genes], *(sorted(positive) if positive_controls else [])],
        features=["nrCells", "area", "intensity"],
        control="Ctrl_Fluc",
    )


def _read_mapk() -> tuple[Any, dict[str, str]]:
    """One row per well with its two genes and its screen, as in the files; and the group of each gene."""
    import pandas as pd

    def read(name: str) -> pd.DataFrame:
        return pd.read_csv(find_file(f"mapk_rnai_2011/upstream/{name}.txt"), sep="\t")

    targets = read("Targets").set_index("TID")
    symbol = targets["Symbol"].to_dict()
    gene = {rid: symbol[tid] for rid, tid in read("Reagents")[["RID", "TID"]].itertuples(index=False)}
    template = read("TemplateDesign").assign(template=lambda table: table["RID"].map(gene)).drop(columns="RID")
    query = read("QueryDesign").assign(query=lambda table: table["RID"].map(gene)).drop(columns="RID")
    plates = read("Platelist").rename(columns={"Replicate": "screen"})[["Platebarcode", "Plate", "screen"]]
    # a plate has two query dsRNAs; the template says which of the two a well has
    wells = (
        pd.concat([read("Data_Dmel2_PPMAPK_2"), read("Data_Dmel2_PPMAPK_4")], ignore_index=True)
        .merge(plates, on="Platebarcode", how="left", validate="many_to_one")
        .merge(query[["Plate", "TemplatePlate"]].drop_duplicates(), on="Plate", how="left", validate="many_to_one")
        .merge(template, on=["TemplatePlate", "Well"], how="left", validate="many_to_one")
        .merge(query, on=["Plate", "TemplatePlate", "QueryNr"], how="left", validate="many_to_one")
    )
    return wells, dict(zip(targets["Symbol"], targets["group"], strict=True))


def norman_devel(*, features: str | None = None) -> PerturbationData:
    """Load a small part of CRISPRa Perturb-seq in K562 cells (Norman et al. 2019): 3,375 cells, log1p counts per
    10,000.

    34 conditions of about 100 cells: control, 18 single genes, 15 pairs. A test of the pipeline on sparse data: too
    small to rank methods.

    Args:
        features: None, all genes that are not constant (250 of 500; the others are zero in every cell and are named in
            the log), or ``"expressed"``, those in more than 10 % of the cells (35).

    Raises:
        ValueError: unknown `features`.
    """
    import anndata

    if features not in (None, "expressed"):
        raise ValueError(f"features is {features!r}. Pass None for all genes that vary, or 'expressed'.")
    adata = anndata.read_h5ad(find_file("norman_devel/devel.h5ad"))
    adata = adata[(adata.obs["dataset"] == "norman19").to_numpy()].copy()
    share = np.asarray((cast(Any, adata.X) > 0).mean(axis=0)).ravel()  # log1p counts: a gene that is never zero varies
    keep = share > (0.1 if features == "expressed" else 0)
    dropped = adata.var_names[share == 0].tolist()
    logging.info("norman_devel: dropped %d genes that are zero in every cell: %s", len(dropped), ", ".join(dropped))
    return from_anndata(adata, features=adata.var_names[keep])
