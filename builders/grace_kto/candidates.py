"""The queries that a policy wrote, in the order of its prompts, and which of them are new.

Ids and signatures are held in memory, 24 and 512 bytes a query; the texts of one part (`parts.py`) at a time.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from builders.core.near_duplicates import Signatures, near_duplicates, signatures_of
from builders.store.revision import Revision

_PLACES = pl.Schema({"query_id": pl.String, "part": pl.Int32, "row": pl.UInt32})


class Candidates:
    """Sorts out the queries that a policy wrote.

    A query is dropped where it equals a seed, a query of an earlier round or one before it, or is a near-duplicate of a
    seed, of an earlier round's query or of one before it that is kept.

    Attributes:
        kept: the queries left, in order: `query_id`, number of the part that holds it, row in that part.
        counts: prompts read, what their replies are counted for, and the queries dropped here by reason.
    """

    def __init__(self, known: Iterable[Revision], threshold: float | None) -> None:
        """Read what must not come again.

        Args:
            known: the seeds and the queries of all earlier rounds.
            threshold: similarity from which a query counts as a near-duplicate; None: only equal ones are dropped.
        """
        known = list(known)
        files = [file for revision in known for file in revision.data_files()]
        self.known = pl.concat([revision.scan().select("query_id") for revision in known]).unique().collect()
        self.threshold = threshold
        # The signatures of what is known stand before those of the new queries.
        self.signatures = _signatures(pl.read_parquet(file, columns=["query"]) for file in files if threshold)
        self.fixed = len(self.signatures)
        self.new = pl.DataFrame(schema=_PLACES)
        self.kept = self.new
        self.counts: Counter[str] = Counter()
        self.files: list[Path] = []  # of the parts, by their number

    def add(self, files: Sequence[Path], prompts: range) -> None:
        """Add the replies to further prompts, which follow all earlier ones.

        Args:
            files: the parts that hold them, in order; they may hold the replies to other prompts too.
            prompts: numbers of the prompts.
        """
        numbers = range(len(self.files), len(self.files) + len(files))
        self.files += files
        found = pl.concat(_findings(file, part, prompts) for part, file in zip(numbers, files, strict=True))
        self.counts["read"] += len(prompts)
        self.counts.update(found["counted"].drop_nulls())
        queries = found.filter(pl.col("counted").is_null()).select(_PLACES.names())
        first = queries.filter(pl.col("query_id").is_first_distinct())
        new = first.join(self.known, on="query_id", how="anti", maintain_order="left")
        self.counts["dropped.duplicate"] += queries.height - new.height
        self.known = pl.concat([self.known, new.select("query_id")])
        self.new = pl.concat([self.new, new])
        self.kept = self.new
        if self.threshold is not None:
            rows = (new.filter(pl.col("part") == part)["row"] for part in numbers)
            texts = (pl.read_parquet(file, columns=["query"])[of] for file, of in zip(files, rows, strict=True))
            self.signatures = np.concatenate([self.signatures, _signatures(texts)])
            alike = near_duplicates(self.signatures, self.threshold, fixed=self.fixed)[self.fixed :]
            self.kept = self.new.filter(~alike)
            self.counts["dropped.near-duplicate"] = int(alike.sum())

    def places(self, start: int, size: int) -> list[tuple[str, list[int]]]:
        """Return where a range of the kept queries lies: files of parts and rows in them, in order."""
        grouped = self.kept.slice(start, size).group_by("part", maintain_order=True).agg("row")
        return [(str(self.files[part]), rows) for part, rows in grouped.iter_rows()]


def _findings(file: Path, part: int, prompts: range) -> pl.DataFrame:
    """Return what a part holds of the replies to some prompts: ids, where they lie, and what counts for what."""
    found = pl.read_parquet(file, columns=["prompt", "counted", "query_id"])
    return found.select(
        "query_id",
        "counted",
        "prompt",
        pl.lit(part, pl.Int32).alias("part"),
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"),
    ).filter(pl.col("prompt").is_between(prompts.start, prompts.stop, closed="left"))


def _signatures(frames: Iterable[pl.DataFrame]) -> Signatures:
    """Return the signatures of the texts in the column `query` of frames, in order."""
    found = [signatures_of(frame["query"]) for frame in frames]
    return np.concatenate(found) if found else signatures_of([])
