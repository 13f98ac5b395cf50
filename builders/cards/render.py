"""Dataset and model cards: README.md, rendered from the manifest and never parsed back.

The body comes from the template that the stage names in dataset_cards/, the front matter from `front_matter`. All
values come from the manifest, except the types in the contract and one real row. Equal manifests give equal bytes.
"""

import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

import builders
from builders.cards import markdown as card_text
from builders.cards.card import Page
from builders.cards.figures.kinds import TITLES, best_pictures
from builders.cards.front_matter import dataset_card_data, model_card_data, pretty_name, type_name
from builders.cards.markdown import Markdown, is_public, reference, row_json, yaml_text
from builders.store.adapter import adapters_in
from builders.store.columns import present
from builders.store.files import replacing, write_text
from builders.store.manifest import Manifest, Model, Parent, portable
from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError

MOST_FIGURES = 2  # of a card
TEMPLATES = Path(builders.__file__).parent.parent / "dataset_cards"  # in the source tree and in the wheel


def render_card(
    manifest: Manifest,
    folder: Path,
    page: Page,
    *,
    published: bool = False,
    license: str = "apache-2.0",
    languages: Sequence[str] = (),
) -> str:
    """Return the README.md of a dataset or model revision.

    Args:
        manifest: the revision's manifest.
        folder: the snapshot folder; its figures are shown if there are some.
        page: what the stage and its pipeline contribute.
        published: whether this revision and its parents are on the Hub, so that links to them lead somewhere.
        license: licence id; one that the Hub does not know is given as `other` with this name.
        languages: language codes of the text, see `languages_of`; where empty, those of a dataset's own language
            column.
    """
    manifest = canonical(manifest)
    page = replace(page, columns=present(page.columns, _names(manifest, folder)))
    adapter = bool(adapters_in(folder))
    values = _common(manifest, folder, page, published, license)
    data: Any
    if manifest.kind == "dataset":
        spoken = languages or own_languages(manifest, folder)
        data = dataset_card_data(manifest, folder, page, published=published, license_=license, languages=spoken)
        values |= _of_dataset(manifest, folder, page)
    else:
        data = model_card_data(
            manifest, page, adapter=adapter, published=published, license_=license, languages=languages
        )
        base = manifest.models.get("base")
        public = base is not None and is_public(base.id, base.revision, manifest.repo, published=published)
        values |= {"adapter": adapter, "base": base if public else None, "results": sorted(manifest.results.items())}
    if page.card.facts is not None:
        values |= page.card.facts(manifest, folder)
    body = environment().get_template(page.card.template).render(values)
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _of_dataset(manifest: Manifest, folder: Path, page: Page) -> dict[str, Any]:
    """Return the values that only a dataset's card shows."""
    return {
        "columns": [(column, type_name(column.dtype)) for column in page.columns],
        "metrics": [(c.name, manifest.metrics[c.name]) for c in page.columns if c.name in manifest.metrics],
        "following": page.following,
        "read": page.card.read,
        "example": example_row(manifest, folder, page.card.example),
    }


def write_card(
    manifest: Manifest,
    folder: Path,
    page: Page,
    store: Store,
    *,
    published: bool = False,
    license: str = "apache-2.0",
) -> None:
    """Write README.md into a snapshot folder, and beside it the best pictures of what is there, two at most."""
    # The figures first: the card shows them only if the files exist.
    for name, image in best_pictures(Revision(manifest.repo, manifest.revision, folder, manifest), MOST_FIGURES):
        with replacing(folder / f"figure-{name}.png") as file:
            file.write(image)
    languages = languages_of(manifest, folder, store)
    text = render_card(manifest, folder, page, published=published, license=license, languages=languages)
    write_text(folder / "README.md", text)


@functools.cache
def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment of the templates.

    It is a sandbox in which an unknown value is an error and every text is escaped unless it is Markdown already.
    """
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
    """Return the manifest as it reads back from its file, whatever the order in which it was assembled."""
    return Manifest.model_validate_json(manifest.to_json())


def _common(manifest: Manifest, folder: Path, page: Page, published: bool, license_: str) -> dict[str, Any]:
    """Return the values that the cards of datasets and models share."""

    def link(repo: str, revision: str, kind: str) -> Markdown:
        public = is_public(repo, revision, manifest.repo, published=published)
        return reference(repo, revision, public=public, kind=kind)

    return {
        "manifest": manifest,
        "title": pretty_name(manifest),
        "tag": round_tag(manifest.round),
        # What commands and snippets name: a tag on the Hub never moves, one of a store does when its round is built
        # again. The commit on the Hub is not known yet, since the card is part of it.
        "pinned": round_tag(manifest.round) if published else manifest.revision,
        "published": published,
        "license": license_,
        "models": [(role, link(model.id, model.revision, "model")) for role, model in manifest.models.items()],
        "parents": [(parent, link(parent.repo, parent.revision, parent.kind)) for parent in manifest.parents],
        "settings": list(flatten(portable(manifest.configuration))),
        "execution": list(flatten(portable(manifest.execution))),
        "figures": figures_in(folder),
        "reproduce": reproduce_command(manifest, page),
        "recipe": reproduction_config(manifest, page),
    }


def figures_in(folder: Path) -> list[tuple[str, str]]:
    """Return title and file of each picture in a snapshot folder; `figure.png` is the one of earlier versions."""
    named = [(title, f"figure-{name}.png") for name, title in TITLES.items()]
    here = [(title, file) for title, file in named if (folder / file).is_file()]
    before = [(TITLES["weights"], "figure.png")] if (folder / "figure.png").is_file() else []
    return here or before


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (section.key, value) pairs; values other than text are JSON."""
    pairs = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            pairs += flatten(item, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)))
    return pairs


def example_row(manifest: Manifest, folder: Path, condition: str | None = None) -> dict[str, Any] | None:
    """Return a row to show; None for a dataset without rows.

    That is the first row in which the boolean column `condition` is true, else the first one, of the first file with
    rows.
    """
    for file in manifest.files:
        if not file.rows:
            continue
        scan = pl.scan_parquet(folder / file.path, glob=False)
        chosen = scan.filter(condition) if condition in scan.collect_schema().names() else scan
        # No row may meet the condition; then the first row has to do.
        for rows in (chosen, scan):
            found = rows.head(1).collect().to_dicts()
            if found:
                return found[0]
    return None


def _names(manifest: Manifest, folder: Path) -> list[str]:
    """Return the names of a dataset's columns; none of one without files, and of a model."""
    files = [folder / file.path for file in manifest.files if file.rows is not None]
    return pl.scan_parquet(files, glob=False).collect_schema().names() if files else []


def own_languages(manifest: Manifest, folder: Path) -> list[str]:
    """Return the values of the language column, each once, sorted; none without such a column."""
    files = [folder / file.path for file in manifest.files if file.rows is not None]
    if "language" not in _names(manifest, folder):
        return []
    values = pl.scan_parquet(files, glob=False).select(pl.col("language").unique()).collect()["language"]
    return sorted(values.drop_nulls())


def languages_of(manifest: Manifest, folder: Path, store: Store) -> list[str]:
    """Return the languages of a revision's text: its own column's, else those of all datasets it was made from.

    A revision without any of these has those of the models it was made from.
    """
    found = set(own_languages(manifest, folder))
    for kind in ("dataset", "model"):
        if found:
            break
        for parent in manifest.parents:
            if parent.kind == kind:
                found.update(_languages_of_parent(parent, store))
    return sorted(found)


def _languages_of_parent(parent: Parent, store: Store) -> list[str]:
    """Return the languages of a parent's text; none where the store does not have it, or not whole."""
    try:
        revision = store.find(parent.repo, parent.revision, parent.kind)
        if revision is None or revision.manifest is None:
            return []
        # A grandparent need not be an input of what is being built: nobody has looked at its files yet.
        store.require_whole(revision)
    except UserError:  # a parent given as a path may have a name that no repository has
        return []
    return languages_of(revision.manifest, revision.path, store)


def reproduce_command(manifest: Manifest, page: Page) -> str:
    """Return the command that builds this revision again from its pinned parent."""
    parent = next((p for p in manifest.parents if p.stage == page.parent), None)
    pinned = ""
    if parent is not None and manifest.kind == "dataset":
        pinned = f" --from {parent.repo}@{parent.revision}{_part_options(parent)}"
    elif parent is not None:
        pinned = f" --dataset {parent.repo} --revision {parent.revision}{_part_options(parent)}"
    return f"{page.command}{pinned} --config grace.yaml"


def _part_options(parent: Parent) -> str:
    """Return the options that choose what was read of a parent; its names are other people's and are quoted."""
    named = {"subset": parent.subset, "split": parent.split}
    return "".join(f" --{kind} {shlex.quote(name)}" for kind, name in named.items() if name is not None)


def reproduction_config(manifest: Manifest, page: Page) -> str:
    """Return a configuration file, as YAML, that holds every setting this revision's stage read.

    All other settings come from a preset of the pipeline, which every installation has.
    """
    namespace, _, name = manifest.repo.rpartition("/")
    value: dict[str, Any] = {"preset": page.preset, "name": name.removesuffix(f"-{page.suffix}") or name}
    if namespace not in ("", "local"):
        value["namespace"] = namespace
    value["random_seed"] = manifest.random_seed
    # Execution settings too: the preset's batch sizes may not suit the models of this revision.
    for recorded in (manifest.configuration, manifest.execution):
        for path, settings in portable(recorded).items():
            _put(value, path.split("."), settings)
    if page.card.recipe is not None:
        value = page.card.recipe(manifest, value)
    return yaml_text(value)


def _put(value: dict[str, Any], path: Sequence[str], settings: object) -> None:
    """Put settings at a dotted path, beside the settings that are there already."""
    *above, last = path
    for part in above:
        value = value.setdefault(part, {})
    if not isinstance(settings, dict):
        value[last] = settings
        return
    section = value.setdefault(last, {})
    for key, item in settings.items():
        _put(section, [key], item)


def named(model: Model) -> str:
    """Return a model as a configuration names it; one that came from a folder has no commit to pin."""
    # A commit or a store's revision has 40 hex digits; the digest of a folder has 64.
    return f"{model.id}@{model.revision}" if len(model.revision) == 40 else model.id
