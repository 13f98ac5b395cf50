"""The prompt files: there for both languages, filled in whole, and safe from the texts that they show."""

from typing import Any

import pytest
import yaml

from builders.core.languages import is_chinese
from builders.core.prompting import ask_for, prompt_names
from builders.writingbench.criteria import fixed_criteria
from builders.writingbench.messages import guidance, join_material
from builders.writingbench.settings import PROMPTS, REQUIREMENTS
from builders.writingbench.taxonomy import OURS
from scorers.criteria import check_criteria
from scorers.errors import UserError

VALUES: dict[str, dict[str, Any]] = {
    "request": {"count": 10, "domain": "Education", "subdomain": "Lesson Plan", "description": "What a lesson has."},
    "refine": {"domain": "Education", "subdomain": "Lesson Plan", "request": "Write.", "guidance": ["Say how long."]},
    "materials": {"request": "Write."},
    "material": {"request": "Write.", "materials": ["notes"]},
}


def test_every_kind_has_english_and_chinese() -> None:
    assert {f"{kind}.{language}" for kind in VALUES for language in ("en", "zh")} == set(prompt_names(PROMPTS))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("language", ["en", "zh", "fr"])
def test_a_prompt_is_filled_in(kind: str, language: str) -> None:
    [message] = ask_for(PROMPTS, kind, language, **VALUES[kind])
    assert message["role"] == "user" and "{{" not in message["content"] and "{%" not in message["content"]
    assert is_chinese(message["content"]) == (language == "zh")
    assert "Lesson Plan" in message["content"] or "Write." in message["content"]


def test_guidance_and_fixed_criteria_are_whole_in_both_languages() -> None:
    assert tuple(guidance()) == REQUIREMENTS
    assert all(set(texts) == {"en", "zh"} and is_chinese(texts["zh"]) for texts in guidance().values())
    domains = yaml.safe_load((PROMPTS / "criteria.domain.yaml").read_text(encoding="utf-8"))
    lines = OURS.read_text(encoding="utf-8").splitlines()[1:]
    assert set(domains) == {line.partition(",")[0] for line in lines}
    for language in ("en", "zh"):
        for mode, domain in [("global", "anything"), *(("domain", domain) for domain in domains)]:
            found = fixed_criteria(mode, domain, language)
            assert check_criteria(found) == found
            assert all(is_chinese(text) == (language == "zh") for one in found for text in one.values())


def test_a_domain_without_fixed_criteria() -> None:
    with pytest.raises(UserError, match=r"no fixed criteria for domain Cooking; there are for Academic"):
        fixed_criteria("domain", "Cooking", "en")


def test_the_query_with_its_material() -> None:
    assert join_material("Write.", None, "en") == "Write."
    assert join_material("Write.", "Notes.", "en") == "Write.\n\nMaterial:\n\nNotes."
    assert join_material("请写。", "笔记。", "zh-CN") == "请写。\n\n材料：\n\n笔记。"
