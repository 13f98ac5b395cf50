"""The prompt files of WritingBench, filled in.

What people and models wrote stands between lines of equals signs, more than any of these texts has in a row, so that
none of them can end its own place.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import yaml

from builders.core.languages import prompt_name
from builders.core.prompting import chat, read_prompt, render_prompt
from builders.engines import Message
from builders.writingbench.settings import PROMPTS
from scorers.criteria import BANDS, Criterion

T = TypeVar("T")


@functools.cache
def prompt_names() -> tuple[str, ...]:
    """Return the names of this pipeline's prompt files, without `.jinja`, sorted."""
    return tuple(sorted(path.name.removesuffix(".jinja") for path in PROMPTS.glob("*.jinja")))


def prompts_of(kinds: Iterable[str], languages: Iterable[str]) -> dict[str, str]:
    """Return the prompt files of some kinds, such as `request`, in some languages, by name."""
    names = {prompt_name(kind, language, prompt_names()) for kind in kinds for language in languages}
    return {name: read_prompt(PROMPTS, name) for name in sorted(names)}


@functools.cache
def guidance() -> Mapping[str, Mapping[str, str]]:
    """Return the pool of guidance: by requirement and language, what a request is asked for in addition (C.2)."""
    pool: dict[str, dict[str, str]] = yaml.safe_load((PROMPTS / "guidance.yaml").read_text(encoding="utf-8"))
    return pool


def ask_for(kind: str, language: str, *texts: str, **values: object) -> list[Message]:
    """Return the messages that ask a model for something.

    Args:
        kind: which prompt, such as `request`.
        language: the row's, which chooses the file.
        texts: those of people and models that the prompt shows; its fence is longer than any run of theirs.
        values: what the prompt is filled in with.
    """
    text = read_prompt(PROMPTS, prompt_name(kind, language, prompt_names()))
    return chat(render_prompt(text, fence=fence(*texts), **values))


def ask_for_rating(prompt: str, query: str, response: str, criterion: Criterion, language: str) -> list[Message]:
    """Return the messages that ask a judge, or a critic, to rate a response by one criterion.

    Args:
        prompt: the setting `rate.prompt`.
        query: what was asked for.
        response: the response.
        criterion: the criterion.
        language: the row's.
    """
    shown = (query, response, *criterion.values())
    return ask_for(prompt, language, *shown, query=query, response=response, criterion=criterion, bands=BANDS)


def fence(*texts: str) -> str:
    """Return a line of equals signs, longer than any run of them in the texts.

    >>> fence("a", "=======")
    '========'
    """
    return "=" * max(5, 1 + max((len(run) for text in texts for run in re.findall("=+", text)), default=0))


def in_language(texts: Mapping[str, T], language: str) -> T:
    """Return what belongs to a language; what belongs to English where there is nothing."""
    return texts[prompt_name("", language, [f".{code}" for code in texts]).removeprefix(".")]


def join_material(request: str, material: str | None, language: str) -> str:
    """Return the whole query: the request, and below it the material under a heading."""
    if material is None:
        return request
    heading = in_language({"en": "Material:", "zh": "材料："}, language)
    return f"{request}\n\n{heading}\n\n{material}"
