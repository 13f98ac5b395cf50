"""The user's texts from each format that is read, and what is told of a file that does not do."""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.rationalign.settings import PairColumns, PairSource
from builders.rationalign.texts import Labelled, corrected, overlapping, read_texts
from scorers.errors import UserError
from scorers.maxmatch import GoldEdit, read_m2
from training.pipelines import load_config

Rows = list[tuple[str, tuple[str, ...]]]
WNC = 'id1\ttok\ttok\the said " so\the said so\nid2\ttok\ttok\t"a b\ta "c"\n'
M2 = """S He go school .
A 1 2|||R:VERB|||goes|||REQUIRED|||-NONE-|||0
A 2 2|||M:PREP|||to|||REQUIRED|||-NONE-|||0
A 1 2|||R:VERB|||went||goes|||REQUIRED|||-NONE-|||1
A 3 4|||U:PUNCT|||-NONE-|||REQUIRED|||-NONE-|||1

S All is well .
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||0
"""


def read(
    tmp_path: Path, source: Path, columns: dict[str, Any] | None = None, labelled: bool = True, **settings: Any
) -> tuple[list[Labelled], Counter[str]]:
    counts: Counter[str] = Counter()
    config = load_config("tiny-rationalign", [], str(tmp_path / "store"))
    wanted = PairSource(source=str(source), columns=PairColumns(**columns or {}), **{"task": "gec"} | settings)
    return list(read_texts(config, wanted, None, counts, labelled=labelled)), counts


def shown(found: list[Labelled]) -> Rows:
    return [(text.source, text.references) for text in found]


def written(folder: Path, name: str, content: str | bytes | list[dict[str, Any]]) -> Path:
    path = folder / name
    if isinstance(content, list):
        frame = pl.DataFrame(content)
        write: dict[str, Callable[[Path], object]] = {".csv": frame.write_csv, ".parquet": frame.write_parquet}
        write.get(path.suffix, frame.write_ndjson)(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_of_references(tmp_path: Path, ending: str) -> None:
    rows = [{"old": "He go.", "new": ["He goes.", " He went. "]}, {"old": 'A, "b".', "new": ["B."]}]
    columns = {"source": "old", "target": None, "references": ("new",)}
    found, counts = read(tmp_path, written(tmp_path, f"a.{ending}", rows), columns)
    assert shown(found) == [("He go.", ("He goes.", "He went.")), ('A, "b".', ("B.",))]
    assert counts == {"read": 2} and {(text.task, text.gold) for text in found} == {("gec", None)}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_references_in_columns_of_text_and_a_column_of_tasks(tmp_path: Path, ending: str) -> None:
    first = {"source": "He go.", "target": "He goes.", "ref": "He went.", "task": "fluency"}
    second = {"source": "A b.", "target": "A, b.", "ref": None, "task": "clarity"}
    path = written(tmp_path, f"a.{ending}", [first, second])
    found, _ = read(tmp_path, path, {"references": ("ref",)}, task=None)
    assert shown(found) == [("He go.", ("He goes.", "He went.")), ("A b.", ("A, b.",))]
    assert [text.task for text in found] == ["fluency", "clarity"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_by_value_and_by_number(tmp_path: Path, ending: str) -> None:
    kinds = [("x", 4), ("x", 5), ("y", 5), ("x", None), ("x", 3.9)]
    rows = [{"source": f"s{k}", "target": "t", "kind": a, "grade": b} for k, (a, b) in enumerate(kinds)]
    path = written(tmp_path, f"a.{ending}", rows)
    found, counts = read(tmp_path, path, where={"kind": "x"}, at_least={"grade": 4.0})
    assert [text.source for text in found] == ["s0", "s1"]
    assert counts == {"read": 5, "dropped.other rows by where and at_least": 3}


def test_a_grade_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    lines = "".join(f'{{"source": "s", "target": "t", "grade": {grade}}}\n' for grade in ('"good"', "NaN", "4"))
    found, counts = read(tmp_path, written(tmp_path, "a.jsonl", lines), at_least={"grade": 4.0})
    assert len(found) == 1 and counts == {"read": 3, "dropped.other rows by where and at_least": 2}


def test_a_null_in_a_list_of_a_parquet_file_is_told_or_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "a.parquet", [{"source": "s", "target": ["t", None]}])
    try:
        found, _ = read(tmp_path, path)
    except UserError as error:
        assert "target" in str(error)
    else:
        assert shown(found) == [("s", ("t",))]


def test_tabs_without_a_header_and_with_quotation_marks(tmp_path: Path) -> None:
    columns = {"source": "4", "target": "5"}
    found, _ = read(tmp_path, written(tmp_path, "wnc.tsv", WNC), columns, task="neutralisation")
    assert shown(found) == [('he said " so', ("he said so",)), ('"a b', ('a "c"',))]
    found, _ = read(tmp_path, written(tmp_path, "wnc.txt", WNC), columns, format="tsv", where={"1": "id2"})
    assert [text.source for text in found] == ['"a b']


def test_annotators_are_references(tmp_path: Path) -> None:
    found, counts = read(tmp_path, written(tmp_path, "a.m2", M2))
    assert shown(found) == [
        ("He go school .", ("He goes to school .", "He went school")),
        ("All is well .", ("All is well .",)),
    ]
    assert found[0].gold is not None and sorted(found[0].gold) == [0, 1] and counts == {"read": 2}


def test_an_annotator_whose_edits_overlap_gives_no_reference(tmp_path: Path) -> None:
    """Nobody can tell what text they lead to; the others' count."""
    overlap = "A 1 3|||R|||goes to|||R|||-NONE-|||0\nA 2 4|||R|||into schools|||R|||-NONE-|||0\n"
    other = "A 1 2|||R|||goes|||R|||-NONE-|||1\n"
    content = f"S He go to school .\n{overlap}{other}\nS He go to town .\n{overlap}"
    found, counts = read(tmp_path, written(tmp_path, "a.m2", content))
    assert shown(found) == [("He go to school .", ("He goes to school .",))]
    assert counts == {"read": 2, "dropped.without an edited text": 1}
    beside, across = ([GoldEdit(*ends, ((),)) for ends in edits] for edits in ([(1, 2), (2, 3)], [(2, 4), (1, 3)]))
    assert overlapping(across) and not overlapping(beside)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([(0, 1, "x y"), (2, 3, "z")], "x y b z d"),
        ([(2, 3, "z"), (0, 1, "x y")], "x y b z d"),
        ([(0, 2, "-NONE-"), (4, 4, "e")], "c d e"),
        ([(1, 1, "x"), (1, 2, "y")], "a x y c d"),
        ([(1, 2, "y"), (1, 1, "x")], "a x y c d"),
        ([(1, 1, "x"), (1, 1, "y"), (1, 1, "z")], "a x y z b c d"),
        ([], "a b c d"),
    ],
)
def test_edits_are_applied_by_hand(edits: list[tuple[int, int, str]], words: str) -> None:
    lines = ["S a b c d", *(f"A {start} {end}|||R|||{new}|||R|||-NONE-|||0" for start, end, new in edits)]
    [sentence] = read_m2(lines, "a.m2")
    assert " ".join(corrected(sentence, 0)) == words


def test_lines_of_several_files(tmp_path: Path) -> None:
    names = [str(written(tmp_path, name, text)) for name, text in (("f0", "Hello.\nYes.\n"), ("f1", "Good day.\n\n"))]
    found, _ = read(tmp_path, written(tmp_path, "a.txt", "hi\r\nyep\r\n"), references=tuple(names))
    assert shown(found) == [("hi", ("Hello.", "Good day.")), ("yep", ("Yes.",))]
    short = written(tmp_path, "short", "Hello.\n")
    with pytest.raises(UserError, match=rf"{tmp_path / 'a.txt'}: 2 lines, and {short} has 1"):
        read(tmp_path, tmp_path / "a.txt", references=(names[0], str(short)))


def test_only_a_line_break_ends_a_line(tmp_path: Path) -> None:
    """Other signs that part lines for Python, as in texts from the web, stay in the text."""
    reference = str(written(tmp_path, "f0", "A\nB\n"))
    found, _ = read(tmp_path, written(tmp_path, "a.txt", "a\u2028a\x85a\nb\n"), references=(reference,))
    assert shown(found) == [("a\u2028a\x85a", ("A",)), ("b", ("B",))]


@pytest.mark.parametrize(("name", "text"), [("a.m2", M2), ("a.tsv", "He go\tHe goes\n"), ("a.txt", "He go\n")])
def test_a_mark_of_byte_order_is_skipped(tmp_path: Path, name: str, text: str) -> None:
    columns = {"source": "1", "target": "2"} if name == "a.tsv" else {}
    found, _ = read(tmp_path, written(tmp_path, name, "\ufeff" + text), columns, labelled=False)
    assert found[0].source.startswith("He go")


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    texts = [("a", "b"), (" ", "b"), ("c", None), ("d", " \t"), (None, None)]
    path = written(tmp_path, "a.jsonl", [{"source": old, "target": new} for old, new in texts])
    found, counts = read(tmp_path, path)
    assert shown(found) == [("a", ("b",))]
    assert counts == {"read": 5, "dropped.blank text": 2, "dropped.without an edited text": 2}
    found, counts = read(tmp_path, path, labelled=False)
    assert [text.source for text in found] == ["a", "c", "d"] and counts == {"read": 5, "dropped.blank text": 2}


@pytest.mark.parametrize(
    ("name", "text", "settings", "message"),
    [
        ("a.jsonl", '{"source": "a", "new": "b"}', {}, "no column target; it has source, new; name the columns"),
        ("a.tsv", "a\tb\n", {}, "no column source, target; it has a, b: name those of its first line, or all by"),
        ("a.tsv", "a\tb\n", {"columns": {"source": "1", "target": "3"}}, "no column 3; it has 1 to 2: name"),
        ("a.csv", "source;target\na;b\n", {}, "no column source, target; it has source;target; its fields are parted"),
        ("a.jsonl", '{"source": "a", "target": "b"}', {"task": None}, "no column task; .*task of all rows.*task: gec"),
        (
            "a.tsv",
            "source\ttarget\na\tb\n",
            {"task": None},
            "no column task; it has source, target: name the task of all rows",
        ),
        ("a.jsonl", '{"source": "a", "target": "b"}', {"task": "fluencey"}, "'fluencey' .*, did you mean fluency?"),
        ("a.m2", "S a b\nA 1 3|||R|||c|||R|||-NONE-|||0\n", {}, r"a.m2, line 2: .* 1 to 3, and the sentence has 2"),
        ("a.m2", "S a b\nA 2 1|||R|||c|||R|||-NONE-|||0\n", {}, r"a.m2, line 2: .* words 2 to 1"),
        ("a.m2", "S a b\nT\n", {}, r"a.m2, line 2: begins with 'T'"),
        ("a.m2", "S a b\n", {"task": None}, "rows name no task; set task"),
        ("a.jsonl", b'{"source": "a\xff", "target": "b"}', {}, "a.jsonl, line 1: not UTF-8"),
        ("a.csv", b"source,target\na,b\n\xff,b\n", {}, "a.csv, line 3: not UTF-8"),
        ("a.m2", b"S a \xff\n", {}, "a.m2: not UTF-8"),
        ("a.txt", b"a \xff\n", {}, "a.txt: not UTF-8"),
        (
            "a.tsv",
            b"a \xff\tb\n",
            {"columns": {"source": "1", "target": "2"}},
            "a.tsv is not readable as tab-separated text: .*utf-8",
        ),
        (
            "a.tsv",
            "a\tb\na\tb\tc\n",
            {},
            "a.tsv is not readable as tab-separated text: a line has more fields",
        ),
    ],
)
def test_a_file_that_does_not_do(
    tmp_path: Path, name: str, text: str | bytes, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, written(tmp_path, name, text), **settings)


@pytest.mark.parametrize(("name", "text"), [("a.m2.gz", M2), ("a.tsv.gz", WNC), ("a.txt.gz", "He go\r\nA b\n")])
def test_packed_files(tmp_path: Path, name: str, text: str) -> None:
    columns = {"source": "4", "target": "5"} if "tsv" in name else {}
    plain = shown(read(tmp_path, written(tmp_path, name.removesuffix(".gz"), text), columns, labelled=False)[0])
    assert shown(read(tmp_path, written(tmp_path, name, gzip.compress(text.encode())), columns, labelled=False)[0])
    assert plain == shown(read(tmp_path, tmp_path / name, columns, labelled=False)[0]) and len(plain) == 2


def test_a_tsv_file_with_a_header(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", 'old\tnew\tn\nHe "go\tHe "goes\t1\n')
    assert shown(read(tmp_path, path, {"source": "old", "target": "new"})[0]) == [('He "go', ('He "goes',))]
    assert shown(read(tmp_path, path, {"source": "1", "target": "2"})[0])[0] == ("old", ("new",))


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("a.jsonl", {"references": ["b.txt"]}, "references says nothing of a source that is read as table"),
        ("a.tsv.gz", {"split": "train"}, "split says nothing of a source that is read as tsv"),
        ("a.m2", {"at_least": {"label": 4.0}}, "at_least says nothing of a source that is read as m2"),
        ("a.m2", {"columns": {"source": "b"}}, "columns says nothing of a source that is read as m2"),
        ("a.json", {"format": "lines", "where": {"a": "b"}}, "where says nothing of a source that is read as lines"),
        ("a.jsonl", {"columns": {"target": "source"}}, "column source is the text before; name another"),
    ],
)
def test_settings_that_a_format_does_not_read(source: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("tiny-rationalign", [f"pairs.sources=[{ {'source': source, **settings} }]"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.tsv", "a.m2", "a.txt"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    if name == "a.txt":
        there = written(tmp_path, "b.txt", "a\n")
        with pytest.raises(UserError, match=rf"source {tmp_path / name}: no such file"):
            read(tmp_path, there, references=(str(tmp_path / name),))
    with pytest.raises(UserError, match=rf"source {tmp_path / name}: no such file"):
        read(tmp_path, tmp_path / name)


def test_an_edited_text_with_a_tag_of_the_answers_form_is_left_out(tmp_path: Path) -> None:
    """An assistant that learned it would write answers that cannot be read."""
    lines = (
        '{"source": "a", "target": "b</suggestion>"}\n{"source": "c", "target": "<reasons>d", "references": ["e"]}\n'
    )
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    source = PairSource(source=str(tmp_path / "a.jsonl"), task="gec", columns=PairColumns(references=("references",)))
    counts: Counter[str] = Counter()
    config = load_config("tiny-rationalign", [], str(tmp_path / "store"))
    found = list(read_texts(config, source, None, counts, labelled=True))
    assert [(one.source, one.references) for one in found] == [("c", ("e",))]
    assert counts["dropped.edited text with a tag of the answers' form"] == 1
