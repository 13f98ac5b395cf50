"""The page as a file: what it shows, what it leaves out, the same bytes again, and one line for each mistake."""

import base64
import hashlib
import html
import math
import os
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from datasets_factory import add_dataset, add_model, scores_frame, weights_frame
from report_pages import HOSTILE, groups_in, index_in

from builders.core.evaluation_table import Table
from builders.hub.refs import open_revision
from builders.report.page import page as page_module
from builders.report.page.page import Written, write_page
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def weights(store: Store, groups: int = 2, round_: int = 1) -> Revision:
    frame = weights_frame(scores_frame([(40, 55, 61, None)] * groups))
    return add_dataset(store, "calibrate", frame, round_=round_)


def foreign(path: Path, frame: pl.DataFrame) -> Revision:
    path.mkdir()
    frame.write_parquet(path / "x.parquet")
    return open_revision(str(path), Store(path.parent / "none"))


def test_a_weights_dataset_shows_its_groups_in_the_order_of_their_ids(store: Store, tmp_path: Path) -> None:
    revision = weights(store, 12)
    written = write_page(tmp_path / "r.html", [revision], store, meanings={"length": "tokens <L>"})
    assert written == Written(tmp_path / "r.html", (tmp_path / "r.html").stat().st_size, 12, 12)
    groups = groups_in(written.path)
    assert [group["id"] for group in groups] == sorted(f"query{i}" for i in range(12))
    responses = groups[0]["parts"][0]["responses"]
    assert [one["matched"] for one in responses] == [True, True, True, False]
    assert [one["label"] for one in responses][-1] is False
    found = revision.scan().filter(pl.col("query_id") == "query0").collect()
    assert [one["text"] for one in responses] == found["response"].to_list()
    block, place, id_, query, parts = index_in(written.path)[0]
    assert (block, place, id_, query) == (0, 0, "query0", "Please write about query0.")
    positive = int(found["label"].sum())
    assert parts[0][:6] == [0, 4, 3, 1, positive, 4 - positive]
    page = written.path.read_text()
    assert "all 12 groups shown" in page and "tokens \\u003cL\\u003e" in page


def test_the_same_query_of_several_datasets_stands_in_one_group_and_comes_first(store: Store, tmp_path: Path) -> None:
    scores = scores_frame([(40, 55), (61, 70)])
    first = add_dataset(store, "calibrate", weights_frame(scores))
    later = weights_frame(scores.filter(pl.col("query_id") == "query1").with_columns(round=pl.lit(2, pl.Int32)))
    second = add_dataset(store, "calibrate", later, round_=2)
    groups = groups_in(write_page(tmp_path / "r.html", [first, second], store).path)
    assert [(group["id"], [part["source"] for part in group["parts"]]) for group in groups] == [
        ("query1", [0, 1]),
        ("query0", [0]),
    ]
    assert [part["fields"]["round"] for part in groups[0]["parts"]] == ["1", "2"]


def test_hostile_texts_are_data(store: Store, tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": HOSTILE, "completion": HOSTILE[::-1], "note": HOSTILE})
    revision = foreign(tmp_path / "evil", frame.rename({"note": "<b>note"}))
    table = Table(HOSTILE[0], HOSTILE[:2], [HOSTILE[2:4]], HOSTILE[:1])
    written = write_page(tmp_path / "r.html", [revision], store, tables=[table], pictures=[(HOSTILE[1], b"<svg/>")])
    page = written.path.read_text()
    found = Tags()
    found.feed(page)
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert [one for one in scripts if "type" not in one] == [{}]  # the page's own
    assert {one["type"] for one in scripts if one} == {"text/plain", "application/json"}
    assert not {"b", "svg", "iframe"} & {tag for tag, _ in found.tags}
    assert {attributes["src"][:5] for tag, attributes in found.tags if tag == "img"} == {"data:"}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert all(text in html.unescape(page) for text in HOSTILE[:3])
    groups = groups_in(written.path)
    assert {group["query"] for group in groups} == set(HOSTILE)
    assert {group["parts"][0]["responses"][0]["text"] for group in groups} == set(HOSTILE)


def test_the_policy_allows_the_pages_own_script_and_style_alone(store: Store, tmp_path: Path) -> None:
    page = write_page(tmp_path / "r.html", [weights(store)], store).path.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy[1]).split(";"))
    assert rules.pop("default-src") == "'none'" and rules.pop("img-src") == "data:"
    for name, pattern in (("style-src", r"<style>(.*?)</style>"), ("script-src", r"<script>(.*?)</script>")):
        (text,) = re.findall(pattern, page, re.S)
        digest = hashlib.sha256(text.encode()).digest()
        assert rules.pop(name) == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert rules == {"base-uri": "'none'", "form-action": "'none'"}
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)


def test_the_same_revision_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    revision = weights(store, 9)
    pages = [write_page(tmp_path / name, [revision], store).path.read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def many(path: Path, groups: int = 60) -> Revision:
    """Groups whose texts cannot be packed well: 4 kB each."""
    texts = ["".join(f"{hashlib.sha256(f'{g} {i}'.encode()).hexdigest()} " for i in range(60)) for g in range(groups)]
    rows = {"prompt": [f"question {g}" for g in range(groups)], "chosen": texts, "rejected": texts[::-1]}
    return foreign(path, pl.DataFrame(rows))


def test_a_full_page_holds_whole_groups_in_the_order_of_their_ids(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = many(tmp_path / "many")
    whole = [group["id"] for group in groups_in(write_page(tmp_path / "all.html", [revision], store).path)]
    assert len(whole) == 60 and whole == sorted(whole)
    written = write_page(tmp_path / "part.html", [revision], store, max_mb=0.2)
    groups = groups_in(written.path)
    assert 0 < written.groups < 60 and written.of == 60
    assert [group["id"] for group in groups] == whole[: written.groups] == [line[2] for line in index_in(written.path)]
    assert all(len(group["parts"][0]["responses"]) == 2 for group in groups)
    # No page is larger than it may be, and none leaves room for one more group of 10 kB.
    assert 0.185e6 < written.bytes <= 0.2e6
    assert f"{written.groups} of 60 groups shown: whole groups in the order of their ids" in written.path.read_text()
    # Blocks of another size, or pieces that are read at once, change nothing in the choice.
    monkeypatch.setattr(page_module, "INDEX", 3)
    monkeypatch.setattr("builders.report.page.sources.PIECE", 10_000)
    again = write_page(tmp_path / "again.html", [revision], store, max_mb=0.2)
    assert abs(again.groups - written.groups) <= 1
    assert [group["id"] for group in groups_in(again.path)] == whole[: again.groups]


def test_a_page_without_room_is_refused(store: Store, tmp_path: Path) -> None:
    text = "".join(hashlib.sha256(f"{i}".encode()).hexdigest() for i in range(500))
    revision = foreign(tmp_path / "long", pl.DataFrame({"prompt": ["long"], "response": [text]}))
    with pytest.raises(UserError, match=r"^--max-mb 0.01: the page without a group has 0\.0\d MB; give more$"):
        write_page(tmp_path / "r.html", [revision], store, max_mb=0.01)
    size = write_page(tmp_path / "r.html", [revision], store).bytes
    with pytest.raises(UserError, match=r"^--max-mb 0\.\d+: not even the first group fits; give more$"):
        write_page(tmp_path / "r.html", [revision], store, max_mb=(size - 8_000) / 1e6)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_model_has_summary_and_results_and_no_browser(store: Store, tmp_path: Path) -> None:
    model = add_model(store, "local/demo-policy", results={"loss": 0.25})
    lineage = Table("Lineage of x", ("stage", "made from"), [("policy", "weights")])
    written = write_page(tmp_path / "r.html", [model], store, lineage=[lineage])
    page = written.path.read_text()
    assert (written.groups, written.of, written.line) == (0, 0, "")
    assert "Results of the training" in page and "0.25" in page and "Lineage of x" in page
    assert 'id="browser"' not in page


def test_foreign_queries_are_grouped_by_their_text(store: Store, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"query_id": [3, 1, 2], "query": ["b", "a", "b"], "response": ["1", "2", "3"], "x": [1.0, 2.0, 4.0]}
    )
    written = write_page(tmp_path / "r.html", [foreign(tmp_path / "f", frame)], store)
    groups = {group["query"]: group for group in groups_in(written.path)}
    assert groups["b"]["id"] == hashlib.sha256(b"b").hexdigest()[:16]
    assert [one["text"] for one in groups["b"]["parts"][0]["responses"]] == ["1", "3"]
    assert "Metrics of f" in written.path.read_text()


def test_an_empty_dataset_and_a_folder_as_output(store: Store, tmp_path: Path) -> None:
    empty = foreign(tmp_path / "e", pl.DataFrame(schema={"prompt": pl.String, "response": pl.String}))
    with pytest.raises(UserError, match=r"has no row, so there is nothing to show; name another revision$"):
        write_page(tmp_path / "r.html", [empty], store)
    with pytest.raises(UserError, match=r"is a folder; name a file, such as .*report.html$"):
        write_page(tmp_path, [empty], store)
    with pytest.raises(UserError, match=r"x\.parquet is a file, not a folder; name another file$"):
        write_page(tmp_path / "e" / "x.parquet" / "r.html", [empty], store)


def test_an_earlier_page_stays_where_a_new_one_fails(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "r.html"
    write_page(target, [weights(store)], store)
    before = target.read_bytes()
    empty = foreign(tmp_path / "e", pl.DataFrame(schema={"prompt": pl.String, "response": pl.String}))
    with pytest.raises(UserError):
        write_page(target, [empty], store)
    assert target.read_bytes() == before


def texts(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"prompt": ["Write.", "Write.", "Sing."], "response": ["One.", "Two.", "Three."], **columns})


def shown(tmp_path: Path, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The responses of a foreign dataset's page, in the order of the rows of `texts`."""
    revision = foreign(tmp_path / "x", frame)
    written = write_page(tmp_path / "r.html", [revision], Store(tmp_path / "none"))
    parts = [part for group in groups_in(written.path) for part in group["parts"]]
    found = [one | {"fields": part["fields"] | one["fields"]} for part in parts for one in part["responses"]]
    return sorted(found, key=lambda one: ["One.", "Two.", "Three."].index(one["text"]))


@pytest.mark.parametrize(
    ("values", "labels"),
    [([True, False, None], [True, False, None]), ([1, 0, None], [True, False, None]), ([1, -1, 0], [None] * 3)],
)
def test_a_label_is_a_truth_value_or_0_and_1(tmp_path: Path, values: list[Any], labels: list[bool | None]) -> None:
    found = shown(tmp_path, texts(label=values))
    assert [one.get("label") for one in found] == labels
    if labels == [None] * 3:  # another number is a metric, and shown as it is
        assert [one["values"] for one in found] == [[1], [-1], [0]]


def test_columns_of_other_people_are_shown_whatever_their_names(tmp_path: Path) -> None:
    day = date(2026, 1, 2)
    frame = texts(
        completion=["a", "b", "c"], label=["good", "bad", "bad"], row=[5, 6, 7], document_id=[7, 8, 9], day=[day] * 3,
        nested=[{"x": [1]}] * 3, kind=pl.Series(["p", "q", "p"], dtype=pl.Categorical), embedding=[[0.5]] * 3,
    )  # fmt: skip
    first = shown(tmp_path, frame.with_columns(pl.col("prompt").cast(pl.Categorical)))[0]
    assert first["fields"] == {
        "completion": "a", "label": "good", "document_id": "7", "day": "2026-01-02", "kind": "p",
        "nested": '{"x": [1]}',
    }  # fmt: skip
    assert first["values"] == [5]
    assert '<dt>not shown</dt><dd dir="auto">embedding</dd>' in (tmp_path / "r.html").read_text()


def test_a_dataset_that_breaks_off_or_is_damaged_is_named(tmp_path: Path) -> None:
    revision = foreign(tmp_path / "x", texts(score=[float(n) for n in range(3)]))
    (file,) = (tmp_path / "x").iterdir()
    whole = file.read_bytes()
    numbers = pq.ParquetFile(file).metadata.row_group(0).column(2)
    start, size = numbers.dictionary_page_offset or numbers.data_page_offset, numbers.total_compressed_size
    for data in (whole[:-20], whole[:start] + bytes(size) + whole[start + size :]):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"x.*: not readable.*(give it again|make it anew, or name another)$"):
            write_page(tmp_path / "r.html", [revision], Store(tmp_path / "none"))
    assert not (tmp_path / "r.html").exists()


def test_a_conversation_with_nothing_in_it(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go."}]
    pair = pl.DataFrame({"chosen": [said, [said[0], None], None], "rejected": [[said[0]], said, said]})
    groups = groups_in(write_page(tmp_path / "r.html", [foreign(tmp_path / "x", pair)], Store(tmp_path / "no")).path)
    assert sum(len(group["parts"][0]["responses"]) for group in groups) == 6


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    revision = foreign(tmp_path / "my [data]*", texts())
    assert write_page(tmp_path / "r.html", [revision], Store(tmp_path / "none")).groups == 2


def test_a_pipe_is_no_page_and_a_link_leads_to_one(tmp_path: Path) -> None:
    revision, store = foreign(tmp_path / "x", texts()), Store(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match=rf"^--output {output}: is a device or a pipe; name a file$"):
            write_page(output, [revision], store)
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "link.html").symlink_to(tmp_path / "old.html")
    write_page(tmp_path / "link.html", [revision], store)
    assert (tmp_path / "link.html").is_symlink() and "<title>" in (tmp_path / "old.html").read_text()
    with pytest.raises(UserError, match=r"^--output /proc/x\.html: cannot be written: .*; name another file$"):
        write_page(Path("/proc/x.html"), [revision], store)
    with pytest.raises(UserError, match=r"^--max-mb inf: give a number of megabytes, such as 60$"):
        write_page(tmp_path / "r.html", [revision], store, max_mb=math.inf)


def test_marks_that_turn_the_direction_are_seen(tmp_path: Path) -> None:
    revision = foreign(tmp_path / "x", texts(**{"a\u202eb": [1, 2, 3]}))
    page = write_page(tmp_path / "r.html", [revision], Store(tmp_path))
    summary = page.path.read_text().partition('id="groups"')[0].partition("<body")[2]
    assert "aU+202Eb" in summary and "\u202e" not in summary
