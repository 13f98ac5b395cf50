"""The language of a text by its script, and the prompt file of a language.

A prompt setting without a language, such as `generate` or `system`, stands for the file of the row's language:
`generate.zh` for Chinese rows, `system.zh` above a Chinese query.
"""

import re
from collections.abc import Collection

import polars as pl

DEFAULT = "en"  # where there is no prompt in a row's language
# Ranges that Python's patterns and polars' both read: Han characters, Japanese syllables, and words of letters that
# come with blanks between words (Latin, Greek, Cyrillic, Hangul). As escapes: an editor may replace a compatibility
# character by another one, which would change a range.
HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
KANA = "[\u3041-\u309f\u30a1-\u30fa\uff66-\uff9d]"
WORD = "[A-Za-z\u00c0-\u024f\u0370-\u052f\uac00-\ud7a3]+"


def prompt_name(setting: str, language: str, names: Collection[str]) -> str:
    """Return the name of the prompt file that a setting means for a language.

    Args:
        setting: a file's name without `.jinja`, which is meant for every language, or a name without a language such as
            `generate`.
        language: a language code, such as zh or zh-CN; the first file of `generate.zh-CN`, `generate.zh` and
            `generate.en` that exists is meant.
        names: the pipeline's files, without `.jinja`.
    """
    if "." in setting:
        return setting
    codes = (language, base_language(language), DEFAULT)
    return next((name for code in codes if (name := f"{setting}.{code}") in names), f"{setting}.{DEFAULT}")


def base_language(language: str) -> str:
    """Return the base of a language code: zh of zh-CN."""
    return re.split("[-_]", language)[0].lower()


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese: more Han characters than words of other letters, and no Japanese syllable.

    >>> is_chinese("请撰写一份关于 Kubernetes 的报告。"), is_chinese("Write about the term 内卷.")
    (True, False)
    """
    return len(re.findall(HAN, text)) > len(re.findall(WORD, text)) and re.search(KANA, text) is None


def is_chinese_column(text: str) -> pl.Expr:
    """Apply `is_chinese` to every row: a Boolean expression from the name of a text column."""
    column = pl.col(text)
    return (column.str.count_matches(HAN) > column.str.count_matches(WORD)) & ~column.str.contains(KANA)


def contradicts(query: str, language: str) -> bool:
    """Whether a query's script tells that it is not in a language: an English one in Chinese, or the other way round.

    Args:
        query: the writing request.
        language: a language code; of those that are neither English nor Chinese nothing is told.
    """
    base = base_language(language)
    return base in ("en", "zh") and is_chinese(query) != (base == "zh")
