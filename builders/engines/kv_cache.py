"""A preallocated key-value cache for batches whose rows come and go.

All rows write into one shared column, the cursor, and each row's prompt ends where the cursor stood when it joined, so
rows are left-padded::

    row 0   p p p p p g g g g g _ _ _      p prompt, g generated, . unused, _ free
    row 1   . . . . p p p g g g _ _ _
            low                 cursor

A layer writes in place and hands out views, so that no step copies the past. This module imports torch; import it
inside functions.
"""

import numpy as np
import numpy.typing as npt
import torch  # noqa: TID253
from transformers.cache_utils import Cache, CacheLayerMixin  # noqa: TID253

IntArray = npt.NDArray[np.int64]


class Window:
    """What all layers share.

    Attributes:
        rows: rows of storage.
        columns: columns of storage.
        live: number of live rows; they fill the rows from 0 on.
        low: first column that a live row still needs.
        cursor: the column that the next token is written to; [low, cursor) is in use.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.live = 0
        self.low = 0
        self.cursor = 0


class WindowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, each (rows, heads, columns, head dimension)."""

    is_sliding = False
    is_compileable = False

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate storage for the window's rows and columns.

        Heads, head dimension and dtype are those of the arguments, (rows, heads, positions, head dimension) each.
        """
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        """Return zeros (window rows, heads, window columns, head dimension) like some states."""
        # Zeros, not empty memory: a masked column has weight 0, and 0 times a stray NaN would be NaN.
        shape = (self.window.rows, like.shape[1], self.window.columns, like.shape[3])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the live rows' new states from the cursor on.

        The cursor itself is moved by the decoder, once for all layers.

        Args:
            key_states: (live, heads, new positions, head dimension).
            value_states: (live, heads, new positions, head dimension).

        Returns:
            Views of the live rows' keys and values in use, the new ones included.
        """
        live, low, cursor = self.window.live, self.window.low, self.window.cursor
        end = cursor + key_states.shape[2]
        self.keys[:live, :, cursor:end] = key_states
        self.values[:live, :, cursor:end] = value_states
        return self.keys[:live, :, low:end], self.values[:live, :, low:end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that `update` will return, and 0, their offset."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns in use before the new ones."""
        return self.window.cursor - self.window.low

    def get_max_length(self) -> int:
        """Return -1, which stands for no maximum: storage grows."""
        return -1


class WindowCache(Cache):  # type: ignore[misc]
    """The cache of a whole model; its layers are made by the first `insert`.

    Args:
        rows: rows of storage.
        columns: columns of storage to begin with.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.layers: list[WindowLayer] = []
        self.window = Window(rows, columns)

    def insert(self, prefilled: Cache, source: list[int]) -> None:
        """Append rows from a prefilled cache, right-aligned to the cursor.

        Args:
            prefilled: the cache of one prefill pass, left-padded.
            source: for each new row, its row in `prefilled`.
        """
        window = self.window
        if not self.layers:
            self.layers = [WindowLayer(window) for _ in prefilled.layers]
        for layer, filled in zip(self.layers, prefilled.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(filled.keys, filled.values)
            length = filled.keys.shape[2]  # keys (prompts, heads, length, head dimension)
            index = torch.tensor(source, device=filled.keys.device)
            place = (
                slice(window.live, window.live + len(source)),
                slice(None),
                slice(window.cursor - length, window.cursor),
            )
            layer.keys[place] = filled.keys.index_select(0, index)
            layer.values[place] = filled.values.index_select(0, index)
        window.live += len(source)

    def move(self, holes: IntArray, movers: IntArray, live: int) -> None:
        """Copy the rows `movers` over the rows `holes` and keep the first `live` rows."""
        window = self.window
        if len(holes):
            used = slice(window.low, window.cursor)
            for layer in self.layers:
                to, of = torch.from_numpy(holes).to(layer.keys.device), torch.from_numpy(movers).to(layer.keys.device)
                for states in (layer.keys, layer.values):
                    states[to, :, used] = states[of, :, used]
        window.live = live

    def shift(self, distance: int) -> None:
        """Move the used columns to the left by `distance`."""
        window = self.window
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                # Source and target may overlap, hence the copy.
                kept = states[: window.live, :, window.low : window.cursor].clone()
                states[: window.live, :, window.low - distance : window.cursor - distance] = kept
        window.low -= distance
        window.cursor -= distance

    def grow(self, columns: int) -> None:
        """Reallocate the storage with `columns` columns, keeping those in use."""
        window = self.window
        window.columns = columns
        used = (slice(0, window.live), slice(None), slice(window.low, window.cursor))
        for layer in self.layers:
            keys, values = layer.keys, layer.values
            # Allocates anew, with the window's new number of columns.
            layer.lazy_initialization(keys, values)
            layer.keys[used], layer.values[used] = keys[used], values[used]
