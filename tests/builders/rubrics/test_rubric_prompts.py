"""The prompts for criteria and ratings: there for both languages, filled in whole, and safe from what they show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.core.languages import is_chinese
from builders.core.prompting import ask_for, prompt_names
from builders.rubrics.ratings import ask_for_rating
from builders.rubrics.settings import PROMPTS
from scorers.criteria import BANDS
from scorers.prompts import fence

CRITERION = {"name": "Tone", "criteria_description": "How it sounds.", **dict.fromkeys(BANDS, "so")}


def test_both_kinds_have_english_and_chinese() -> None:
    expected = {f"{kind}.{language}" for kind in ("criteria", "rate") for language in ("en", "zh")}
    assert set(prompt_names(PROMPTS)) == expected | {"rate.tiny"}


@pytest.mark.parametrize("language", ["en", "zh", "fr"])
def test_a_prompt_is_filled_in(language: str) -> None:
    for [message] in (
        ask_for(PROMPTS, "criteria", language, "Write.", query="Write."),
        ask_for_rating("rate", "Write.", "A text.", CRITERION, language),
    ):
        assert message["role"] == "user" and "{{" not in message["content"] and "{%" not in message["content"]
        assert is_chinese(message["content"]) == (language == "zh")
        assert "Write." in message["content"]


@given(st.text(st.sampled_from("=\n a{}%")), st.text(st.sampled_from("=\n a{}%")))
def test_no_text_can_end_its_own_place(query: str, response: str) -> None:
    content = ask_for_rating("rate", query, response, CRITERION, "en")[-1]["content"]
    line = fence(query, response)
    assert content.splitlines().count(line) == 4
    assert f"{line}\n{query}\n{line}" in content and f"{line}\n{response}\n{line}" in content
