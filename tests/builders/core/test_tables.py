"""The user's own tables: what is read as text, and faults that are told with their line."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from builders.core import tables
from builders.core.tables import NoColumn, read_columns
from scorers.errors import UserError

BOM = b"\xef\xbb\xbf"


def texts(folder: Path, name: str, content: bytes, *columns: str) -> list[tuple[str | None, ...]]:
    path = folder / name
    path.write_bytes(content)
    return pl.concat(read_columns(path, columns or ("q",), f"seed source {name}")).rows()


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", b'{"q": 5}\n{"q": 2.5}\n{"q": "a"}\n{"r": 1}\n{"q": null}', ["5", "2.5", "a", None, None]),
        ("bom.jsonl", BOM + b'{"q": "a"}\r\n\r\n \n{"q": "b"}\r\n', ["a", "b"]),
        ("packed.jsonl.gz", gzip.compress(BOM + b'{"q": "a"}\n', mtime=0), ["a"]),
        ("empty.jsonl", b"", []),
        ("lines.jsonl", '{"q": "a\u2028b\\ud83d\\ude00"}\n'.encode(), ["a\u2028b😀"]),
        ("empty.csv", b"", []),
        ("bom.csv", BOM + b'q,r\n5,x\n"a\nb",\n', ["5", "a\nb"]),
        ("packed.csv.gz", gzip.compress(b"q,r\na,b\n", mtime=0), ["a"]),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, content: bytes, rows: list[str | None]) -> None:
    assert texts(tmp_path, name, content) == [(row,) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"q": "a"}\n\n{"q": \n', "a.jsonl, line 3: not JSON (Expecting value, column 6)"),
        ("a.jsonl", b'{"q": "a"}\n{"q": ["a"]}\n', "a.jsonl, line 2: q is a list; text or a number is needed"),
        ("a.jsonl", b'{"q": true}\n', "line 1: q is a truth value"),
        ("a.jsonl", b'["a"]\n', "line 1: not an object but a list"),
        ("a.jsonl", '{"q": "a"}\n{"q": "é"}\n'.encode("latin-1"), "a.jsonl, line 2: not UTF-8"),
        ("a.jsonl", b'{"q": "\\ud83d"}\n', "line 1: q holds half a surrogate pair"),
        ("a.jsonl", b'{"q": ' + b"[" * 100_000 + b"\n", "line 1: not JSON"),
        ("a.jsonl.gz", b"plain", "is not readable as .jsonl.gz"),
        ("a.jsonl.gz", gzip.compress(b'{"q": "a"}\n' * 99, mtime=0)[:-9], "is not readable as .jsonl.gz"),
        ("a.csv", "q,r\na,b\né,c\n".encode("latin-1"), "a.csv, line 3: not UTF-8; save the file as UTF-8"),
        ("a.csv", b"q,r\na,b\nc,d,e\n", "a line has more fields than the header; put fields that hold a comma"),
        ("a.csv", "q,r\na,b\n".encode("utf-16"), "is UTF-16; save the file as UTF-8"),
        ("a.parquet", b"PAR1", "is not readable as .parquet"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(UserError) as error:
        texts(tmp_path, name, content)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_parquet_column_of_lists_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"q": [["a"], ["b"]], "n": [1, None]}).write_parquet(path)
    with pytest.raises(UserError, match=r"^source: column q is List\(String\); text or numbers are needed"):
        list(read_columns(path, ["q"], "source"))
    assert pl.concat(read_columns(path, ["n"], "source")).rows() == [("1",), (None,)]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", b'{"a": 1}\n{"b": 2}\n'), ("a.csv", b"a,b\n1,2\n")])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(NoColumn, match=f"seed source {name}: no column q; it has a, b"):
        texts(tmp_path, name, content, "a", "q")


def test_a_file_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 3)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"q": n}) + "\n" for n in range(7)))
    frames = list(read_columns(path, ["q"], "source"))
    assert [frame.height for frame in frames] == [3, 3, 1]
    assert pl.concat(frames)["q"].to_list() == [str(n) for n in range(7)]
