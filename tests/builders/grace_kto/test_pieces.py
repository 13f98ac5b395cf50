"""Datasets in pieces: own files where they will do, one pass over everything else, and nothing lost or moved."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_factory import scores_frame
from real_configs import config_on

from builders.core.stage import Context
from builders.grace_kto import pieces as module
from builders.grace_kto.calibrate import calibrate_frame, schema_of
from builders.grace_kto.pieces import pieces_of, read_piece
from builders.grace_kto.rows import RANKING
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO

READ = schema_of(())

QUERIES = 12
FRAME = scores_frame([[40 + q, 50, 61 - q, None] for q in range(QUERIES)])
SHUFFLED = FRAME.sample(fraction=1, shuffle=True, seed=3)


def write(folder: Path, frames: list[pl.DataFrame]) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{index}.parquet" for index in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        frame.write_parquet(file)
    return files


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """Three files over which the groups are spread."""
    return write(tmp_path / "split", [SHUFFLED[:20], SHUFFLED[20:21], SHUFFLED[21:]])


def in_first_appearance(queries: int) -> list[pl.DataFrame]:
    """What the pieces of the shuffled rows should be, computed by filtering."""
    ids = SHUFFLED["query_id"].unique(maintain_order=True)
    return [
        SHUFFLED.filter(pl.col("query_id").is_in(ids[k : k + queries].implode())) for k in range(0, len(ids), queries)
    ]


def test_files_that_hold_whole_groups_are_the_pieces(tmp_path: Path) -> None:
    files = write(tmp_path / "data", [FRAME[:8], FRAME[8:8], FRAME[8:]])
    assert pieces_of(files, READ, tmp_path / "pieces") == [str(file) for file in files]
    assert not (tmp_path / "pieces").exists()
    assert read_piece(str(files[0]), READ).equals(FRAME[:8])


@pytest.mark.parametrize("queries", [1, 5, QUERIES])
def test_split_groups_come_together_in_the_order_of_the_dataset(
    tmp_path: Path, split: list[Path], queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUERIES_PER_PIECE", queries)
    monkeypatch.setattr(module, "BYTES_PER_BATCH", 1_000)  # some two rows: a piece is written bit by bit
    found = pieces_of(split, READ, tmp_path / "pieces")
    expected = in_first_appearance(queries)
    assert len(found) == len(expected) == -(-QUERIES // queries)
    assert all(read_piece(piece, READ).equals(rows) for piece, rows in zip(found, expected, strict=True))
    # Some of the columns, in another order.
    some = pl.Schema({"length": pl.Float64(), "query_id": pl.String()})
    assert read_piece(found[0], some).equals(expected[0].select(pl.col("length").cast(pl.Float64), "query_id"))


def test_only_the_columns_that_are_read_are_spread(tmp_path: Path, split: list[Path]) -> None:
    (piece,) = pieces_of(split, RANKING, tmp_path / "pieces")
    assert pa.ipc.open_stream(piece).schema.names == RANKING.names()


def test_groups_that_need_not_be_whole_stay_in_their_files(tmp_path: Path, split: list[Path]) -> None:
    assert pieces_of(split, READ, tmp_path / "pieces", whole_groups=False) == [str(file) for file in split]


def test_a_large_file_is_cut_between_queries(tmp_path: Path) -> None:
    (file,) = write(tmp_path / "data", [FRAME])
    metadata = pq.read_metadata(file)
    size = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    assert pieces_of([file], READ, tmp_path / "none", piece_bytes=size) == [str(file)]
    found = pieces_of([file], READ, tmp_path / "pieces", piece_bytes=size // 3, whole_groups=False)
    rows = [read_piece(piece, READ) for piece in found]
    assert [frame.height for frame in rows] == [12, 12, 12, 12]  # less than a third of 48 rows: three groups of 4
    assert pl.concat(rows).equals(FRAME)


def test_a_query_beyond_the_limit_has_a_piece_of_its_own() -> None:
    numbers = module._numbers(pl.Series([3, 3, 9, 1, 6, 1]), 6)
    assert numbers.to_list() == [0, 0, 1, 2, 3, 4]
    assert module._numbers(pl.Series([3, 3, 9, 1, 6, 1]), 7).to_list() == [0, 0, 1, 2, 2, 3]


def test_a_dataset_without_rows_has_no_pieces(tmp_path: Path) -> None:
    assert pieces_of(write(tmp_path / "data", [FRAME[:0]]), READ, tmp_path / "pieces") == []


def test_whole_pieces_of_a_killed_run_are_taken_and_others_are_not(
    tmp_path: Path, split: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pieces"
    original, written = module._append, 0

    def die(table: pa.Table, path: Path) -> None:
        nonlocal written
        written += 1
        original(table, path)
        if written == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "QUERIES_PER_PIECE", 2)
        patch.setattr(module, "_append", die)
        with pytest.raises(KeyboardInterrupt):
            pieces_of(split, READ, folder)
    assert not folder.exists()
    found = pieces_of(split, READ, folder)
    assert [read_piece(piece, READ).height for piece in found] == [FRAME.height]
    before = Path(found[0]).stat().st_mtime_ns
    assert pieces_of(split, READ, folder) == found and Path(found[0]).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_other_widths_and_types_of_nothing_but_nulls_become_the_contracts(tmp_path: Path) -> None:
    nothing = FRAME.filter(~pl.col("matched"))
    other = nothing.with_columns(pl.lit(None).alias("summary"), pl.col("round").cast(pl.Int64))
    files = write(tmp_path / "data", [other, FRAME.filter("matched").with_columns(pl.col("round").cast(pl.Int64))])
    assert pl.read_parquet_schema(files[0])["summary"] == pl.Null
    (piece,) = pieces_of(files, READ, tmp_path / "pieces")
    assert read_piece(piece, READ).sort("response_id").equals(FRAME.sort("response_id"))
    assert read_piece(str(files[0]), READ).equals(nothing)


def test_shards_of_a_split_dataset_are_built_without_reading_it_again(tmp_path: Path, split: list[Path]) -> None:
    parent = Revision("local/foreign", "0" * 40, tmp_path / "split", None)
    context = Context(config_on(tmp_path), Store(tmp_path), 1, {"score": parent}, {}, tmp_path / "work")
    stage = GRACE_KTO.stage("calibrate")
    assert stage.plan is not None and callable(stage.build)
    shards = stage.plan(context)
    for file in split:
        file.unlink()
    made = pl.concat(stage.build(context, shard).frame for shard in shards).sort("response_id")
    expected = calibrate_frame(SHUFFLED).sort("response_id")
    assert made.select(expected.columns).equals(expected)


def test_a_row_without_a_query_is_named_and_not_lost(tmp_path: Path, split: list[Path]) -> None:
    from training.pipelines import build

    row = SHUFFLED["response_id"][0]
    pl.read_parquet(split[0]).with_columns(
        query_id=pl.when(pl.col("response_id") != row).then("query_id")
    ).write_parquet(split[0])
    with pytest.raises(
        UserError, match=rf"0\.parquet, row 0 \(response_id {row}\): query_id is null; a value is needed"
    ):
        build(config_on(tmp_path), "calibrate", start=str(tmp_path / "split"))
