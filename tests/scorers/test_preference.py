"""Choices between two responses: what is read of a reply, and what both orders say together."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.preference import CHOICES, REPLY, SWAPPED, Comparison, ask_pair, of_both_orders, parse_pair
from scorers.prompts import fence

GOOD = '{"analysis": "A is whole.", "better": "A"}'
PROMPT = "\n".join(f"{{{{ fence }}}}\n{{{{ {name} }}}}\n{{{{ fence }}}}" for name in ("query", "first", "second"))


@pytest.mark.parametrize("reply", [GOOD, f"```json\n{GOOD}\n```", f"So: {GOOD} Done.", f"[{GOOD}]", f"{GOOD}{GOOD}"])
def test_a_choice_is_read(reply: str) -> None:
    assert parse_pair(reply) == Comparison("a", "A is whole.")


def test_the_three_choices() -> None:
    for said, choice in (("A", "a"), (" b ", "b"), ("Tie", "tie")):
        assert parse_pair(json.dumps({"better": said})) == Comparison(choice, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A",
        GOOD[:-1],
        '{"better": "AB"}',
        '{"better": "both"}',
        '{"better": null}',
        '{"better": ["A"]}',
        '{"better": true}',
        '{"better": 1}',
        '{"better": "A", "better": "B"}',
        f'{GOOD} {{"better": "B"}}',
        '{"best": "A"}',
    ],
)
def test_what_is_doubtful_is_no_choice(reply: str) -> None:
    assert parse_pair(reply) is None


@given(st.text())
def test_any_text_is_read_or_not(reply: str) -> None:
    found = parse_pair(reply)
    assert found is None or found.better in CHOICES


def test_only_a_choice_that_stays_with_the_response_counts() -> None:
    expected = {("a", "b"): "a", ("b", "a"): "b", ("tie", "tie"): "tie"}
    for forward, backward in itertools.product(CHOICES, CHOICES):
        assert of_both_orders(forward, backward) == expected.get((forward, backward), "tie")
        # Whoever is called first, the same response is preferred.
        swapped = of_both_orders(backward, forward)
        assert swapped == SWAPPED[of_both_orders(forward, backward)]  # type: ignore[index]
        assert of_both_orders(None, backward) is None and of_both_orders(forward, None) is None


@given(*[st.text(st.sampled_from("=\n a{}%"))] * 3)
def test_no_text_can_end_its_own_place(query: str, first: str, second: str) -> None:
    [message] = ask_pair(PROMPT, query, first, second)
    line = fence(query, first, second)
    assert message["content"].splitlines().count(line) == 6
    assert message["content"] == "\n".join(f"{line}\n{text}\n{line}" for text in (query, first, second))


def test_guided_replies_can_be_read() -> None:
    assert re.fullmatch(REPLY, GOOD) and re.fullmatch(REPLY, GOOD.replace('"A"', '"tie"'))
    assert re.fullmatch(REPLY, GOOD.replace('"A"', '"C"')) is None
