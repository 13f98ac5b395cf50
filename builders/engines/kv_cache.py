"""A preallocated key-value cache for batches whose rows come and go.

Every row writes at one shared column, the cursor; a row's prompt ends where it joined, so rows are left-padded. A layer
writes in place and hands out views: no step copies the past. This module imports torch; import it inside functions.
"""

import numpy as np
import numpy.typing as npt
import torch  # noqa: TID253
from transformers.cache_utils import Cache, CacheLayerMixin  # noqa: TID253

IntArray = npt.NDArray[np.int64]


class Window:
    """What all layers share: the live rows and the columns [low, cursor) that any of them still needs."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.live = 0
        self.low = 0
        self.cursor = 0


class WindowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, (rows, heads, columns, head dimension), of which the window's part is in use."""

    is_sliding = False
    is_compileable = False

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate storage shaped like these states, of the window's rows and columns."""
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros, not empty memory: a masked column has weight 0, and 0 times a stray NaN would be NaN.
        shape = (self.window.rows, like.shape[1], self.window.columns, like.shape[3])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the live rows' new states at the cursor; return views of their used columns."""
        live, low, cursor = self.window.live, self.window.low, self.window.cursor
        end = cursor + key_states.shape[2]
        self.keys[:live, :, cursor:end] = key_states
        self.values[:live, :, cursor:end] = value_states
        return self.keys[:live, :, low:end], self.values[:live, :, low:end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` returns."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use before the new ones."""
        return self.window.cursor - self.window.low

    def get_max_length(self) -> int:
        """No maximum: storage grows."""
        return -1


class WindowCache(Cache):  # type: ignore[misc]
    """The cache of a whole model; `rows` and `columns` are the storage to begin with. Layers come with `insert`."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.layers: list[WindowLayer] = []
        self.window = Window(rows, columns)

    def insert(self, prefilled: Cache, source: list[int]) -> None:
        """Append rows: row `source[i]` of a prefilled cache, its last column at the column before the cursor."""
        window = self.window
        if not self.layers:
            self.layers = [WindowLayer(window) for _ in prefilled.layers]
        for layer, filled in zip(self.layers, prefilled.layers, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(filled.keys, filled.values)
            length = filled.keys.shape[2]
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
        """Move the used columns `distance` to the left."""
        window = self.window
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                kept = states[: window.live, :, window.low : window.cursor].clone()
                states[: window.live, :, window.low - distance : window.cursor - distance] = kept
        window.low -= distance
        window.cursor -= distance

    def grow(self, columns: int) -> None:
        """Reallocate with more columns, keeping the used ones."""
        window = self.window
        window.columns = columns
        used = (slice(0, window.live), slice(None), slice(window.low, window.cursor))
        for layer in self.layers:
            keys, values = layer.keys, layer.values
            layer.lazy_initialization(keys, values)
            layer.keys[used], layer.values[used] = keys[used], values[used]
