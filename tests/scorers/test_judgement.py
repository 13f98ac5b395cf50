"""Judgements in a judge's replies: how models write them, ten thousand broken ones, and what is put before a judge."""

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.judgement import CRITERIA, REPLY, Judgement, ask, parse
from scorers.prompts import fence

SCORES = {"content": 7, "tone": 8, "ideas": 5, "structure": 6, "persuasiveness": 10}
REPLIED = json.dumps({"analysis": "Dry.", **SCORES})
PROMPT = "Judge.\n{{ fence }}\n{{ query }}\n{{ fence }}\n{{ fence }}\n{{ response }}\n{{ fence }}"


@pytest.mark.parametrize(
    "reply",
    [
        REPLIED,
        f"```json\n{REPLIED}\n```",
        f"It is sound {{on the whole}}, with gaps.\n\n{REPLIED}\n",
        json.dumps({**SCORES, "analysis": " Dry. "}),
        json.dumps({"analysis": "Dry.", **{name: str(score) for name, score in SCORES.items()}}),
        json.dumps({"analysis": "Dry.", **{name: float(score) for name, score in SCORES.items()}, "total": 36}),
        f"[{REPLIED}]",
        f"{REPLIED}\n{json.dumps({**SCORES, 'analysis': 'Again.'})}",
    ],
)
def test_a_judgement_is_read(reply: str) -> None:
    assert parse(reply) == Judgement(SCORES, "Dry.")


def test_the_score_is_the_mean_times_ten() -> None:
    found = parse(REPLIED)
    assert found is not None and found.score == 72.0  # (7 + 8 + 5 + 6 + 10) / 5 · 10
    worst, best = (Judgement(dict.fromkeys(CRITERIA, score), None).score for score in (1, 10))
    assert (worst, best) == (10.0, 100.0)


def changed(**values: Any) -> str:
    return json.dumps({"analysis": "Dry.", **SCORES, **values})


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "content 7, tone 8",
        REPLIED[:-1],
        REPLIED.replace('"tone": 8, ', ""),
        changed(tone=0),
        changed(tone=11),
        changed(tone=-3),
        changed(tone=7.5),
        changed(tone=True),
        changed(tone=None),
        changed(tone="8/10"),
        changed(tone=[8]),
        REPLIED.replace("8", "1e999"),
        REPLIED.replace("8", "NaN"),
        REPLIED[:-1] + ', "tone": 9}',
        f"{REPLIED} {changed(tone=9)}",
        f'{REPLIED} {{"content": 10}}',
        json.dumps({"grades": SCORES}),
        REPLIED.replace("content", "Content"),
    ],
)
def test_what_is_doubtful_is_no_judgement(reply: str) -> None:
    assert parse(reply) is None


def test_no_analysis_is_none() -> None:
    for analysis in (None, "", " ", 3, ["Dry."]):
        assert parse(json.dumps({"analysis": analysis, **SCORES})) == Judgement(SCORES, None)


def test_a_response_that_talks_to_the_judge_gains_nothing() -> None:
    top = json.dumps(dict.fromkeys(CRITERIA, 10))
    assert parse(f"The text says {top}. That is no reason: {REPLIED}") is None  # asked again, and never 10
    assert parse(json.dumps({"analysis": f"It asks for {top}.", **SCORES})) == Judgement(SCORES, f"It asks for {top}.")


def broken(random: Random) -> str:
    """A reply out of which no scores but `SCORES` can rightly be read: damaged, wrapped, or none at all."""
    reply, place = REPLIED, random.randrange(len(REPLIED))
    kind = random.randrange(8)
    if kind == 0:
        return reply[:place]
    if kind == 1:  # an object of it gets a value of another kind
        name = random.choice(list(CRITERIA))
        return changed(**{name: random.choice([0, 11, -1, 10**30, 2.5, True, False, None, "ten", "", [7], {}, "7.5"])})
    if kind == 2:
        return "".join(random.choice('{}[]":,0123456789. \\n\n\u0000\ud83d\u202eé中truenalsy') for _ in range(place))
    if kind == 3:
        return reply[:place] + random.choice("{}[]\"',:\\\u0000") + reply[place:]
    if kind == 4:
        return (
            random.choice(["```json\n", "Scores:", "<think>", "{", "[" * 300]) + reply + random.choice(["", "}", "`"])
        )
    if kind == 5:
        return reply * random.randrange(4)
    if kind == 6:
        return reply.replace(random.choice('":,{}'), "", random.randrange(1, 4))
    return reply[:place] + reply[place + 1 :]  # one character is missing


def test_ten_thousand_broken_replies() -> None:
    random, read = Random(0), 0
    for _ in range(10_000):
        found = parse(reply := broken(random))
        if found is not None:
            read += 1
            lost = len(re.findall(r"\d", REPLIED)) - len(re.findall(r"\d", reply)) == 1  # 10 that lost a digit is 1
            allowed = [SCORES, *([{**SCORES, "persuasiveness": 1}] if lost else [])]
            assert found.scores in allowed, reply
    assert 1_000 < read < 9_000


@given(st.text())
def test_any_text_is_read_or_not(reply: str) -> None:
    found = parse(reply)
    assert found is None or set(found.scores) == set(CRITERIA)


@given(st.text(st.sampled_from("=\n a{}%")), st.text(st.sampled_from("=\n a{}%")))
def test_no_text_can_end_its_own_place(query: str, response: str) -> None:
    [message] = ask(PROMPT, query, response)
    line = fence(query, response)
    assert message["role"] == "user" and message["content"].splitlines().count(line) == 4
    assert f"{line}\n{query}\n{line}\n{line}\n{response}\n{line}" in message["content"]


def test_guided_replies_can_be_read() -> None:
    assert re.fullmatch(REPLY, REPLIED)
    assert re.fullmatch(REPLY, json.dumps({"analysis": 'So "dry"\\ \n', **SCORES}))
    for bad in (changed(tone=0), changed(tone=11), REPLIED[:-1], json.dumps({**SCORES, "analysis": "Late."})):
        assert re.fullmatch(REPLY, bad) is None
