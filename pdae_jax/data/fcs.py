"""Events of cytometry files (.fcs): names of channels, their scale, and spillover taken off."""

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from pdae_jax.damage import reading
from pdae_jax.data.scale import RAW
from pdae_jax.spelling import first_names, nearest_names
from pdae_jax.types import PerturbationData

#: Condition of a file by its own name, without the ending.
FILE = "file"
_SPILLOVER = ("spillover", "spill", "comp")  # keywords of FCS 3.1 and of instruments before it


def read_events(file: Path, used: Sequence[str], compensate: bool = False) -> Any:
    """Read events of one .fcs file, with a column for each used name that is a keyword of the file, or `FILE`.

    Channels have the name of their marker (``$PnS``), where there is one and no other channel has it, else their own
    (``$PnN``). Values are on the linear scale of the instrument, as FlowIO has them: logarithmic amplification
    (``$PnE``) and gain (``$PnG``) are taken off, and time is in seconds (``$TIMESTEP``).

    Args:
        file: the file.
        used: columns, keywords or `FILE`.
        compensate: the spillover that the file names is taken off.

    Returns:
        A data frame; ``attrs["cytometry"]``, and ``attrs["spillover"]`` where the file names one that was left in.

    Raises:
        KeyError: there is no such channel or keyword.
        ValueError: the file names no spillover that could be taken off.
    """
    import pandas as pd

    with reading(file), file.open("rb") as opened:
        content = importlib.import_module("flowio").FlowData(opened)
        events = np.asarray(content.as_array())
    markers = [marker.strip() if any(map(str.isalnum, marker)) else "" for marker in content.pns_labels]
    counts = Counter(markers)
    names = [
        marker if marker and counts[marker] == 1 else channel
        for channel, marker in zip(content.pnn_labels, markers, strict=True)
    ]
    spillover = spillover_of(content.text, content.pnn_labels, file.name)
    if compensate and spillover is None:
        raise ValueError(
            f"compensate=True, and {file.name!r} has no spillover, or was compensated before. It has the keywords "
            f"{first_names(sorted(content.text))}. Leave compensate out."
        )
    if compensate and spillover is not None:
        events = np.linalg.solve(spillover.T, events.T).T
    frame = pd.DataFrame(events, columns=pd.Index(names))
    unmarked = [channel for channel, marker in zip(content.pnn_labels, markers, strict=True) if not marker]
    frame.attrs.update(
        {"cytometry": True, "unmarked": unmarked}
        | ({"spillover": True} if spillover is not None and not compensate else {})
    )
    keywords = {**content.text, FILE: file.stem}
    for name in used:
        key = name.lower().removeprefix("$")
        if name not in names and key not in keywords:
            known = [FILE, *names, *content.text]
            raise KeyError(
                f"No {name!r} in {file.name!r}; {nearest_names(name, known)}. Pass a channel, a keyword of the file, "
                f"or {FILE!r} for its name."
            )
        if name not in names:
            frame[name] = keywords[key]
    return frame


def warn_of_events(frame: Any, data: PerturbationData) -> None:
    """Warn of raw intensities, and of features without a marker where others have one.

    Args:
        frame: of `read_events`.
        data: read from it.
    """
    reading, blank = data.reading, set(frame.attrs.get("unmarked", ()))
    if reading is None or not frame.attrs.get("cytometry"):
        return
    if reading.scale == RAW and reading.arcsinh is None:
        logging.warning(
            "The events are raw intensities, on which effects do not add up. Pass arcsinh=5 for CyTOF, 150 for "
            "fluorescence."
        )
    unmarked = [name for name in data.features if name in blank]
    if unmarked and len(unmarked) < data.num_features:
        logging.warning(
            "Features without a marker, $PnS, as other channels have it: %s. Where nothing was stained, leave them out "
            "with exclude=%s.",
            *(first_names(unmarked), unmarked if len(unmarked) > 1 else repr(unmarked[0])),
        )


def spillover_of(
    text: Mapping[str, str], channels: Sequence[str], name: str
) -> Float[np.ndarray, "channels channels"] | None:
    r"""Return the spillover :math:`S` of a file, with measured = true times :math:`S`; None where there is none.

    There is none without the keyword, where it is the identity, or where its channels were replaced by compensated
    ones (``Comp-FITC-A``).

    Args:
        text: keywords of the file in lower case: ``n,name,...,S_11,S_12,...`` by rows, FCS 3.1, section 3.2.20.
        channels: names of all channels.
        name: of the file, for the message.

    Raises:
        ValueError: the keyword is none such, or names a channel that is not there.
    """
    key = next((key for key in _SPILLOVER if text.get(key, "").strip()), None)
    if key is None:
        return None
    parts = [part.strip() for part in text[key].split(",")]
    try:
        number = int(parts[0])
        named, values = parts[1 : 1 + number], np.array(parts[1 + number :], float).reshape(number, number)
    except ValueError as error:
        raise ValueError(f"The keyword {key!r} of {name!r} is no spillover: {text[key][:60]!r}. Mend it.") from error
    missing = [channel for channel in named if channel not in channels]
    if np.array_equal(values, np.eye(number)) or any(f"Comp-{channel}" in channels for channel in missing):
        return None
    if missing:
        raise ValueError(
            f"The spillover of {name!r} is of channels that are not there: {first_names(missing)}; "
            f"{nearest_names(missing[0], channels)}. Mend the keyword {key!r}."
        )
    found, places = np.eye(len(channels)), [list(channels).index(channel) for channel in named]
    found[np.ix_(places, places)] = values
    return found
