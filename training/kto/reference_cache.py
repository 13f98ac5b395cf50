"""Reference log-probabilities in a file, so that a resumed run does not compute them again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builders.store.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_reference(
    cache: Path | None, key: str, response_ids: Sequence[str]
) -> "dict[str, NDArray[np.float32]] | None":
    """The columns (N,) of a cache file; None where there is none for this key and these rows in this order."""
    if cache is None or not cache.is_file():
        return None
    with np.load(cache, allow_pickle=False) as stored:
        if str(stored["key"]) != key or stored["rows"].tolist() != list(response_ids):
            return None
        return {name: stored[name] for name in stored.files if name.startswith("ref_")}


def write_reference(
    cache: Path | None, key: str, response_ids: Sequence[str], columns: "Mapping[str, NDArray[np.float32]]"
) -> None:
    """Write the columns (names that begin with `ref_`) by one rename; without a path, nothing."""
    if cache is None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[np.generic]] = {"key": np.asarray(key), "rows": np.asarray(response_ids), **columns}
    with replacing(cache) as file:
        np.savez(file, allow_pickle=False, **arrays)
