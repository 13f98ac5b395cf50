"""Several languages in one dataset: which seeds are shown together, and in which language a prompt speaks.

Seeds carry a language code. Groups and what is made of them do not, so the language follows from the query's own text,
the same in every stage and for anybody's data.
"""

import random
from collections.abc import Mapping, Sequence

import polars as pl

from builders.core import languages
from builders.core.languages import DEFAULT, is_chinese, is_chinese_column
from builders.core.prompting import chat_column, prompt_names
from builders.grace_kto.messages import SYSTEM_PREFIX
from builders.grace_kto.settings import PROMPTS
from scorers.errors import UserError


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
    codes = list(rows)
    if len(codes) > 1:
        codes = numbers.choices(codes, [len(rows[language]) for language in codes])
    found = rows[codes[0]]
    return codes[0], [found[place] for place in numbers.sample(range(len(found)), min(count, len(found)))]


def prompt_name(setting: str, language: str) -> str:
    """Return the name of this pipeline's prompt file that a setting means for a language."""
    return languages.prompt_name(setting, language, prompt_names(PROMPTS))


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


def language_column(query: str) -> pl.Expr:
    """Return the language code that a query's own text tells, zh or en, as the column `language`.

    Args:
        query: name of the query's column.
    """
    return pl.when(is_chinese_column(query)).then(pl.lit("zh")).otherwise(pl.lit(DEFAULT)).alias("language")


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
