"""Several languages in one dataset: which seeds are shown together, and in which language a prompt speaks.

A prompt setting without a language, such as `generate` or `system`, stands for the file of the row's language:
`generate.zh` for Chinese seeds, `system.zh` above a Chinese query. Seeds carry a language code. Groups and what is made
of them do not, so the system prompt follows from the query's own text, the same in every stage and for anybody's data.
"""

import random
import re
from collections.abc import Mapping, Sequence

import polars as pl

from builders.core.prompting import chat_column
from builders.grace_kto.messages import SYSTEM_PREFIX, prompt_names
from scorers.errors import UserError

DEFAULT = "en"  # where there is no prompt in a row's language
# Ranges that Python's patterns and polars' both read: Han characters, Japanese syllables, and words of letters that
# come with blanks between words (Latin, Greek, Cyrillic, Hangul). As escapes: an editor may replace a compatibility
# character by another one, which would change a range.
HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
KANA = "[\u3041-\u309f\u30a1-\u30fa\uff66-\uff9d]"
WORD = "[A-Za-z\u00c0-\u024f\u0370-\u052f\uac00-\ud7a3]+"


def rows_by_language(languages: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the rows of each language code, languages in the order of their first row."""
    rows: dict[str, list[int]] = {}
    for row, language in enumerate(languages):
        rows.setdefault(language, []).append(row)
    return rows


def pick_examples(rows: Mapping[str, Sequence[int]], draw: int, count: int) -> tuple[str, list[int]]:
    """Draw the seeds that one prompt shows, all of one language, so that prompt, examples and new queries fit.

    The language is drawn with its share of the seeds, then the seeds uniformly among those of the language.

    Args:
        rows: the seeds' row numbers by language, see `rows_by_language`; not empty.
        draw: seed of this prompt's random numbers.
        count: seeds to show; all of the language where it has fewer.

    Returns:
        The language, and the rows in the order in which they are shown.
    """
    numbers = random.Random(draw)
    languages = list(rows)
    if len(languages) > 1:
        languages = numbers.choices(languages, [len(rows[language]) for language in languages])
    found = rows[languages[0]]
    return languages[0], [found[place] for place in numbers.sample(range(len(found)), min(count, len(found)))]


def prompt_name(setting: str, language: str) -> str:
    """Return the name of the prompt file that a setting means for a language.

    Args:
        setting: a file's name without `.jinja`, which is meant for every language, or a name without a language such as
            `generate`.
        language: a language code, such as zh or zh-CN; the first file of `generate.zh-CN`, `generate.zh` and
            `generate.en` that exists is meant.
    """
    if "." in setting:
        return setting
    codes = (language, re.split("[-_]", language)[0].lower(), DEFAULT)
    names = prompt_names()
    return next((name for code in codes if (name := f"{setting}.{code}") in names), f"{setting}.{DEFAULT}")


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
    base = re.split("[-_]", language)[0].lower()
    return base in ("en", "zh") and is_chinese(query) != (base == "zh")


def system_for(query: str, prompts: Mapping[str, str]) -> str | None:
    """Return the system prompt above a query.

    Args:
        query: the writing request.
        prompts: texts by name, as the configuration or a manifest has them (`messages.system_prompts`): none, one for
            all queries, or one for each language.

    Raises:
        UserError: for several prompts, none of which is in the query's language.
    """
    if len(prompts) < 2:
        return next(iter(prompts.values()), None)
    return _of_language(prompts, "zh" if is_chinese(query) else DEFAULT)


def chat_by_language(query: str, prompts: Mapping[str, str]) -> pl.Expr:
    """Return the messages that were answered: a MESSAGES expression from the name of the query's column.

    Args:
        query: name of the column.
        prompts: as for `system_for`.

    Raises:
        UserError: for several prompts without one in English or in Chinese.
    """
    if len(prompts) < 2:
        return chat_column(query, system=next(iter(prompts.values()), None))
    chinese, other = (chat_column(query, system=_of_language(prompts, code)) for code in ("zh", DEFAULT))
    return pl.when(is_chinese_column(query)).then(chinese).otherwise(other)


def _of_language(prompts: Mapping[str, str], language: str) -> str:
    """Return the system prompt of a language."""
    name = f"{SYSTEM_PREFIX}{language}"
    if name not in prompts:
        raise UserError(
            f"system prompts {', '.join(sorted(prompts))}: none is called {name}, which queries in this language need; "
            "sample with one prompt, or with one for each language"
        )
    return prompts[name]
