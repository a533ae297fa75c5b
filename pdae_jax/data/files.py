"""Files of public data sets: where they were published, and where to look for them on this machine."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from absl import logging

from pdae_jax.spelling import nearest_names

_RAW = "https://raw.githubusercontent.com"


class _Source(NamedTuple):
    """Where a file comes from: a GitHub repository at a commit."""

    repository: str
    commit: str
    path: str  # without a folder: the file is not published in this form
    sha256: str


def _sources(folder: str, repository: str, commit: str, path: str, checksums: dict[str, str]) -> dict[str, _Source]:
    return {f"{folder}/{name}": _Source(repository, commit, path + name, sha) for name, sha in checksums.items()}


#: The files by the names that `find_file` takes.
FILES = {
    # Bodenmiller et al., Nature Biotechnology 30:858 (2012). CC0.
    **_sources(
        "bodenmiller2012/upstream",
        "yannabraham/bodenmiller",
        "a5004eabce6d8323fe313fb5854316ceee07de2c",
        "data/",
        {
            "refAnnots.rda": "81e81a9421fd0f2b784d21fd46e1058432d9511a56d8d17ecf3212d28a105865",
            "refFuncMat.rda": "e6c3a6bdc545bfc3b4bb70073e78d11a3470dd9f2810bab12296c462a2929f8d",
            "refPhenoMat.rda": "3bb3d35dabe81638ed228943519978467169ae77b3c70da7fa2974593b7520f6",
            "untreatedAnnots.rda": "d50b3cc9a332db929b55ed76de169a3ab5db5316995c99812279075e4f708047",
            "untreatedFuncMat.rda": "eb7327cb150dc86b5256eeb2b491501fc71be50075264c0a6cc59ede77d70e68",
            "untreatedPhenoMat.rda": "517379903f0b1fc91d81efbe730fd0c9129b59ef8d44fee4da8e8a0c0cc135ae",
        },
    ),
    # Horn et al., Nature Methods 8:341 (2011). Artistic-2.0.
    **_sources(
        "mapk_rnai_2011/upstream",
        "bioconductor-source/RNAinteractMAPK",
        "338608fb8c2f64d7d13912815dffc33f95a4bfb2",
        "inst/extdata/Dmel2PPMAPK/",
        {
            "Data_Dmel2_PPMAPK_2.txt": "22cf0d6cd488fa792d0bd4224d81eff5af2ed6a7253612904922f3c02da1cf19",
            "Data_Dmel2_PPMAPK_4.txt": "4b57a0b4a73b397d692d6e5f392189744a7d0b62e8b55f6a43adeede7727ba43",
            "Platelist.txt": "e60b907d333163cf02fea1eef50fd84b13d5a7587dc05763ed877c29a6539312",
            "QueryDesign.txt": "f65f06a053c089878e0a990cbe6e10d11182695c9eccfe113cdc85e1943c2271",
            "Reagents.txt": "74426846126a2ddfab1878fca1be74d1f3637d65453cf9a0af841eb632cec9ad",
            "Targets.txt": "d028977c087fcbc74ce42f7b145bd3462d40dd0a6b97d45d52fe8c1aacfc546b",
            "TemplateDesign.txt": "9c8ece83eda5c49ea9c75043ac1e89015ec989c894807c29362eb6820a6dd9c7",
        },
    ),
    # A subset of Norman et al., Science 365:786 (2019), from the PerturBench repository. BSD-3-Clause.
    **_sources(
        "norman_devel",
        "altoslabs/perturbench",
        "d357dfae3b50968e800e9f5f273ff145080ae67c",
        "src/perturbench/data/resources/",
        {"devel.h5ad": "220998f5630c813228c8661c86dd52244b9ac87127511289af90e0d900d8429b"},
    ),
    # Effects of Norman et al. 2019 with the arrays of the published bundle under other names: no download. MIT.
    **_sources(
        "norman_pairs",
        "MasalaKimchi/cell-state-reachability",
        "9b7a2b195e5e573c9b8a465cce9e9786e033aaf8",
        "",
        {"effects.npz": "48f362e646bbea521819b82fba5d0104ac90fc3c278a260047e57c87301107c8"},
    ),
}


def find_file(name: str) -> Path:
    """Find the path of a file of a named data set, downloaded if it is nowhere on this machine.

    Looked for in ``$PDAE_DATA_DIR``, ``../shared/data`` (from the working directory and from the repository), and
    the user's cache, into which it is downloaded from the public repository at a pinned commit.

    Args:
        name: a key of `FILES`, such as ``"norman_devel/devel.h5ad"``.

    Raises:
        KeyError: no such file is known.
        ValueError: a file was found or downloaded whose SHA-256 is not that of the published file.
        FileNotFoundError: the file is not on this machine and could not be downloaded.
    """
    import pooch

    if name not in FILES:
        raise KeyError(f"No data file {name!r}; {nearest_names(name, list(FILES))}. Pass a key of FILES.")
    source, cache = FILES[name], Path(pooch.os_cache("pdae_jax"))
    folders = [Path("..", "shared", "data"), Path(__file__).parents[3] / "shared" / "data", cache]
    if os.environ.get("PDAE_DATA_DIR"):
        folders.insert(0, Path(os.environ["PDAE_DATA_DIR"]).expanduser())
        if not folders[0].is_dir():
            logging.warning("PDAE_DATA_DIR is %s, which is no folder; looking elsewhere", folders[0])
    for folder in folders:
        if (folder / name).is_file():
            return _check_sha256((folder / name).resolve(), source.sha256)
    looked = ", ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
    if "/" not in source.path:
        raise FileNotFoundError(
            f"No {name!r} in {looked}, and it is published in another form only (GitHub, {source.repository} at "
            f"{source.commit}). Put it under $PDAE_DATA_DIR as {name}."
        )
    url = f"{_RAW}/{source.repository}/{source.commit}/{source.path}"
    logging.info("Downloading %s from %s", name, url)
    target = cache / name
    try:
        pooch.retrieve(url, f"sha256:{source.sha256}", fname=target.name, path=target.parent)
    except OSError as error:
        raise FileNotFoundError(
            f"No {name!r} in {looked}, and no download from {url}: {error}. Put the file of that address under "
            f"$PDAE_DATA_DIR as {name}, or try again with a network."
        ) from error
    return target


def _check_sha256(path: Path, expected: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{str(path)!r} is not the published file: its SHA-256 is {found}, not {expected}. "
            f"Delete or replace it, or point PDAE_DATA_DIR elsewhere."
        )
    return path
