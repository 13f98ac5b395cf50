"""Snapshot folders and manifests of every stage, made without a build, and helpers that read their cards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from builders.cards.render import render_card
from builders.settings.base import executions, identities, identity
from builders.store.columns import Column, frame_of
from builders.store.manifest import DataFile, Manifest, Model, Parent, Rows, content_digest, describe_files
from builders.store.shards import write_shard
from builders.store.summary import summarise
from scorers.criteria import FIELDS
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import load_config, page_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32
MARKDOWN = MarkdownIt("commonmark").enable("table").enable("strikethrough")
MODELS = {
    "generate": {"policy": Model(id="local/demo-sft", revision=COMMIT)},
    "sample": {"policy": Model(id="local/demo-sft", revision=COMMIT)},
    "score": {
        "tokenizer": Model(id="local/demo-sft", revision=COMMIT),
        "general": Model(id="Qwen/Qwen2.5-0.5B", revision=COMMIT),
        "domain": Model(id="world:domain", revision=DIGEST),
        "relevance": Model(id="bge|<b>", revision=DIGEST),
    },
}


def cell(column: Column, index: int, text: str) -> Any:
    """A value of a column's type; every third row is unmatched."""
    unmatched = index % 3 == 2
    if column.name == "matched":
        return not unmatched
    if column.name == "label":
        return index % 2 == 0
    if column.name == "language":
        return ("en", "zh-CN")[index % 2]
    if column.nullable and unmatched:
        return None
    if column.name in ("prompt", "completion"):
        return [{"role": "user", "content": text}]
    if column.name == "example_ids":
        return ["a", "b"] * index
    if column.name == "criteria":
        return [dict.fromkeys(FIELDS, text)]
    if column.dtype.is_integer():
        return index + 1
    return float(index) - 2.5 if column.dtype.is_float() else f"{text} {index}"


def snapshot(
    folder: Path, stage_name: str, *, repo: str | None = None, text: str = "Write a report.", **changes: Any
) -> Manifest:
    """A snapshot folder of two shards of a stage, and its manifest."""
    stage = GRACE_KTO.stage(stage_name)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    counts = {}
    for shard, rows in enumerate((5, 4)):
        name = f"data/train-{shard:05d}-of-00002.parquet"
        frame = frame_of([{c.name: cell(c, i, text) for c in stage.columns} for i in range(rows)], stage.columns)
        write_shard(frame, stage.columns, folder / name, {"read": rows})
        (folder / name).with_suffix(".sha256").unlink()  # a build leaves it behind in its work folder
        counts[name] = rows
    files = describe_files(folder, [folder / name for name in counts], counts)
    config = load_config("tiny")
    fields: dict[str, Any] = {
        "stage": stage_name,
        "stage_version": 1,
        "code_version": "0.1.0",
        "repo": repo or f"local/demo-{stage.suffix}",
        "round": 1 if stage.per_round else 0,
        "fingerprint": DIGEST,
        "random_seed": 7,
        "pipeline": "grace-kto",
        "configuration": identities(config, stage.sections),
        "execution": executions(config, stage.sections),
        "prompts": {"system.en": f"Write. {text}"} if stage_name in ("generate", "sample", "calibrate") else {},
        "parents": parents_of(stage.parents),
        "models": MODELS.get(stage_name, {}),
        "rows": Rows(read=10, written=9, dropped={"blank": 1}),
        "counts": {"positive": 5, "negative": 4, "unscored": 2} if stage_name == "calibrate" else {"matched": 6},
        "metrics": summarise([folder / name for name in counts], stage.summaries),
        "files": files,
        "digest": content_digest(files),
    }
    return Manifest(**{**fields, **changes})


def parents_of(stages: Sequence[str]) -> list[Parent]:
    found = [GRACE_KTO.stage(name) for name in stages]
    return [
        Parent(stage=s.name, kind=s.kind, repo=f"local/demo-{s.suffix}", revision=COMMIT, digest=DIGEST) for s in found
    ]


def card_of(manifest: Manifest, folder: Path, **options: Any) -> str:
    """The card of a manifest, as its pipeline gives it."""
    return render_card(manifest, folder, page_of(manifest), **options)


def front_matter(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert isinstance(found, dict)
    return found


def fences(text: str, language: str) -> list[str]:
    return [t.content for t in MARKDOWN.parse(text) if t.type == "fence" and t.info == language]


def model_manifest(stage: str, base: Model, **changes: Any) -> Manifest:
    weights = Parent(stage="calibrate", kind="dataset", repo="somebody/demo-weights", revision=COMMIT, digest=DIGEST)
    fields: dict[str, Any] = {
        "pipeline": "grace-kto",
        "kind": "model",
        "stage": stage,
        "stage_version": 1,
        "code_version": "0.1.0",
        "repo": "somebody/demo-policy",
        "round": 2,
        "fingerprint": DIGEST,
        "random_seed": 7,
        "configuration": {"train": identity(load_config("tiny").train)},
        "parents": [weights],
        "models": {"base": base},
        "rows": Rows(read=32, written=0),
        "results": {"loss": 0.48769, "rewards/chosen": 0.1},
        "files": [DataFile(path="model.safetensors", size=1, sha256=DIGEST)],
        "digest": DIGEST,
    }
    return Manifest(**{**fields, **changes})
