"""Reading query lists out of replies: as models write them (replies.yaml), and text that tries to be more than data."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builders.core.query_parser import Parsed, list_pattern, read_queries, shown_by
from builders.grace_kto.messages import prompt_text

REPLIES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "replies.yaml").read_text(encoding="utf-8"))
SHOWN = [*shown_by(prompt_text("generate.en"), ["Write about harbours."]), *shown_by(prompt_text("generate.zh"), [])]
MARKS = "[]'\"\\,()un{}:#\n “”‘’「」，、［】"


@pytest.mark.parametrize("row", REPLIES, ids=[str(index) for index in range(len(REPLIES))])
def test_replies_as_models_write_them(row: dict[str, Any]) -> None:
    found = read_queries(row["reply"], SHOWN)
    assert found == Parsed(row["queries"], row.get("unreadable", 0), row.get("repeated", 0))


def test_the_table_is_large_enough_and_in_both_languages() -> None:
    chinese = [row for row in REPLIES if any("一" <= char <= "鿿" for char in row["reply"])]
    assert len(REPLIES) >= 50 and len(chinese) >= 15


def test_what_a_prompt_shows() -> None:
    assert shown_by(prompt_text("generate.en"), ["Write A."]) == ["Write A.", "first request", "second request"]
    assert shown_by(prompt_text("generate.zh"), []) == ["第一条要求", "第二条要求"]
    assert shown_by(prompt_text("generate.tiny"), ["Write A."]) == ["Write A."]
    # A repetition counts as one, whatever its case and white space; without `shown` nothing is left out.
    assert read_queries("['WRITE  a.', 'Write A. again']", ["Write A."]) == Parsed(["Write A. again"], 0, 1)
    assert read_queries("['Write A.']") == Parsed(["Write A."], 0, 0)


def test_blank_strings_and_repetitions_are_left_to_the_caller() -> None:
    assert read_queries("['  ', '', 'a', 'a']").queries == ["  ", "", "a", "a"]


def test_halves_of_characters() -> None:
    # `\ud83d\ude00` is one character in JSON and two halves in Python; no half may remain in the text.
    assert read_queries('["Smile \\ud83d\\ude00", "half \\ud83d", "half \ud83d"]').queries == [
        "Smile \U0001f600",
        "half \ufffd",
        "half \ufffd",
    ]


def test_nothing_is_evaluated(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("here")
    for expression in (
        f"__import__('os').unlink({str(victim)!r})",
        f"exec(\"import os; os.unlink('{victim}')\")",
        f"(lambda: __import__('pathlib').Path({str(victim)!r}).unlink())()",
    ):
        assert read_queries(f"[{expression}]").queries == []
        assert read_queries(f"queries.extend([{expression}, 'Write A'])").queries == []
        assert read_queries(f"['Write A'][{expression}]").queries == ["Write A"]
        assert read_queries(f"['Write A', {expression}, 'Write B']").unreadable >= 1
    assert victim.read_text() == "here"


HOSTILE = (
    *("[", '["', '["a', '["a"]', "['", "[“", "[{'", "[('", "[1,", "[#", "a['b']", '["""a', "['''", '["a"#\n', '["a\n'),
    *('"', '",', '",#', '",#\n', '"          ', '""', '" "', '写"五"年', "'a','", '"a" b, ', '["a",[', "\\", '"\n"'),
)


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("start", ["", '["a", "'], ids=["bare", "in a string"])
def test_the_time_is_linear(piece: str, start: str) -> None:
    def seconds(length: int) -> float:
        text = (start + piece * (length // len(piece)))[:length]
        begin = time.process_time()
        read_queries(text)
        return time.process_time() - begin

    # Sixteen times the text: linear work takes 16 times as long, quadratic work 256 times. Below a millisecond the
    # clock's own steps would decide.
    assert seconds(160_000) < 80 * max(seconds(10_000), 0.001)


def test_deep_nesting() -> None:
    for reply in ("[" * 50_000 + "'a'" + "]" * 50_000, "['a', " + "[" * 50_000 + "'b'"):
        assert read_queries(reply).queries[:1] == ["a"]
    assert read_queries("['a', " + "(" * 80_000 + ")" * 80_000 + "]") == Parsed([], 1, 0)


@given(st.text(st.one_of(st.characters(), st.sampled_from(MARKS))))
def test_any_text_is_read_without_an_error(reply: str) -> None:
    found = read_queries(reply)
    assert found.unreadable >= 0 and found.repeated == 0
    assert all(isinstance(query.encode(), bytes) for query in found.queries)


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(MARKS.replace("\\", "")))))
def test_without_escapes_every_query_stands_in_the_reply(reply: str) -> None:
    reply = reply.replace("\\", "")
    for query in read_queries(f'["{reply}", "b"]').queries:
        assert query in f'["{reply}", "b"]'
    assert all(query in reply for query in read_queries(reply).queries)


WRITTEN = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5)


@given(WRITTEN)
def test_what_python_and_json_write_comes_back(queries: list[str]) -> None:
    for text in (repr(queries), json.dumps(queries), json.dumps(queries, ensure_ascii=False, indent=1)):
        assert read_queries(f"queries.extend({text})") == Parsed(queries, 0, 0)


@given(WRITTEN, st.integers(min_value=1))
def test_what_is_complete_survives_a_cut(queries: list[str], place: int) -> None:
    text = json.dumps(queries, ensure_ascii=False)
    cut = text[: place % len(text)]
    found = read_queries(cut)
    # Every string that is whole before the cut is kept, and no part of another one is taken for a string.
    assert found.queries == queries[: len(found.queries)]
    whole = [i + 1 for i in range(len(queries)) if len(json.dumps(queries[: i + 1], ensure_ascii=False)) <= len(cut)]
    assert len(found.queries) >= max(whole, default=0)


@given(st.from_regex(list_pattern(3), fullmatch=True))
def test_every_string_of_a_guided_list_is_read(reply: str) -> None:
    found = read_queries(reply)
    assert len(found.queries) == 3 and not found.unreadable
    assert all(query.strip() for query in found.queries)
    assert json.loads(reply) == found.queries


# Pieces that end strings, quotations and lists, where chance seldom puts them side by side.
PIECES = ("a", " ", ", ", "，", "[", "]", "#", "'", "“b”", "「c」", "‘d’", "n’t", "```", "…", "1")


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join), min_size=2, max_size=2))
def test_guided_lists_with_what_looks_like_an_end(strings: list[str]) -> None:
    reply = f'["{strings[0]}", "{strings[1]}"]'
    if re.fullmatch(list_pattern(2), reply):
        assert read_queries(reply) == Parsed(strings, 0, 0)
    else:
        assert any(not string[0].strip() for string in strings) or "’" in reply


@pytest.mark.parametrize(
    "reply",
    [
        '["a"]',
        '["a<b", "c"]',
        '["a", "b", "c"]',
        '[" a", "b"]',
        '["\u3000a", "b"]',
        '["a\\n", "b"]',
        '["a”， “b", "c"]',
        '["a", "b"] so',
    ],
)
def test_what_a_guided_list_of_two_is_not(reply: str) -> None:
    assert re.fullmatch(list_pattern(2), reply) is None
