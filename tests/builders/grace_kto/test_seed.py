"""Stage `seed`: readers, column mapping, drops and messages."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from builders.core import tables
from builders.core.draws import query_id
from builders.core.runner import StageResult
from builders.core.stage import Shard
from builders.core.tables import read_columns
from builders.grace_kto import seed as seed_module
from builders.store.columns import column
from builders.store.revision import Revision
from builders.store.shards import write_shard
from scorers.errors import UserError
from training.pipelines import build, load_config

ROWS = [
    {"q": "  Write A. ", "ref": "text", "lang": "en"},
    {"q": "Write A.", "ref": "other", "lang": "en"},
    {"q": "   ", "ref": None, "lang": "en"},
    {"q": None, "ref": None, "lang": None},
    {"q": "写一份报告", "ref": None, "lang": "zh"},
    {"q": "Write B.", "ref": None, "lang": None},
]


def seed(folder: Path, source: Path, *overrides: str) -> Revision:
    columns = "seed.columns={query: q, reference: ref, language: lang}"
    config = load_config("tiny", [f"seed.source={source}", columns, *overrides], str(folder / "store"))
    return build(config, "seed")[-1].revision


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("shard_rows", [2, 100])
def test_every_reader_maps_drops_and_counts(tmp_path: Path, ending: str, shard_rows: int) -> None:
    path = tmp_path / f"seeds.{ending}"
    frame = pl.DataFrame(ROWS)
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif ending == "csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    revision = seed(tmp_path, path, f"seed.shard_rows={shard_rows}")
    rows = revision.scan().collect()
    assert rows["query"].to_list() == ["Write A.", "写一份报告", "Write B."]
    assert rows["reference"].to_list() == ["text", None, None]
    assert rows["language"].to_list() == ["en", "zh", "en"]
    assert rows["query_id"].to_list() == [query_id(query) for query in rows["query"]]
    assert set(rows["source"]) == {path.name}
    assert revision.manifest is not None
    assert revision.manifest.rows.model_dump() == {
        "read": 6,
        "written": 3,
        "dropped": {"blank": 2, "duplicate": 1},
    }


def test_without_a_language_the_script_tells_chinese(tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    pl.DataFrame({"q": ["Write about the Bund.", "请写一份关于 Kubernetes 的报告。"]}).write_csv(path)
    found = seed(tmp_path, path, "seed.columns={query: q, reference: null, language: null}").scan().collect()
    assert found["language"].to_list() == ["en", "zh"]
    again = seed(tmp_path, path, "seed.columns={query: q, reference: null, language: null}", "seed.language=fr")
    assert again.scan().collect()["language"].to_list() == ["fr", "fr"]


def test_blank_references_and_languages_count_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    rows = [{"q": "Write A.", "r": " \n", "l": ""}, {"q": "Write B.", "r": " text", "l": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = seed(tmp_path, path, "seed.columns={query: q, reference: r, language: l}").scan().collect()
    assert found["reference"].to_list() == [None, " text"] and found["language"].to_list() == ["en", "en"]


def test_the_source_is_read_once_whatever_the_number_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps({"q": f"Write {n}.", "ref": "r", "lang": "en"}) + "\n" for n in range(40)))
    reads: list[Path | pl.LazyFrame] = []

    def read(source: Path | pl.LazyFrame, *rest: Any) -> Iterator[pl.DataFrame]:
        reads.append(source)
        return read_columns(source, *rest)

    monkeypatch.setattr(seed_module, "read_columns", read)
    revision = seed(tmp_path, path, "seed.shard_rows=7")
    assert len(revision.data_files()) == 6 and reads == [path]


def test_a_source_larger_than_a_batch_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 3)
    path = tmp_path / "seeds.jsonl"
    queries = [f"Write {n % 11}." if n % 5 else " " for n in range(40)]
    path.write_text("".join(json.dumps({"q": query, "ref": None, "lang": None}) + "\n" for query in queries))
    revision = seed(tmp_path, path, "seed.shard_rows=4")
    assert revision.scan().collect()["query"].to_list() == list(dict.fromkeys(q for q in queries if q != " "))
    assert revision.manifest is not None
    assert revision.manifest.rows.model_dump() == {"read": 40, "written": 11, "dropped": {"blank": 8, "duplicate": 21}}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_columns_that_are_null_throughout_or_but_for_the_last_row(tmp_path: Path, ending: str) -> None:
    """A Parquet column of nulls alone has the type Null; in JSONL and CSV the type showed in the first 100 rows."""
    for name, last in (("null", None), ("late", "text")):
        rows = [{"q": f"Write {n}.", "ref": None, "lang": None} for n in range(200)]
        rows.append({"q": "Last.", "ref": last, "lang": None})
        path = tmp_path / f"{name}.{ending}"
        if ending == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            frame = pl.DataFrame(rows, infer_schema_length=None)
            getattr(frame, f"write_{ending}")(path)
        found = seed(tmp_path / name, path).scan().collect()
        assert found.height == 201 and found["reference"].to_list() == [None] * 200 + [last]
        assert set(found["language"]) == {"en"}


def test_an_over_long_seed_is_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    rows = [{"q": "x" * 8001, "ref": None, "lang": None}, *ROWS, {"q": "字" * 8000, "ref": None, "lang": "zh"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    revision = seed(tmp_path, path)
    assert revision.scan().collect()["query"].str.len_chars().to_list() == [8, 5, 8, 8000]
    assert revision.manifest is not None
    assert revision.manifest.rows.dropped == {"blank": 2, "duplicate": 1, "over-long": 1}
    with pytest.raises(UserError) as error:
        seed(tmp_path, path, "seed.max_query_chars=4")
    assert str(error.value) == (
        f"seed source {path} has no usable query: 6 are longer than seed.max_query_chars, 4, and 2 blank; raise it"
    )


def test_no_folder_of_this_machine_is_written(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    revision = seed(tmp_path, path)
    for file in revision.path.rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("seeds.txt", "x", [".txt", ".jsonl, .csv, .parquet"]),
        ("missing.jsonl", None, ["missing.jsonl", "no such file"]),
        ("seeds.jsonl", '{"q": "a", "ref": ', ["line 1: not JSON (Expecting value, column 18)"]),
        ("seeds.csv", "a,b\n1,2\n", ["no column q (for query)", "it has a, b", "seed.columns"]),
        ("seeds.csv", "q,ref,lang\n", ["is empty"]),
        ("seeds.csv", "", ["is empty"]),
        ("seeds.jsonl", "", ["is empty"]),
        ("seeds.jsonl", "\n", ["is empty"]),
        ("seeds.csv", "q,ref,lang\n ,x,en\n", ["every query is blank"]),
        ("seeds.parquet", "no parquet", ["not readable as .parquet"]),
    ],
)
def test_mistakes(tmp_path: Path, name: str, text: str | None, words: list[str]) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        seed(tmp_path, path)
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "store" / "datasets--local--tiny-seed").exists()


def test_the_source_is_another_stage(tmp_path: Path) -> None:
    def results(*overrides: str) -> dict[str, StageResult]:
        return {r.stage: r for r in build(load_config("tiny", overrides, str(tmp_path / "store")), "seed")}

    made = results()
    assert list(made) == ["world:seeds", "seed"] and all(result.built for result in made.values())
    texts, revision = made["world:seeds"].revision, made["seed"].revision
    rows, source = revision.scan().collect(), texts.scan().collect()
    assert rows.drop("query_id", "source").equals(source) and set(rows["source"]) == {"world:seeds"}
    assert revision.manifest is not None
    (parent,) = revision.manifest.parents
    assert (parent.stage, parent.kind, parent.round) == ("world:seeds", "dataset", 0)
    assert (parent.repo, parent.revision, parent.digest) == (texts.repo, texts.revision, texts.digest)

    assert not any(result.built for result in results().values())
    other = results("world.seed=1")
    assert [result.reason for result in other.values()] == ["missing", "parent changed: world:seeds"]
    assert other["world:seeds"].revision.repo != texts.repo
    assert other["seed"].revision.digest != revision.digest


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "world:seedz",
            "source world:seedz: no such file; give a .jsonl, .csv, .parquet, .jsonl.gz, .csv.gz",
        ),
        ("world:base", "source world:base: no such file"),  # a stage, but of a model
        ("seed", "makes a stage its own parent: seed ← seed"),
        ("generate", "stage generate is made anew in every round and cannot stand for what all rounds share"),
        ("world:heldout", "seed source world:heldout: no column reference (for reference), language (for language)"),
    ],
)
def test_a_source_that_is_no_datasets_stage(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        build(load_config("tiny", [f"seed.source={source}"], str(tmp_path / "store")), "seed")
    assert message in str(error.value)
    assert not (tmp_path / "store" / "datasets--local--tiny-seed").exists()


def test_rows_that_are_inserted_change_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_module, "ROWS_PER_SHARD", 50)
    rows = [{"q": f"Write a report on subject {n}.", "ref": "text", "lang": "en"} for n in range(1_000)]
    path = tmp_path / "seeds.jsonl"
    files = []
    for inserted in ([], [{"q": f"Write a poem on subject {n}.", "ref": "text", "lang": "en"} for n in range(24)]):
        path.write_text("".join(json.dumps(row) + "\n" for row in (*rows[:300], *inserted, *rows[300:])))
        revision = seed(tmp_path, path)
        assert revision.scan().select("query").collect().height == 1_000 + len(inserted)
        assert revision.manifest is not None
        files.append({file.sha256 for file in revision.manifest.files})
    assert len(files[1]) >= 10 and len(files[1] - files[0]) <= 3


def test_shards_of_a_version_that_cut_elsewhere_are_made_again(tmp_path: Path) -> None:
    """A build that was killed before an upgrade left whole shards with other rows."""
    frame = pl.DataFrame({"query": ["a", "b", "c", "d"]})
    contract = (column("query", pl.String, "text"),)
    context = SimpleNamespace(work=tmp_path)
    for index, size in enumerate((2, 2)):
        write_shard(frame[:size], contract, tmp_path / f"shard-{index:05d}.parquet", {})
    seed_module.drop_other_cuts(context, [Shard(0, (0, 2)), Shard(1, (2, 2))])  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    seed_module.drop_other_cuts(context, [Shard(0, (0, 1)), Shard(1, (1, 2))])  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.parquet"))
