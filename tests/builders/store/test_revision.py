"""The data files of a revision, and the columns that they share."""

from pathlib import Path

import polars as pl
import pytest
from datasets_factory import add_dataset, scores_frame

from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError


def test_data_files_of_folders_and_files(tmp_path: Path) -> None:
    made = add_dataset(Store(tmp_path / "store"), "score", scores_frame(), shards=[3, 5])
    assert [path.name for path in made.data_files()] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert made.scan().collect().equals(scores_frame())
    assert made.schema() == scores_frame().schema
    assert round_tag(7) == "round-007"


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_column_that_is_all_null_in_one_file_has_the_other_files_type(tmp_path: Path, names: str) -> None:
    frame = scores_frame()
    parts = [frame[:4].with_columns(summary=None, logprob=None), frame[4:].with_columns(logprob=None)]
    for name, part in zip(names, parts, strict=True):
        part.write_parquet(tmp_path / f"{name}.parquet")
    made = Revision("local/x", "0" * 40, tmp_path, None)
    schema = dict(frame.schema) | {"logprob": pl.Null()}
    assert made.schema() == pl.Schema(schema)
    rows = made.scan().collect().sort("response_id")
    assert rows.schema == made.schema() and rows["summary"].to_list() == [None] * 4 + frame["summary"].to_list()[4:]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (b"no parquet", ["b.parquet: not readable as Parquet", "give it again"]),
        (b"", ["b.parquet: not readable as Parquet"]),
        ("drop", ["b.parquet and a.parquet differ in round"]),
        ("cast", ["b.parquet and a.parquet differ in length"]),
    ],
)
def test_files_that_do_not_make_one_dataset(tmp_path: Path, second: bytes | str, words: list[str]) -> None:
    from builders.hub.refs import open_revision

    frame = scores_frame()
    frame.write_parquet(tmp_path / "a.parquet")
    if isinstance(second, bytes):
        (tmp_path / "b.parquet").write_bytes(second)
    else:
        other = frame.drop("round") if second == "drop" else frame.with_columns(pl.col("length").cast(pl.Float64))
        other.write_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError) as error:
        open_revision(str(tmp_path), Store(tmp_path / "store")).schema()
    assert all(word in str(error.value) for word in words), error.value
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(UserError, match="no Parquet file in it"):
        open_revision(str(tmp_path), Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("types", "widest"),
    [
        ((pl.Int32, pl.Int64), pl.Int64),
        ((pl.Int64, pl.Int32, pl.Null), pl.Int64),
        ((pl.Null, pl.Int16, pl.Int32), pl.Int32),
        ((pl.UInt32, pl.Int32), pl.Int64),
        ((pl.Float64, pl.Float32), pl.Float64),
    ],
)
def test_files_of_several_widths_are_read_as_the_widest(
    tmp_path: Path, types: tuple[type[pl.DataType], ...], widest: type[pl.DataType]
) -> None:
    for number, dtype in enumerate(types):
        value = None if dtype is pl.Null else number
        pl.DataFrame({"n": [value]}, schema={"n": dtype}).write_parquet(tmp_path / f"{number}.parquet")
    revision = Revision("folder", "", tmp_path, None)
    assert revision.schema() == {"n": widest}
    expected = [None if dtype is pl.Null else n for n, dtype in enumerate(types)]
    assert revision.scan().collect()["n"].to_list() == expected


def test_a_folder_with_the_name_of_a_file_is_no_data(tmp_path: Path) -> None:
    # Other software names the folder of a dataset so.
    (tmp_path / "a.parquet" / "deep.parquet").mkdir(parents=True)
    folder = Revision("a", "", tmp_path, None)
    with pytest.raises(UserError, match="no Parquet file in it"):
        folder.data_files()
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "a.parquet" / "part.parquet")
    assert [path.name for path in folder.data_files()] == ["part.parquet"]
