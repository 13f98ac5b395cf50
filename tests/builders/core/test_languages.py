"""What a text's script tells of its language, for single texts and whole columns."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.core.languages import contradicts, is_chinese, is_chinese_column


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("请撰写一份关于长江防汛的报告。", True),
        ("请撰写一份关于 Kubernetes 和 OpenTelemetry 的迁移方案，不少于3000字。", True),
        ("请写《三体》𠀀", True),
        ("Please write a report on river trade.", False),
        ("Explain the term 十四五规划 to readers of an annual report in one short chapter.", False),
        ("報告書を書いてください。", False),
        ("Напишите отчёт.", False),
        ("2026", False),
        ("", False),
        ("보고서를 작성해 주세요", False),
        ("A report on 한국 경제", False),
        ("ﾚﾎﾟｰﾄを書く報告", False),
        ("豈能\uf900忘", True),
    ],
)
def test_what_is_chinese(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("写一份报告 abc のÀя"))))
def test_a_column_is_told_as_its_texts_are(texts: list[str]) -> None:
    frame = pl.DataFrame({"query": texts}, schema={"query": pl.String})
    assert frame.select(is_chinese_column("query")).to_series().to_list() == [is_chinese(text) for text in texts]


def test_a_script_contradicts_english_and_chinese_alone() -> None:
    assert contradicts("请写一份报告。", "en-GB") and contradicts("Write a report.", "zh_Hant")
    assert not contradicts("请写一份报告。", "zh") and not contradicts("Write a report.", "EN")
    assert not contradicts("请写一份报告。", "ja") and not contradicts("Write a report.", "fr")
