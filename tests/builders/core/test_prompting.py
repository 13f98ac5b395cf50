"""Prompts: what is inserted stays text, and messages are the same wherever they are made."""

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.core.prompting import answer, answer_column, chat, chat_column, prompt_names
from builders.grace_kto.messages import ask_for_queries, prompt_text
from builders.grace_kto.settings import PROMPTS
from scorers.errors import UserError

HOSTILE = "{{ examples }} {% for x in 'abc' %}{{ x }}{% endfor %} {{ ''.__class__.__mro__ }} {# gone #}"
NAMES = prompt_names(PROMPTS)


@pytest.mark.parametrize("name", ["generate.en", "generate.zh", "generate.tiny"])
def test_braces_inside_a_query_stay_text(name: str) -> None:
    text = ask_for_queries([HOSTILE, "Write B."], 7, prompt=name)
    assert HOSTILE in text and "Write B." in text and "7" in text
    assert text.replace(HOSTILE, "").count("{") == 0


def test_every_prompt_file_has_a_text() -> None:
    assert {"generate.en", "generate.zh", "generate.tiny", "system.en", "system.zh"} <= set(NAMES)
    assert all(prompt_text(name).strip() for name in NAMES)


@pytest.mark.parametrize("name", ["system.en", "system.zh"])
def test_the_system_prompts_name_all_six_tags_once(name: str) -> None:
    for part in ("summary", "outline", "answer"):
        assert prompt_text(name).count(f"<{part}>") == prompt_text(name).count(f"</{part}>") == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".zh")])
def test_chinese_prompts_have_chinese_punctuation(name: str) -> None:
    # A comma or colon of half width after a Chinese character, or before one, is English punctuation.
    assert re.findall(r"[一-鿿][,:;?!]|[,:;?!][一-鿿]", prompt_text(name)) == []
    if name.startswith("generate."):
        # Replies are read as Python lists; the prompt says how quotes inside a request keep them readable.
        assert all(word in prompt_text(name) for word in ("半角", "“”", '["第一条要求", "第二条要求"]'))


@pytest.mark.parametrize("name", ["generate.fr", "../presets/tiny.yaml", "/etc/passwd", "", "generate.en.jinja"])
def test_an_unknown_prompt(name: str) -> None:
    with pytest.raises(UserError, match=r"is unknown.*; prompts: format\.en, .*system\.zh"):
        prompt_text(name)


def test_messages_of_a_question() -> None:
    assert chat(HOSTILE) == [{"role": "user", "content": HOSTILE}]
    assert chat("Write A.", system="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write A."},
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.none() | st.just("Be brief."))
def test_a_column_of_messages_is_the_messages_of_its_rows(texts: list[str], system: str | None) -> None:
    frame = pl.DataFrame({"text": texts}).select(
        chat_column("text", system=system).alias("chat"), answer_column("text").alias("answer")
    )
    assert frame["chat"].to_list() == [chat(text, system=system) for text in texts]
    assert frame["answer"].to_list() == [answer(text) for text in texts]
