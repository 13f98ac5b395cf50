"""A file of reference log-probabilities, so that a resumed run does not compute them again.

The file is a NumPy archive (NPZ) with `key` (what the numbers were computed for), `rows` (their numbers in the
dataset, in training order) and the columns `ref_logps` and, with kl=mismatched, `ref_KL_logps`, float32 in nats.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builders.store.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_reference(
    cache: Path | None, key: str, rows: "NDArray[np.integer]"
) -> "dict[str, NDArray[np.float32]] | None":
    """Read the columns of a cache file.

    Args:
        cache: path of the file; None: there is no cache.
        key: what the columns must have been computed for.
        rows: (N,) numbers of the rows they must belong to, in this order.

    Returns:
        Columns (N,) by name, or None where the file is missing or belongs to another key or other rows.
    """
    if cache is None or not cache.is_file():
        return None
    with np.load(cache, allow_pickle=False) as stored:  # a pickle could run code
        if str(stored["key"]) != key or not np.array_equal(stored["rows"], rows):
            return None
        return {name: stored[name] for name in stored.files if name.startswith("ref_")}


def write_reference(
    cache: Path | None, key: str, rows: "NDArray[np.integer]", columns: "Mapping[str, NDArray[np.float32]]"
) -> None:
    """Write the columns of a cache file by one rename.

    Args:
        cache: path of the file; None: nothing is written.
        key: what the columns were computed for.
        rows: (N,) numbers of the rows, in training order.
        columns: (N,) each; names begin with `ref_`, so that `read_reference` finds them.
    """
    if cache is None:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[np.generic]] = {"key": np.asarray(key), "rows": rows, **columns}
    with replacing(cache) as file:
        np.savez(file, allow_pickle=False, **arrays)
