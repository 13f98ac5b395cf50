"""Dataset and model cards: README.md, rendered from the manifest and never parsed back.

The body comes from the template of the stage in dataset_cards/, the front matter from `card_metadata`. Every value is
the manifest's, but for the types in the contract and one real row. Equal manifests give equal bytes.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

import builders
from builders.cards.front_matter import dataset_card_data, model_card_data, pretty_name, type_name
from builders.cards.markdown import Markdown, is_public, reference, row_json, yaml_text
from builders.cards import markdown as card_text
from builders.core.stage import Stage
from builders.store.manifest import Manifest, Model, portable
from builders.store.store import Store, round_tag, write_text
from scorers.errors import UserError
from training.pipelines import GRACE_KTO, stage_named

TEMPLATES = Path(builders.__file__).parent.parent / "dataset_cards"
FIGURE = "weights.png"
SNIPPET_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # the model in the training snippet, for the reader to replace
MODEL_STAGES = ("sft", "train")


def render_dataset_card(
    manifest: Manifest,
    folder: Path,
    *,
    published: bool = False,
    license: str = "apache-2.0",
    languages: Sequence[str] = (),
) -> str:
    """The README.md of a dataset revision.

    Args:
        manifest: the revision's manifest, of one of the pipeline's stages.
        folder: the snapshot folder with the data files; `weights.png` is shown where it is there.
        published: whether this revision and its parents are on the Hub, and so links to them lead somewhere.
        license: licence id of the dataset; one the Hub does not know is given as `other` with this name.
        languages: language codes of the text, see `languages_of`; where empty, the language column's.
    """
    from huggingface_hub import DatasetCard

    manifest = canonical(manifest)
    stage = stage_named(manifest.stage)
    data = dataset_card_data(
        manifest,
        folder,
        stage,
        published=published,
        license_=license,
        languages=languages or own_languages(manifest, folder),
    )
    values = {
        **_common(manifest, published, license),
        "columns": [(column, type_name(column.dtype)) for column in stage.columns],
        "metrics": [(c.name, manifest.metrics[c.name]) for c in stage.columns if c.name in manifest.metrics],
        "next_stage": next((following.name for following in GRACE_KTO if following.parent == stage.name), None),
        "example": example_row(manifest, folder),
        "figure": FIGURE if (folder / FIGURE).is_file() else None,
        "reproduce": build_command(manifest, stage),
        "recipe": reproduction_config(manifest, stage.dataset),
        "source_name": str(portable(manifest.configuration).get("seed", {}).get("source", "")),
        "lambdas": class_weights(manifest),
        "snippet_model": SNIPPET_MODEL,
    }
    body = environment().get_template(f"{stage.name}.md.jinja").render(values)
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def render_model_card(
    manifest: Manifest,
    folder: Path,
    *,
    published: bool = False,
    license: str = "apache-2.0",
    languages: Sequence[str] = (),
) -> str:
    """The README.md of a model or adapter revision (stages `sft` and `train`); arguments as for a dataset's."""
    from huggingface_hub import ModelCard

    manifest = canonical(manifest)
    adapter = (folder / "adapter_config.json").is_file()
    data = model_card_data(manifest, adapter=adapter, published=published, license_=license, languages=languages)
    base = manifest.models.get("base")
    values = {
        **_common(manifest, published, license),
        "adapter": adapter,
        "base": base if base and is_public(base.id, base.revision, manifest.repo, published=published) else None,
        "reproduce": train_command(manifest),
        "recipe": reproduction_config(manifest, "sft" if manifest.stage == "sft" else "policy"),
        "results": sorted(manifest.results.items()),
    }
    body = environment().get_template("model.md.jinja").render(values)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def write_card(
    manifest: Manifest, folder: Path, store: Store, *, published: bool = False, license: str = "apache-2.0"
) -> None:
    """Write README.md into a snapshot folder of either kind, and for weights the histogram beside it."""
    if manifest.stage == "calibrate":
        write_weight_histogram(folder)
    render = render_model_card if manifest.kind == "model" else render_dataset_card
    languages = languages_of(manifest, folder, store)
    text = render(manifest, folder, published=published, license=license, languages=languages)
    write_text(folder / "README.md", text)


def environment() -> ImmutableSandboxedEnvironment:
    """Templates in a sandbox; an unknown value is an error, and every text is escaped unless it is Markdown already."""
    made = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=card_text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "code": card_text.code,
        "fence": card_text.fence,
        "literal": card_text.literal,
        "plain": Markdown,
        "yaml": yaml_text,
        "json_row": row_json,
        "thousands": lambda value: Markdown(card_text.number(value)),
    }
    made.globals["share"] = card_text.share
    return made


def canonical(manifest: Manifest) -> Manifest:
    """The manifest as it reads back from its file, so that the order in which it was put together does not matter."""
    return Manifest.model_validate_json(manifest.to_json())


def _common(manifest: Manifest, published: bool, license_: str) -> dict[str, Any]:
    """What the cards of datasets and models have in common."""

    def is_there(repo: str, revision: str) -> bool:
        return is_public(repo, revision, manifest.repo, published=published)

    models = [
        (role, reference(model.id, model.revision, public=is_there(model.id, model.revision), kind="model"))
        for role, model in manifest.models.items()
    ]
    parents = [
        (
            parent,
            reference(
                parent.repo,
                parent.revision,
                public=is_there(parent.repo, parent.revision),
                kind="model" if parent.stage in MODEL_STAGES else "dataset",
            ),
        )
        for parent in manifest.parents
    ]
    return {
        "manifest": manifest,
        "title": pretty_name(manifest),
        "tag": round_tag(manifest.round),
        "published": published,
        "license": license_,
        "models": models,
        "parents": parents,
        "settings": list(flatten(portable(manifest.configuration))),
    }


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (section.key, value) pairs; values other than text as JSON."""
    pairs = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            pairs += flatten(item, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)))
    return pairs


def class_weights(manifest: Manifest) -> tuple[float, float] | None:
    """Rows / (2 · rows of the class) for positive and negative rows; None where a class is empty or not counted."""
    positive, negative = (manifest.counts.get(name, 0) for name in ("positive", "negative"))
    if not positive or not negative:
        return None
    rows = positive + negative
    return rows / (2 * positive), rows / (2 * negative)


def example_row(manifest: Manifest, folder: Path) -> dict[str, Any] | None:
    """The first row of the first data file, or its first matched row if it has one; None for no rows."""
    for file in manifest.files:
        if not file.rows:
            continue
        scan = pl.scan_parquet(folder / file.path, glob=False)
        matched = scan.filter("matched") if "matched" in scan.collect_schema().names() else scan
        for rows in (matched, scan):
            found = rows.head(1).collect().to_dicts()
            if found:
                return found[0]
    return None


def own_languages(manifest: Manifest, folder: Path) -> list[str]:
    """The values of the language column, each once; none where there is no such column."""
    files = [folder / file.path for file in manifest.files if file.rows is not None]
    if not files or "language" not in pl.scan_parquet(files, glob=False).collect_schema().names():
        return []
    values = pl.scan_parquet(files, glob=False).select(pl.col("language").unique()).collect()["language"]
    return sorted(values.drop_nulls())


def languages_of(manifest: Manifest, folder: Path, store: Store) -> list[str]:
    """The languages of a revision's text: its language column's, else those of the nearest ancestor that has one."""
    found = own_languages(manifest, folder)
    for parent in manifest.parents:
        if found:
            return found
        try:
            revision = store.find(parent.repo, parent.revision)
        except UserError:  # a parent given as a path has no repository's name
            continue
        if revision is not None and revision.manifest is not None:
            found = languages_of(revision.manifest, revision.path, store)
    return found


def build_command(manifest: Manifest, stage: Stage) -> str:
    """The command that builds this revision again from its pinned parent."""
    parent = next((p for p in manifest.parents if p.stage == stage.parent), None)
    start = f" --from {parent.repo}@{parent.revision}" if parent else ""
    round_ = f" --round {manifest.round}" if manifest.round else ""
    return f"build --stage {stage.name}{round_}{start} --config grace.yaml"


def train_command(manifest: Manifest) -> str:
    """The command that trains this revision again from its pinned dataset."""
    if manifest.stage == "sft":
        return "train --sft --config grace.yaml"
    parent = next((p for p in manifest.parents if p.stage == "calibrate"), None)
    data = f" --dataset {parent.repo} --revision {parent.revision}" if parent else ""
    return f"train{data} --round {manifest.round} --config grace.yaml"


def reproduction_config(manifest: Manifest, suffix: str) -> str:
    """A configuration file that holds everything that decides this revision, as YAML.

    What the stage does not read comes from the preset `tiny`, which every installation has.
    """
    namespace, _, name = manifest.repo.rpartition("/")
    names = {role: _named(model) for role, model in manifest.models.items()}
    models = {role: names[role] for role in ("base", "general", "domain", "relevance") if role in names}
    policy = names.get("policy") or names.get("tokenizer")
    sections = portable(manifest.configuration)
    if manifest.stage == "calibrate":  # its messages begin with the system prompt that the responses were sampled with
        sections["sample"] = {"system_prompt": next(iter(manifest.prompts), None)}
    value: dict[str, Any] = {"preset": "tiny", "name": name.removesuffix(f"-{suffix}") or name}
    if namespace not in ("", "local"):
        value["namespace"] = namespace
    value["random_seed"] = manifest.random_seed
    used = [*names.values(), str(sections.get("seed", {}).get("source", ""))]
    if not any(text.startswith("world:") for text in used):
        value["world"] = None
    if models or policy:
        value["models"] = models | ({"policy": policy} if policy else {})
    return yaml_text(value | sections)


def _named(model: Model) -> str:
    """A model as the configuration names it; one that came from a folder has no commit to pin."""
    return f"{model.id}@{model.revision}" if len(model.revision) == 40 else model.id


def write_weight_histogram(folder: Path) -> Path | None:
    """Draw the weights' histogram by label as `weights.png`; None where no row has a weight.

    Rows without a reward (weight −1 by rule) are drawn apart. Equal weights give equal bytes.
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
    path = folder / FIGURE
    path.write_bytes(_histogram({f"{name} ({len(v):,})": v for name, v in series.items() if v}))
    return path


def _histogram(series: Mapping[str, Sequence[float]]) -> bytes:
    """A stacked histogram over whole half-unit bins, at most 80 of them, as PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    low, high = min(map(min, series.values())), max(map(max, series.values()))
    width = max(0.1, math.ceil((high - low) / 60 * 10) / 10)
    first, last = math.floor(low / width), math.floor(high / width) + 1
    edges = [width * step for step in range(first, last + 1)]
    colours = {"positive": "#1b7f5c", "negative": "#c2512f", "not scored": "#8a8f98"}
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure(figsize=(7, 3), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.hist(
            list(series.values()),
            bins=edges,
            stacked=True,
            label=list(series),
            color=[colours[name.partition(" (")[0]] for name in series],
        )
        axes.axvline(0, color="#30343b", linewidth=0.8)
        axes.set(xlabel="weight W", ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
