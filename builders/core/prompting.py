"""Prompts and chat messages.

A prompt is a Jinja2 file in the folder `prompts` of its package, rendered in a sandbox. What people and models wrote
stands in it between lines of equals signs, more than any of these texts has in a row, so that none of them can end its
own place.
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builders.core.languages import prompt_name
from builders.engines import Message
from builders.store.columns import MESSAGES
from scorers.errors import UserError, did_you_mean


# Asked for every prompt that is sent.
@functools.cache
def prompt_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the prompt files of a folder, without `.jinja`, sorted."""
    return tuple(sorted(path.name.removesuffix(".jinja") for path in folder.glob("*.jinja")))


def prompts_of(folder: Path, kinds: Iterable[str], languages: Iterable[str]) -> dict[str, str]:
    """Return the prompt files of some kinds, such as `request`, in some languages, by name."""
    languages = list(languages)
    names = {prompt_name(kind, language, prompt_names(folder)) for kind in kinds for language in languages}
    return {name: read_prompt(folder, name) for name in sorted(names)}


def ask_for(folder: Path, kind: str, language: str, *texts: str, **values: object) -> list[Message]:
    """Return the messages that ask a model for something.

    Args:
        folder: of the prompt files.
        kind: which prompt, such as `request`.
        language: the row's, which chooses the file.
        texts: those of people and models that the prompt shows; its fence is longer than any run of theirs.
        values: what the prompt is filled in with.
    """
    text = read_prompt(folder, prompt_name(kind, language, prompt_names(folder)))
    return chat(render_prompt(text, fence=fence(*texts), **values))


def fence(*texts: str) -> str:
    """Return a line of equals signs, longer than any run of them in the texts.

    >>> fence("a", "=======")
    '========'
    """
    return "=" * max(5, 1 + max((len(run) for text in texts for run in re.findall("=+", text)), default=0))


# A prompt is rendered for every attempt; its file is read once.
@functools.cache
def read_prompt(folder: Path, name: str) -> str:
    """Read a prompt file and strip the white space around its text.

    Args:
        folder: the pipeline's folder of prompts.
        name: the file's name without the ending `.jinja`.

    Raises:
        UserError: for a name without a file; the message suggests the closest one.
    """
    names = prompt_names(folder)
    if name not in names:
        raise UserError(f"prompt {name!r} is unknown{did_you_mean(name, names)}; prompts: {', '.join(names)}")
    return (folder / f"{name}.jinja").read_text(encoding="utf-8").strip()


def render_prompt(text: str, **values: Any) -> str:
    """Render a prompt with values, which are inserted as text and never read as templates.

    Raises:
        jinja2.UndefinedError: for a value that the prompt uses and the caller leaves out.
    """
    return _template(text).render(**values)


# Compiling a prompt takes a millisecond, and a round renders one for every attempt.
@functools.lru_cache(maxsize=16)
def _template(text: str) -> Template:
    """Return a compiled prompt."""
    # StrictUndefined: a misspelt variable is an error, not an empty string.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


def chat(user: str, *, system: str | None = None) -> list[Message]:
    """Return the messages that a model answers: the system prompt, if any, and the user's text."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": user}]


def answer(text: str) -> list[Message]:
    """Return a completion as one assistant message."""
    return [{"role": "assistant", "content": text}]


def chat_column(user: str, *, system: str | None = None) -> pl.Expr:
    """Apply `chat` to every row: a MESSAGES expression from the name of a text column."""
    messages = [] if system is None else [_message("system", pl.lit(system))]
    return pl.concat_list(*messages, _message("user", pl.col(user))).cast(MESSAGES)


def answer_column(text: str) -> pl.Expr:
    """Apply `answer` to every row: a MESSAGES expression from the name of a text column."""
    return pl.concat_list(_message("assistant", pl.col(text))).cast(MESSAGES)


def _message(role: str, content: pl.Expr) -> pl.Expr:
    """Return one chat message as a struct expression."""
    return pl.struct(pl.lit(role).alias("role"), content.alias("content"))
