"""Reading query lists out of replies: the forms models use, and text that tries to be more than data."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.grace_kto.query_parser import MAX_REPLY_CHARS, MAX_STARTS, parse_queries


@pytest.mark.parametrize(
    ("reply", "queries"),
    [
        ('["Write A", "Write B"]', ["Write A", "Write B"]),
        ("['Write A',\n 'Write B',\n]", ["Write A", "Write B"]),
        ('queries.extend(["Write A", "Write B"])', ["Write A", "Write B"]),
        (
            "Sure:\n```python\nqueries = [\n    'Write A',  # the first\n    'Write B',\n]\n```\nEnjoy!",
            ["Write A", "Write B"],
        ),
        ('```json\n["Write \\/ A", "caf\\u00e9"]\n```', ["Write \\/ A", "café"]),
        ('["Write the city\'s plan", "Don\'t stop"]', ["Write the city's plan", "Don't stop"]),
        ("['Write the city\\'s plan']", ["Write the city's plan"]),
        ("Here's what I'd ask: ['Write A']", ["Write A"]),
        ('["a list [1] of ] brackets", "and [ one"]', ["a list [1] of ] brackets", "and [ one"]),
        ("As [1] and [see below] say: ['Write A']", ["Write A"]),
        ("[['Write A', 'Write B']]", ["Write A", "Write B"]),
        ("['Write A'] or rather ['Write B']", ["Write A"]),
        ("['''Write\nA''']", ["Write\nA"]),
        ('["写一份报告", "写一份计划"]', ["写一份报告", "写一份计划"]),
        ("['  ', '']", ["  ", ""]),
    ],
)
def test_lists_that_are_read(reply: str, queries: list[str]) -> None:
    assert parse_queries(reply) == queries


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Write a report.",
        "[]",
        "[1, 2]",
        "['Write A', 2]",
        "['Write A', None]",
        "['Write A'",
        "['Write A]",
        "('Write A', 'Write B')",
        "{'queries': 'Write A'}",
        "[f'Write {1 + 1}']",
        "['Write A' for _ in range(3)]",
        "['Write A' * 3]",
        "[b'Write A']",
        "[... , 'Write A']",
    ],
)
def test_replies_without_a_list_of_strings(reply: str) -> None:
    assert parse_queries(reply) is None


def test_json_is_read_where_python_cannot() -> None:
    # `\ud83d\ude00` is one character in JSON and two halves in Python; no half may remain in the text.
    assert parse_queries('["Smile \\ud83d\\ude00"]') == ["Smile \U0001f600"]
    assert parse_queries('["half \\ud83d"]') == ["half \ufffd"]
    # A bare null is no Python literal, so the reply is read as JSON, and refused for what it holds.
    assert parse_queries('["Write A", null]') is None


def test_nothing_is_evaluated(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("here")
    for expression in (
        f"__import__('os').unlink({str(victim)!r})",
        f"exec(\"import os; os.unlink('{victim}')\")",
        f"(lambda: __import__('pathlib').Path({str(victim)!r}).unlink())()",
    ):
        assert parse_queries(f"[{expression}]") is None
        assert parse_queries(f"queries.extend([{expression}, 'Write A'])") is None
        assert parse_queries(f"['Write A'][{expression}]") == ["Write A"]
    assert victim.read_text() == "here"


@pytest.mark.parametrize(
    "reply",
    [
        "[" * 1_000_000,
        "[" * 50_000 + "]" * 50_000,
        "[" + "(" * 80_000 + ")" * 80_000 + "]",
        "[" + "-" * 100_000 + "1]",
        "[" + "1+" * 90_000 + "1]",
        "[" + "{1:" * 40_000 + "}" * 40_000 + "]",
        "[" + "9" * 100_000 + "]",
        "['" + "\\" * 150_001,
        "[\0'Write A']",
    ],
    ids=range(9),
)
def test_hostile_nesting_ends_without_a_list(reply: str) -> None:
    assert parse_queries(reply) is None


def test_the_work_on_one_reply_is_bounded() -> None:
    assert parse_queries("[x]" * (MAX_STARTS - 1) + "['Write A']") == ["Write A"]
    assert parse_queries("[x]" * MAX_STARTS + "['Write A']") is None
    assert parse_queries(" " * MAX_REPLY_CHARS + "['Write A']") is None


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("[]'\"\\,()un{}:#\n"))))
def test_any_text_gives_none_or_texts_that_utf8_can_hold(reply: str) -> None:
    queries = parse_queries(reply)
    assert queries is None or (queries and all(query.encode() or not query for query in queries))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5))
def test_a_python_list_comes_back(queries: list[str]) -> None:
    assert parse_queries(f"queries.extend({queries!r})") == queries
