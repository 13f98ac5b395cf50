"""The front matter of cards, which the Hub's search and viewer and the library `datasets` read.

The number of rows in `dataset_info` has to be exact: `datasets` refuses a dataset that has another one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from builders.cards.card import Page
from builders.cards.markdown import HUB, clean, is_public
from builders.store.columns import Column
from builders.store.manifest import Manifest

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData, ModelCardData
    from polars._typing import PolarsDataType

PARQUET_GLOB = "data/{split}-*.parquet"
MAX_LANGUAGES = 20  # listed at most
LARGE = 2**20  # bytes of a column whose size its file's footer tells well enough
# The Hub's classes of size: the first one whose limit is above the number of rows.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
SIZES_ABOVE = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))

#: Licence ids the Hub knows (https://huggingface.co/docs/hub/repositories-licenses); any other name goes under `other`.
_LICENSE_IDS = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr
llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail
openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSE_IDS.split())


def license_fields(license_: str, repo: str, kind: str) -> dict[str, Any]:
    """Return a known licence id as `license`; any other as `other`, its name and a link to the card's section."""
    if license_.lower() in LICENSES:
        return {"license": license_.lower()}
    name = re.sub(r"[^a-z0-9.+-]+", "-", license_.lower()).strip("-") or "unknown"
    path = f"datasets/{repo}" if kind == "dataset" else repo
    return {"license": "other", "license_name": name, "license_link": f"{HUB}/{path}#licence"}


def size_category(rows: int) -> str:
    """Return the Hub's class for a number of rows."""
    return next((name for limit, name in (*SIZES, *SIZES_ABOVE) if rows < limit), "100B<n<1T")


def language_codes(values: Sequence[str]) -> list[str]:
    """Return the primary subtags of language codes, each once and sorted, such as zh for zh_CN.

    Anything that is not two or three letters is left out.
    """
    primary = {value.strip().lower().replace("_", "-").partition("-")[0] for value in values}
    return sorted(code for code in primary if re.fullmatch(r"[a-z]{2,3}", code))[:MAX_LANGUAGES]


def feature(name: str, dtype: pl.DataType) -> dict[str, Any]:
    """Return one column as `datasets.Features` writes it into YAML."""
    if not isinstance(dtype, pl.List):
        return {"name": name, "dtype": _value(dtype)}
    inner = _instance(dtype.inner)
    # A list of structs: chat messages.
    if isinstance(inner, pl.Struct):
        return {"name": name, "list": [feature(field.name, _instance(field.dtype)) for field in inner.fields]}
    return {"name": name, "list": _value(inner)}


def _instance(dtype: "PolarsDataType") -> pl.DataType:
    """Return an instance of a polars type, which polars also gives as a class."""
    return dtype() if isinstance(dtype, type) else dtype


def _value(dtype: pl.DataType) -> str:
    """Return the name that `datasets` has for a simple type."""
    return "bool" if dtype == pl.Boolean else str(dtype).lower()


def type_name(dtype: pl.DataType) -> str:
    """Return a column's type in words: int32, list of string, list of (role: string, content: string)."""
    return _type_name(feature("", dtype))


def _type_name(found: dict[str, Any]) -> str:
    if "dtype" in found:
        return str(found["dtype"])
    inner = found["list"]
    if isinstance(inner, str):
        return f"list of {inner}"
    fields = [f"{field['name']}: {_type_name(field)}" for field in inner]
    return f"list of ({', '.join(fields)})"


def dataset_info(manifest: Manifest, folder: Path, columns: Sequence[Column]) -> dict[str, Any]:
    """Return features, rows and sizes as `datasets` would find them: bytes in Arrow, bytes of the files."""
    splits = []
    names = splits_of(manifest)
    for split in names:
        files = [file for file in manifest.files if file.rows is not None and split_of(file.path) == split]
        size = sum(arrow_bytes(folder / file.path) for file in files)
        rows = manifest.rows.written if len(names) == 1 else sum(file.rows or 0 for file in files)
        splits.append({"name": split, "num_bytes": size, "num_examples": rows})
    return {
        "features": [feature(column.name, column.dtype) for column in columns],
        "splits": splits,
        "download_size": sum(file.size for file in manifest.files if file.rows is not None),
        "dataset_size": sum(split["num_bytes"] for split in splits),
    }


def splits_of(manifest: Manifest) -> list[str]:
    """Return the splits of a dataset in the order of their files; `train` alone for one without files."""
    return list(dict.fromkeys(split_of(file.path) for file in manifest.files if file.rows is not None)) or ["train"]


def split_of(path: str) -> str:
    """Return the split that the name of a data file tells.

    >>> split_of("data/test-00000-of-00002.parquet")
    'test'
    """
    return path.rpartition("/")[2].partition("-")[0]


def arrow_bytes(path: Path) -> int:
    """Return the bytes that a Parquet file's rows take in Arrow; of large columns of texts to about a thousandth.

    Those are not read: uncompressed and without a dictionary, Parquet has four bytes of length before each text, as
    Arrow has four of offset, and little else.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
    chunks: dict[str, list[Any]] = {name: [] for name in file.schema_arrow.names}
    for chunk in (group.column(k) for group in groups for k in range(group.num_columns)):
        chunks[chunk.path_in_schema.partition(".")[0]].append(chunk)
    size, small = 0, []
    for name, own in chunks.items():
        raw = sum(chunk.total_uncompressed_size for chunk in own)
        plain = all(c.physical_type == "BYTE_ARRAY" and c.is_stats_set and not c.has_dictionary_page for c in own)
        if raw > LARGE and plain:
            # Parquet says nothing more of a null; a list has an offset of its own in Arrow.
            lists = file.metadata.num_rows if "." in own[0].path_in_schema else 0
            size += raw + 4 * (lists + sum(chunk.statistics.null_count for chunk in own))
        else:
            small.append(name)
    # Batch by batch as `datasets` reads them: the padding of each batch's buffers counts.
    rows = groups[0].num_rows if groups else 1
    return size + sum(int(batch.nbytes) for batch in file.iter_batches(batch_size=max(rows, 1), columns=small))


def source_datasets(manifest: Manifest, *, published: bool) -> list[str]:
    """List the datasets that this one was made from and that readers can look up; `original` for a file.

    Args:
        manifest: its parents are candidates; in one from before its source was a parent, also the repository named as
            `source` in a section of its configuration.
        published: whether the revision and its parents are on the Hub.
    """
    sources = [
        p.repo
        for p in manifest.parents
        if p.kind == "dataset" and is_public(p.repo, p.revision, manifest.repo, published=published)
    ]
    # Since the sections have this key, a source on the Hub is a parent; a folder may have a name like one.
    parents_tell = any("subset" in values for values in manifest.configuration.values() if _has_source(values))
    read = [str(values["source"]) for values in manifest.configuration.values() if _has_source(values)]
    for source in read:
        repo, _, _ = source.partition("@")
        # owner/name of the Hub; a relative path of a file may look the same.
        if (
            not parents_tell
            and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII)
            and not _is_file(repo)
        ):
            sources.append(repo)
    return sorted(set(sources)) or (["original"] if read else [])


def _has_source(values: object) -> bool:
    """Whether a section of a configuration names a source."""
    return isinstance(values, dict) and "source" in values


def _is_file(source: str) -> bool:
    """Whether a source is a file and no repository, by its ending."""
    return source.endswith((".jsonl", ".csv", ".parquet"))


def dataset_card_data(
    manifest: Manifest, folder: Path, page: Page, *, published: bool, license_: str, languages: Sequence[str]
) -> "DatasetCardData":
    """Return the front matter of a dataset card."""
    from huggingface_hub import DatasetCardData

    data_files = [{"split": split, "path": PARQUET_GLOB.format(split=split)} for split in splits_of(manifest)]
    return DatasetCardData(
        language=language_codes(languages) or None,
        **license_fields(license_, manifest.repo, "dataset"),
        annotations_creators=["machine-generated"] if page.card.annotated else None,
        language_creators=["machine-generated"] if page.card.written else None,
        pretty_name=pretty_name(manifest),
        size_categories=[size_category(manifest.rows.written)],
        source_datasets=source_datasets(manifest, published=published) or None,
        task_categories=["text-generation"],
        tags=_tags(manifest, page),
        configs=[{"config_name": "default", "data_files": data_files}],
        dataset_info=dataset_info(manifest, folder, page.columns),
    )


def _tags(manifest: Manifest, page: Page) -> list[str]:
    """Return the tags of pipeline and stage, and those that the stage adds."""
    return [manifest.pipeline, f"stage-{manifest.stage}", "long-form-writing", *page.card.tags]


def pretty_name(manifest: Manifest) -> str:
    """Return the repository's name with its round, on one line."""
    name = _own_name(manifest)
    return f"{name}, round {manifest.round}" if manifest.round else name


def _own_name(manifest: Manifest) -> str:
    """Return the repository's name without its namespace."""
    return " ".join(clean(manifest.repo.rpartition("/")[2]).split())


def model_card_data(
    manifest: Manifest, page: Page, *, adapter: bool, published: bool, license_: str, languages: Sequence[str]
) -> "ModelCardData":
    """Return the front matter of a model card.

    A base model that only the store has is left out, since the Hub looks it up.
    """
    from huggingface_hub import ModelCardData

    base = manifest.models.get("base")
    public = base is not None and is_public(base.id, base.revision, manifest.repo, published=published)
    # The Hub draws its tree of models from base_model and this relation.
    relation: dict[str, Any] = {"base_model_relation": "adapter" if adapter else "finetune"} if public else {}
    return ModelCardData(
        language=language_codes(languages) or None,
        **license_fields(license_, manifest.repo, "model"),
        base_model=base.id if base is not None and public else None,
        **relation,
        datasets=source_datasets(manifest, published=published) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=page.card.task,
        tags=_tags(manifest, page),
        model_name=_own_name(manifest),
    )
