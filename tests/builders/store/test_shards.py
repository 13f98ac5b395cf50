"""Shards on disk: schema, counts, damage, bytes that repeat, pages that stay when rows are added."""

import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_factory import plain_frame, scores_frame, weights_frame
from hypothesis import given
from hypothesis import strategies as st

from builders.core.prompting import answer, chat
from builders.core.stage import Stage
from builders.grace_kto.columns import FORMAT_COLUMNS, SCORES_COLUMNS, SEED_COLUMNS, WEIGHTS_COLUMNS
from builders.store.columns import column, frame_of, polars_schema, present
from builders.store.shards import arrow_schema, row_groups, shard_counts, shard_is_whole, shard_rows, write_shard
from training.grace_kto.pipeline import GRACE_KTO

# As most datasets are: without the optional columns.
SCORES, WEIGHTS = present(SCORES_COLUMNS, ()), present(WEIGHTS_COLUMNS, ())
DATASET_STAGES = [stage for stage in GRACE_KTO.stages if stage.kind == "dataset"]


@pytest.mark.parametrize("stage", DATASET_STAGES, ids=lambda stage: stage.name)
def test_every_contract_comes_back_as_it_was_written(tmp_path: Path, stage: Stage) -> None:
    scores = scores_frame()
    conversations: list[dict[str, object]] = [
        {"prompt": chat("Write requests.", system="Be brief."), "completion": answer("[]")}
    ]
    frames = {
        "score": scores,
        "calibrate": weights_frame(scores),
        "world:exercises": frame_of(conversations, GRACE_KTO.stage("world:exercises").columns),
        "format": plain_frame(FORMAT_COLUMNS[:-2]).join(
            frame_of(conversations, FORMAT_COLUMNS[-2:]), how="cross", maintain_order="left"
        ),
    }
    frame = frames.get(stage.name)
    if frame is None:
        frame = plain_frame(stage.columns)
    path = tmp_path / "a.parquet"
    columns = present(stage.columns, frame.columns)
    write_shard(frame, columns, path, {"read": 4, "dropped.blank": 1})
    assert pl.read_parquet(path).equals(frame)
    assert pl.read_parquet_schema(path) == polars_schema(columns)
    assert pq.read_schema(path).remove_metadata() == arrow_schema(columns)
    assert shard_counts(path) == {"read": 4, "dropped.blank": 1}
    assert shard_rows(path) == frame.height
    assert shard_is_whole(path)


def test_strings_are_plain_and_nullability_is_kept() -> None:
    schema = arrow_schema(WEIGHTS)
    assert schema.field("query").type == pa.string() and not schema.field("query").nullable
    assert schema.field("document").nullable and schema.field("logprob").type == pa.float64()
    assert schema.field("prompt").type == pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def test_columns_of_nothing_but_nulls_are_written_with_the_contracts_type(tmp_path: Path) -> None:
    frame = scores_frame(summary=[None] * 8, logprob=[None] * 8)
    write_shard(frame.with_columns(summary=None, logprob=None), SCORES, tmp_path / "a.parquet", {})
    assert pl.read_parquet(tmp_path / "a.parquet").equals(frame)
    assert pq.read_schema(tmp_path / "a.parquet").remove_metadata() == arrow_schema(SCORES)


def test_the_same_rows_are_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(scores_frame(), SCORES, tmp_path / f"{name}.parquet", {"read": 8})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".sha256"}


def test_a_page_index_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(scores_frame(), SCORES, path, {})
    column = pq.read_metadata(path).row_group(0).column(0)
    assert column.has_offset_index and column.has_column_index


def test_appending_rows_keeps_most_bytes(tmp_path: Path) -> None:
    rows = [{c.name: f"{c.name} {i} " + "x" * 50 * (i % 7) for c in SEED_COLUMNS} for i in range(40_000)]
    frame = pl.DataFrame(rows, schema=polars_schema(SEED_COLUMNS))
    write_shard(frame, SEED_COLUMNS, tmp_path / "a.parquet", {})
    write_shard(pl.concat([frame[:100], frame[200:]]), SEED_COLUMNS, tmp_path / "b.parquet", {})
    first, second = (pages(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert len(first) > 3
    assert len(first & second) >= len(first) // 2


def test_an_inserted_row_changes_a_page_of_each_column(tmp_path: Path) -> None:
    """Text has no dictionary, which one new value would change as a whole; columns of few values have one."""
    rng = random.Random(0)
    rows = [{c.name: f"{rng.getrandbits(800):x}" for c in SEED_COLUMNS} | {"language": "en"} for _ in range(6_000)]
    frame = pl.DataFrame(rows, schema=polars_schema(SEED_COLUMNS))
    write_shard(frame, SEED_COLUMNS, tmp_path / "a.parquet", {})
    write_shard(pl.concat([frame[:3000], frame[:1], frame[3000:]]), SEED_COLUMNS, tmp_path / "b.parquet", {})
    first, second = (pages(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert len(first) >= 5 and len(second - first) <= 2
    columns = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    found = {columns.column(i).path_in_schema: columns.column(i).has_dictionary_page for i in range(len(SEED_COLUMNS))}
    assert found == {"query_id": False, "query": False, "reference": False, "language": True, "source": False}


def pages(path: Path) -> set[bytes]:
    """The longest column's data, cut where its data pages begin."""
    metadata = pq.read_metadata(path)
    column = max(
        (metadata.row_group(0).column(i) for i in range(metadata.num_columns)), key=lambda c: c.total_compressed_size
    )
    data = path.read_bytes()[column.data_page_offset : column.data_page_offset + column.total_compressed_size]
    magic = b"\x28\xb5\x2f\xfd"  # a zstd frame: the payload of one page
    return set(data.split(magic)[1:])


@pytest.mark.parametrize("damage", ["no file", "no mark", "short", "longer", "flipped", "mark is noise"])
def test_a_damaged_shard_is_not_whole(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    write_shard(scores_frame(), SCORES, path, {})
    data = bytearray(path.read_bytes())
    if damage == "no file":
        path.unlink()
    elif damage == "no mark":
        path.with_suffix(".sha256").unlink()
    elif damage == "mark is noise":
        path.with_suffix(".sha256").write_bytes(b"\xff\x00")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes({"short": data[:-1], "longer": data + b"\0", "flipped": data}[damage])
    assert not shard_is_whole(path)


def test_a_null_that_is_not_allowed_leaves_no_file(tmp_path: Path) -> None:
    frame = scores_frame(query=[None] * 8)
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        write_shard(frame, SCORES, tmp_path / "a.parquet", {})
    assert list(tmp_path.iterdir()) == []


FULL = """
import os, resource, sys
from pathlib import Path
import polars as pl
from builders.store.columns import column
from builders.store.shards import write_shard

folder = Path(sys.argv[1])
frame = pl.DataFrame({"text": [os.urandom(100).hex() for _ in range(20_000)]})
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may be larger, as if the disk were full
try:
    write_shard(frame, [column("text", pl.String, "text")], folder / "shard.parquet", {})
except OSError as error:
    print(error.filename, sorted(os.listdir(folder)))
"""


def test_a_full_disk_is_an_error_and_never_the_end_of_the_process(tmp_path: Path) -> None:
    """Pages of a shard this large are written in a destructor of Arrow, which an error in the file would abort."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path} []\n"), done.stderr[-2000:]


def test_a_row_group_holds_so_many_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.store.shards.ROW_GROUP_BYTES", 10)
    monkeypatch.setattr("builders.store.shards.ROW_GROUP_ROWS", 3)
    assert row_groups(pl.Series([4, 6, 1, 1, 1, 1, 50, 2])) == [(0, 2), (2, 3), (5, 1), (6, 1), (7, 1)]
    assert row_groups(pl.Series([], dtype=pl.Int64)) == [(0, 0)]
    assert row_groups(pl.Series([0, 0, 0, 0])) == [(0, 3), (3, 1)]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 40), st.integers(1, 10))
def test_row_groups_cover_all_rows_and_none_could_be_larger(sizes: list[int], most_bytes: int, most_rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builders.store.shards.ROW_GROUP_BYTES", most_bytes)
        patch.setattr("builders.store.shards.ROW_GROUP_ROWS", most_rows)
        groups = row_groups(pl.Series(sizes, dtype=pl.Int64))
    assert [row for start, size in groups for row in range(start, start + size)] == list(range(len(sizes)))
    for start, size in groups:
        assert size <= 1 or (size <= most_rows and sum(sizes[start : start + size]) <= most_bytes)
        if start + size < len(sizes):  # with the next row there were too many
            assert size == most_rows or sum(sizes[start : start + size + 1]) > most_bytes


def test_long_texts_make_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.store.shards.ROW_GROUP_BYTES", 1000)
    columns = [column("text", pl.String, "a text", nullable=True), column("tags", pl.List(pl.String), "some")]
    texts = ["x" * 600, "y" * 600, None, "ü" * 100, "z" * 3000, "w"]
    frame = pl.DataFrame({"text": texts, "tags": [["a"]] * 6})
    write_shard(frame, columns, tmp_path / "a.parquet", {"read": 6})
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1, 3, 1, 1]
    assert pl.read_parquet(tmp_path / "a.parquet").equals(frame) and shard_counts(tmp_path / "a.parquet") == {"read": 6}
