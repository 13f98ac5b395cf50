"""What the cards of GRACE-KTO show beyond what every card shows: facts, configuration, histogram of weights."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.recipes import models_and_world, source_at_commit
from builders.grace_kto.messages import SYSTEM_BY_LANGUAGE
from builders.store.manifest import Manifest, portable
from scorers.class_weights import class_weights

SNIPPET_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # the model in the training snippet, for the reader to replace
READS = {"seed": ("seed", "source"), "answers": ("evaluate", "source"), "comparisons": ("evaluate", "other")}
"""By stage, the setting that names the dataset from outside which it reads."""
COLOURS = {"positive": "#1b7f5c", "negative": "#c2512f", "not scored": "#8a8f98"}


def facts(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Return further values for the templates.

    These are the name of the seed source, the class weights λ± for stock TRL's loss (None where a label is absent), and
    the model named in the training snippet.
    """
    positive, negative = (manifest.counts.get(name, 0) for name in ("positive", "negative"))
    return {
        "source_name": str(portable(manifest.configuration).get("seed", {}).get("source", "")),
        "lambdas": class_weights(positive, negative) if positive and negative else None,
        "snippet_model": SNIPPET_MODEL,
    }


def recipe(manifest: Manifest, value: dict[str, Any]) -> dict[str, Any]:
    """Complete the configuration that reproduces a revision.

    Args:
        manifest: the revision's manifest.
        value: the configuration so far, without models.

    Returns:
        `value` with the models by role, the seed of the generated world where they come from it, and the setting of the
        system prompt where the dataset's messages begin with one.
    """
    names, world = models_and_world(manifest)
    value |= world
    models = {
        role: names[role]
        for role in ("base", "general", "domain", "relevance", "teacher", "criteria", "judge", "evaluated")
        if role in names
    }
    # The setting names the policy of the first round: training has it as its base, and in the role `policy` that of the
    # round before, which is found by its round. The scores' metrics are counted with the policy's tokenizer.
    policy = (names.get("base") if manifest.stage == "policy" else names.get("policy")) or names.get("tokenizer")
    if models or policy:
        value["models"] = models | ({"policy": policy} if policy else {})
    if (source := source_at_commit(manifest)) is not None:
        section, name = READS.get(manifest.stage, READS["seed"])
        value.setdefault(section, {})[name] = source
    if manifest.stage in ("sft", "calibrate"):
        # One prompt for all queries, or one for each language.
        system = SYSTEM_BY_LANGUAGE if len(manifest.prompts) > 1 else next(iter(manifest.prompts), None)
        value["sample"] = {"system_prompt": system}
    return value


def weight_histogram(folder: Path) -> bytes | None:
    """Draw the weights' histogram by label as PNG; None where the dataset has no weights.

    Unscored rows (weight −1 by rule) are a series of their own. Equal weights give equal bytes.
    """
    files = sorted((folder / "data").glob("*.parquet"))
    names = ("weight", "label", "reward")
    if not files or not set(names) <= set(pl.scan_parquet(files, glob=False).collect_schema().names()):
        return None
    rows = pl.scan_parquet(files, glob=False).select(names).collect()
    if rows.is_empty():
        return None
    scored = pl.col("reward").is_not_null()
    series = {
        "positive": rows.filter(scored & pl.col("label"))["weight"].to_list(),
        "negative": rows.filter(scored & ~pl.col("label"))["weight"].to_list(),
        "not scored": rows.filter(~scored)["weight"].to_list(),
    }
    return _histogram({f"{name} ({len(v):,})": v for name, v in series.items() if v})


def _histogram(series: Mapping[str, Sequence[float]]) -> bytes:
    """Draw a stacked histogram of about 60 bins at most, whose edges are multiples of their width, as PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    low, high = min(map(min, series.values())), max(map(max, series.values()))
    # A whole number of tenths; a bin edge falls on 0, where the label changes.
    width = max(0.1, math.ceil((high - low) / 60 * 10) / 10)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    edges = [width * step for step in range(first, last + 1)]
    # Equal weights must give equal bytes: a user's matplotlibrc has no say.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure(figsize=(7, 3), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)  # without pyplot: no display is needed and no global figure is left
        axes = figure.add_subplot()
        axes.hist(
            list(series.values()),
            bins=edges,
            stacked=True,
            label=list(series),
            color=[COLOURS[name.partition(" (")[0]] for name in series],
        )
        axes.axvline(0, color="#30343b", linewidth=0.8)
        axes.set(xlabel="weight W", ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})  # no version of matplotlib in the file
    return image.getvalue()
