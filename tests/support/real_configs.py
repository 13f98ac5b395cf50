"""Configurations of the tiny preset that use a test's own models and files instead of the generated world."""

import json
from collections.abc import Sequence
from pathlib import Path

from builders.grace_kto.settings import GraceKTOSettings
from training.pipelines import load_config

SEEDS = tuple(f"Please write a report on harbour {n}." for n in range(6))


def config_on(
    folder: Path, *overrides: str, policy: Path | None = None, relevance: Path | None = None, domain: Path | None = None
) -> GraceKTOSettings:
    """A configuration with its store and its seeds in `folder`; `policy` also serves as base and general model."""
    lines = [json.dumps({"query": seed}) + "\n" for seed in SEEDS]
    source = write_lines(folder / "seeds.jsonl", lines)
    models = {"policy": policy, "base": policy, "general": policy, "domain": domain or policy, "relevance": relevance}
    config: GraceKTOSettings = load_config(
        "tiny",
        [
            f"seed.source={source}",
            f"evaluate.source={source}",
            "seed.columns={query: query}",
            "calibrate.coefficients={diversity: 1, length: 1}",  # the method's own, as in calibrate_frame
            *(f"models.{role}={path}" for role, path in models.items() if path is not None),
            *overrides,
        ],
        str(folder / "store"),
    )
    return config


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Write a file once; a later call with the same path keeps it."""
    if not path.exists():
        path.write_text("".join(lines), encoding="utf-8")
    return path
