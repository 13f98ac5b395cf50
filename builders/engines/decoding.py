"""Batched decoding with a transformers model: rows join when places are free and leave when they finish.

Rows wait in one queue, longest prompt first, and join the running batch in groups; rows of a group that have the same
prompt share its prefill. When rows finish, the last live rows move into their places, so that every forward pass holds
live rows only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.engines import FinishReason, SamplingSettings, not_finite
from builders.engines.forward import Forward
from builders.engines.sampling import choose, row_uniforms

if TYPE_CHECKING:
    import torch

PREFILL_TOKENS = 16_384
"""Largest number of prompt tokens, padding included, in a prefill pass of more than one prompt."""
FIRST_COLUMNS = 256
"""Cache columns set aside for generated tokens at first; storage grows when rows turn out longer."""


@dataclass(frozen=True)
class Decoded:
    """The result of one row.

    Attributes:
        token_ids: generated ids, the end-of-sequence token included.
        logprob: sum of the tokens' log-probabilities in nats, at temperature 1 and without top-p.
        finish_reason: `stop` after an end-of-sequence token or a text that ends a row, else `length`.
    """

    token_ids: list[int]
    logprob: float
    finish_reason: FinishReason


class Places:
    """State of the live rows in host memory: one array entry per place in the batch."""

    def __init__(self, count: int, max_new_tokens: int) -> None:
        self.row = np.zeros(count, np.int64)  # (places,) index of the row's prompt
        self.start = np.zeros(count, np.int64)  # (places,)
        """Cache column of the prompt's first token."""
        self.step = np.zeros(count, np.int64)  # (places,)
        """Tokens generated so far."""
        self.logprob = np.zeros(count)  # (places,) sum so far, in nats
        self.token_ids = np.zeros((count, max_new_tokens), np.int64)  # (places, max_new_tokens)
        self.uniforms = np.zeros((count, max_new_tokens))  # (places, max_new_tokens) in [0, 1)

    def fill(self, place: int, row: int, start: int, uniforms: npt.NDArray[np.float64] | None) -> None:
        """Begin a row in a free place.

        Args:
            place: the place in the batch.
            row: index of the row's prompt.
            start: cache column of the prompt's first token.
            uniforms: (max_new_tokens,) the row's random numbers; None for greedy decoding, which draws none.
        """
        self.row[place], self.start[place] = row, start
        self.step[place], self.logprob[place] = 0, 0.0
        if uniforms is not None:
            self.uniforms[place] = uniforms

    def move(self, holes: npt.NDArray[np.int64], movers: npt.NDArray[np.int64]) -> None:
        """Copy the state of the places `movers` to the places `holes`."""
        for array in (self.row, self.start, self.step, self.logprob, self.token_ids, self.uniforms):
            array[holes] = array[movers]


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    end_ids: Sequence[int],
    batch_size: int,
    ends: Callable[[list[int]], bool] | None = None,
) -> list[Decoded]:
    """Generate after each prompt and return the results in the order of the prompts.

    Args:
        model: a causal LM of transformers, in evaluation mode.
        prompts: token ids of each prompt, at least one each.
        seeds: one seed per prompt, in [0, 2**63).
        settings: how to draw tokens.
        end_ids: token ids that end a row.
        batch_size: largest number of rows in a forward pass.
        ends: whether the tokens of a row end it by what they say; None: none do.

    Raises:
        UserError: for a row whose log-probabilities are NaN or infinite.
    """
    import torch

    if not prompts:
        return []
    with torch.inference_mode():
        return Decoder(model, prompts, seeds, settings, end_ids, batch_size, ends).run()


class Decoder:
    """One call of `decode`: its inputs, the queue of waiting rows, and the batch of live rows."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingSettings,
        end_ids: Sequence[int],
        batch_size: int,
        ends: Callable[[list[int]], bool] | None = None,
    ) -> None:
        import torch

        from builders.engines.kv_cache import WindowCache

        self.prompts, self.seeds, self.settings = prompts, seeds, settings
        self.forward = Forward(model)
        self.end_ids = np.array(end_ids, np.int64)
        self.ends = ends
        self.done: dict[int, Decoded] = {}
        # Rows are taken from the end: longest prompt first, equal prompts side by side. So a prompt that joins is never
        # longer than those before it, and there are always enough columns left of the cursor.
        self.queue = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row], -row))
        longest = len(prompts[self.queue[-1]])
        self.count = min(batch_size, len(prompts))
        self.places = Places(self.count, settings.max_new_tokens)
        self.cache = WindowCache(self.count, longest + min(settings.max_new_tokens, FIRST_COLUMNS))
        # Prompts are left-padded: each ends in the column before the cursor.
        self.cache.window.cursor = longest
        # (places,) each row's newest token, drawn but not yet run through the model.
        self.pending = torch.zeros(self.count, dtype=torch.long, device=self.forward.device)
        # (places, vocabulary) the tokens that each row has, made at the first draw where there is a penalty on them.
        self.seen: torch.Tensor | None = None

    def run(self) -> list[Decoded]:
        """Decode all rows and return their results in the order of the prompts."""
        window = self.cache.window
        while self.queue or window.live:
            free = self.count - window.live
            # Rows join in groups, which keeps prefill passes few; up to a quarter of the places stand idle for that.
            if self.queue and (4 * free >= self.count or free >= len(self.queue)):
                self.join(self.next_group(free))
            else:
                self.advance()
        return [self.done[row] for row in range(len(self.prompts))]

    def next_group(self, free: int) -> list[int]:
        """Take up to `free` rows from the queue, as far as their distinct prompts fit one prefill pass."""
        longest = len(self.prompts[self.queue[-1]])
        # The pass is padded to its longest prompt; one prompt is taken however long it is.
        distinct = max(1, PREFILL_TOKENS // longest)
        group: list[int] = []
        prompts: set[tuple[int, ...]] = set()
        while self.queue and len(group) < free:
            prompt = tuple(self.prompts[self.queue[-1]])
            if prompt not in prompts and len(prompts) == distinct:
                break
            prompts.add(prompt)
            group.append(self.queue.pop())
        return group

    def join(self, group: list[int]) -> None:
        """Prefill the group's distinct prompts, add its rows to the batch and draw their first tokens."""
        import torch

        window = self.cache.window
        first = window.live
        index: dict[tuple[int, ...], int] = {}
        # source[i]: which of the distinct prompts row i of the group has.
        source = [index.setdefault(tuple(self.prompts[row]), len(index)) for row in group]
        logits, prefilled = self.forward.prefill(list(index))  # (distinct prompts, vocabulary)
        if not first:
            # No live row uses a column: begin at the left edge again.
            window.low, window.cursor = 0, len(self.prompts[group[0]])
        self.cache.insert(prefilled, source)
        for place, row in enumerate(group, start=first):
            uniforms = None
            if self.settings.temperature > 0:
                uniforms = row_uniforms(self.seeds[row], self.settings.max_new_tokens)
            self.places.fill(place, row, window.cursor - len(self.prompts[row]), uniforms)
        if self.settings.presence_penalty:
            if self.seen is None:
                self.seen = torch.zeros(self.count, logits.shape[-1], dtype=torch.bool, device=logits.device)
            self.seen[first : window.live] = False
        self.accept(first, logits[torch.tensor(source, device=logits.device)])

    def advance(self) -> None:
        """Run the live rows' newest tokens through the model and draw the next ones."""
        self.make_room()
        window = self.cache.window
        # Columns to the left of every live row's prompt are left out of the pass.
        window.low = int(self.places.start[: window.live].min())
        logits = self.forward.step(self.pending[: window.live], self.places.start[: window.live], self.cache)
        window.cursor += 1
        self.accept(0, logits)

    def make_room(self) -> None:
        """Make sure that the cursor's column exists: shift the used columns to the left, or grow the cache."""
        window = self.cache.window
        if window.cursor < window.columns:
            return
        distance = int(self.places.start[: window.live].min())
        # Both ways copy all used columns; a shift pays where it frees at least a quarter of the columns.
        if 4 * distance >= window.columns:
            window.low = distance
            self.cache.shift(distance)
            self.places.start -= distance
        else:
            # Growing by half keeps the number of reallocations logarithmic in the length of the rows.
            columns = window.columns + max(FIRST_COLUMNS, window.columns // 2)
            if not self.queue:
                # Nothing will join any more: the row that joined last needs the most columns.
                steps_left = self.settings.max_new_tokens - int(self.places.step[: window.live].min())
                columns = min(columns, window.cursor + steps_left)
            self.cache.grow(columns)

    def accept(self, first: int, logits: "torch.Tensor") -> None:
        """Draw and record one token per place, and let finished rows leave.

        Args:
            first: the first place to draw for; all live places from there on are drawn.
            logits: (live − first, vocabulary) logits of these places.
        """
        import torch

        places, live = self.places, self.cache.window.live
        at = np.arange(first, live)  # (drawn,) the places drawn for
        uniforms = None
        if self.settings.temperature > 0:
            uniforms = torch.from_numpy(places.uniforms[at, places.step[at]]).to(logits.device)  # (drawn,)
        seen = None if self.seen is None else self.seen[first:live]
        drawn, drawn_logprobs = choose(logits, uniforms, self.settings, seen)
        self.pending[first:live] = drawn
        if seen is not None:
            seen.scatter_(1, drawn[:, None], True)
        tokens, logprobs = drawn.cpu().numpy(), drawn_logprobs.cpu().numpy()
        if not np.isfinite(logprobs).all():
            # The first such row in the order of the prompts, so that the message does not depend on the batch.
            raise not_finite(int(places.row[at[~np.isfinite(logprobs)]].min()))
        places.token_ids[at, places.step[at]] = tokens
        places.logprob[at] += logprobs
        places.step[at] += 1
        ended = np.isin(tokens, self.end_ids) | self.stopped(at)
        finished = ended | (places.step[at] == self.settings.max_new_tokens)
        if finished.any():
            for place, stopped in zip(at[finished], ended[finished], strict=True):
                self.record(int(place), bool(stopped))
            self.leave(at[finished])

    def stopped(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the places (drawn,) hold a text that ends their row."""
        if self.ends is None:
            return np.zeros(len(at), bool)
        rows = (self.places.token_ids[place, : self.places.step[place]].tolist() for place in at)
        return np.array([self.ends(ids) for ids in rows], bool)

    def record(self, place: int, stopped: bool) -> None:
        """Keep the result of a finished row."""
        places = self.places
        ids: list[int] = places.token_ids[place, : places.step[place]].tolist()
        self.done[int(places.row[place])] = Decoded(ids, float(places.logprob[place]), "stop" if stopped else "length")

    def leave(self, finished: npt.NDArray[np.int64]) -> None:
        """Free the places of finished rows; the last live rows move into the gaps before them."""
        import torch

        live = self.cache.window.live
        left = live - len(finished)
        holes = finished[finished < left]  # gaps among the places that stay in use
        movers = np.setdiff1d(np.arange(left, live), finished, assume_unique=True)  # live rows beyond, as many as gaps
        self.places.move(holes, movers)
        self.pending[torch.from_numpy(holes)] = self.pending[torch.from_numpy(movers)]
        if self.seen is not None:
            self.seen[torch.from_numpy(holes)] = self.seen[torch.from_numpy(movers)]
        self.cache.move(holes, movers, left)
