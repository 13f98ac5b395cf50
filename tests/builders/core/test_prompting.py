"""Prompts: what is inserted stays text."""

import pytest

from builders.core.prompting import answer_messages, prompt_names, prompt_text, render
from scorers.errors import UserError

HOSTILE = "{{ examples }} {% for x in 'abc' %}{{ x }}{% endfor %} {{ ''.__class__.__mro__ }} {# gone #}"


@pytest.mark.parametrize("name", ["generate.en", "generate.zh", "generate.tiny"])
def test_braces_inside_a_query_stay_text(name: str) -> None:
    text = render(name, examples=[HOSTILE, "Write B."], count=7)
    assert HOSTILE in text and "Write B." in text and "7" in text
    assert text.replace(HOSTILE, "").count("{") == 0


def test_every_prompt_file_is_listed_and_not_empty() -> None:
    assert {"generate.en", "generate.zh", "generate.tiny", "system.en", "system.zh"} <= set(prompt_names())
    assert all(prompt_text(name).strip() for name in prompt_names())


@pytest.mark.parametrize("name", ["system.en", "system.zh"])
def test_the_system_prompts_name_all_six_tags_once(name: str) -> None:
    for part in ("summary", "outline", "answer"):
        assert prompt_text(name).count(f"<{part}>") == prompt_text(name).count(f"</{part}>") == 1


@pytest.mark.parametrize("name", ["generate.fr", "../presets/tiny.yaml", "/etc/passwd", "", "generate.en.jinja"])
def test_an_unknown_prompt(name: str) -> None:
    with pytest.raises(UserError, match=r"is unknown; prompts: generate\.en, .*system\.zh"):
        prompt_text(name)


def test_messages_of_an_answer() -> None:
    assert answer_messages(HOSTILE, None) == [{"role": "user", "content": HOSTILE}]
    with_system = answer_messages("Write A.", "system.en")
    assert [message["role"] for message in with_system] == ["system", "user"]
    assert with_system[0]["content"] == prompt_text("system.en")
