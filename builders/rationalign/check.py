"""What `grace verify` looks at in RationAlign's datasets, beyond their files.

A source is in one fold, edits lead from source to target and each has a reason, a winner's metric is above the loser's,
and a chosen response has a higher reward than the rejected one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from builders.store.check import Finding, listed
from builders.store.manifest import Manifest
from scorers.edits import edits_between
from scorers.rationale import covered
from scorers.suggestion import has_tag, read_answer


def check_pairs(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List sources that are in several folds, and pairs that stand there twice; see `listed`."""
    return listed(files, sound, ("pair_id", "source", "fold"), _pairs)


def check_rationales(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List pairs whose edits are not those from source to target, or have no reason; see `listed`."""
    return listed(files, sound, ("pair_id", "source", "target", "edits", "rationale"), _rationales)


def check_contests(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List contests that the loser should have won; see `listed`."""
    names = ("pair_id", "samples", "metrics", "winner", "loser", "metric_winner", "metric_loser")
    return listed(files, sound, names, _contests)


def check_candidates(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List responses whose suggestion or reasons are not what they hold; see `listed`."""
    return listed(files, sound, ("response_id", "response", "suggestion", "rationale"), _candidates)


def check_preferences(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """List pairs whose rewards are the wrong way round, or whose responses are not their suggestions; see `listed`."""
    names = ("text_id", "suggestion_chosen", "suggestion_rejected", "reward_chosen", "reward_rejected", "chosen")
    return listed(files, sound, (*names, "rejected"), _preferences)


def _pairs(rows: pl.DataFrame) -> Iterator[Finding]:
    folds = rows.group_by("source", maintain_order=True).agg(pl.col("fold").n_unique(), pl.col("pair_id").first())
    for row in folds.filter(pl.col("fold") > 1).iter_rows(named=True):
        yield Finding(row["pair_id"], "fold", f"{row['fold']} folds", "one fold for equal sources")
    for identity in rows.filter(pl.col("pair_id").is_duplicated())["pair_id"].unique(maintain_order=True):
        yield Finding(identity, "pair_id", "several rows", "one row")


def _rationales(rows: pl.DataFrame) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        edits = edits_between(row["source"], row["target"])
        if row["edits"] != [
            {"start": e.start, "end": e.end, "source": list(e.source), "target": list(e.target)} for e in edits
        ]:
            yield Finding(row["pair_id"], "edits", f"{len(row['edits'])} edits", f"{len(edits)} from source to target")
        elif not all(covered(edits, row["rationale"].splitlines())):
            yield Finding(row["pair_id"], "rationale", row["rationale"][:80], "a reason for each edit")
        elif has_tag(row["rationale"]) or has_tag(row["target"]):
            yield Finding(row["pair_id"], "rationale", row["rationale"][:80], "no tag of the answers' form")


def _contests(rows: pl.DataFrame) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        if len(row["samples"]) != len(row["metrics"]):
            yield Finding(row["pair_id"], "metrics", f"{len(row['metrics'])}", f"one for {len(row['samples'])} samples")
            continue
        known = dict(zip(row["samples"], row["metrics"], strict=True))
        found = known.get(row["winner"]), known.get(row["loser"])
        if found != (row["metric_winner"], row["metric_loser"]) or row["metric_winner"] <= row["metric_loser"]:
            yield Finding(row["pair_id"], "winner", f"{row['metric_winner']}", f"above {row['metric_loser']}")


def _candidates(rows: pl.DataFrame) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        found = read_answer(row["response"])
        if (found and found.suggestion, found and found.rationale) != (row["suggestion"], row["rationale"]):
            yield Finding(row["response_id"], "suggestion", str(row["suggestion"])[:80], "what the response holds")


def _preferences(rows: pl.DataFrame) -> Iterator[Finding]:
    for row in rows.iter_rows(named=True):
        if row["reward_chosen"] <= row["reward_rejected"]:
            yield Finding(row["text_id"], "reward_chosen", str(row["reward_chosen"]), f"above {row['reward_rejected']}")
        for name in ("chosen", "rejected"):
            found = read_answer(row[name][0]["content"]) if row[name] else None
            if found is None or found.suggestion != row[f"suggestion_{name}"]:
                yield Finding(row["text_id"], name, "another suggestion", f"suggestion_{name}")
