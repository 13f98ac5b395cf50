"""Several languages in one dataset: examples of one prompt share one, and every stage finds the same system prompt."""

import random
from collections import Counter

import polars as pl
import pytest

from builders.core.prompting import chat
from builders.grace_kto.languages import chat_by_language, pick_examples, prompt_name, rows_by_language, system_for
from builders.grace_kto.messages import prompt_text
from scorers.errors import UserError

PROMPTS = {"system.en": "Write.", "system.zh": "写作。"}


def test_examples_of_one_prompt_are_of_one_language() -> None:
    languages = ["zh", "en", "zh", "en", "zh", "en", "zh", "zh"]
    rows = rows_by_language(languages)
    assert rows == {"zh": [0, 2, 4, 6, 7], "en": [1, 3, 5]}
    drawn: Counter[str] = Counter()
    shown: Counter[int] = Counter()
    for draw in range(4000):
        language, picked = pick_examples(rows, draw, 3)
        assert len(set(picked)) == 3 and {languages[row] for row in picked} == {language}
        drawn[language] += 1
        shown.update(picked)
    # The share of the seeds: 5 of 8, within four standard errors; and within a language every seed as often.
    assert drawn["zh"] / 4000 == pytest.approx(5 / 8, abs=4 * (5 / 8 * 3 / 8 / 4000) ** 0.5)
    assert all(shown[row] == drawn["en"] for row in rows["en"])
    assert all(shown[row] / drawn["zh"] == pytest.approx(3 / 5, abs=0.05) for row in rows["zh"])
    assert pick_examples(rows, 7, 3) == pick_examples(rows, 7, 3)
    # A language with fewer seeds than wanted shows all it has.
    assert {len(pick_examples(rows, draw, 5)[1]) for draw in range(50)} == {3, 5}


def test_one_language_draws_what_it_drew_before_there_were_several() -> None:
    for draw in range(20):
        assert pick_examples({"zh": range(9)}, draw, 5) == ("zh", random.Random(draw).sample(range(9), 5))


def test_the_prompt_of_a_language() -> None:
    assert prompt_name("generate", "zh") == prompt_name("generate", "zh-CN") == "generate.zh"
    assert prompt_name("generate", "ZH_Hant") == "generate.zh"
    assert (
        prompt_name("generate", "en") == prompt_name("generate", "fr") == prompt_name("generate", "") == "generate.en"
    )
    assert prompt_name("system", "zh") == "system.zh"
    assert prompt_name("generate.tiny", "zh") == "generate.tiny"
    # A code is data from outside: it is compared with the names of files and never used as a path.
    assert prompt_name("generate", "../../x") == "generate.en"
    assert prompt_text(prompt_name("generate", "zh")).startswith("以下")


@pytest.mark.parametrize("prompts", [{}, {"system.zh": "写作。"}, PROMPTS])
def test_training_sees_the_messages_that_were_answered(prompts: dict[str, str]) -> None:
    queries = ["请撰写报告。", "Write a report.", "写总结，参考 report。"]
    frame = pl.DataFrame({"query": queries}).select(chat_by_language("query", prompts))
    expected = [chat(query, system=system_for(query, prompts)) for query in queries]
    assert frame.to_series().to_list() == expected
    systems = [messages[0]["content"] if len(messages) == 2 else None for messages in expected]
    assert systems == {0: [None] * 3, 1: ["写作。"] * 3, 2: ["写作。", "Write.", "写作。"]}[len(prompts)]


def test_prompts_without_one_in_the_language() -> None:
    prompts = {"system.en": "Write.", "system.fr": "Écrivez."}
    assert system_for("Write a report.", prompts) == "Write."
    message = r"system prompts system\.en, system\.fr: none is called system\.zh"
    with pytest.raises(UserError, match=message):
        system_for("写报告。", prompts)
    with pytest.raises(UserError, match=message):
        chat_by_language("query", prompts)
