"""Prompts and chat messages.

A prompt is a Jinja2 file in the folder `prompts` of its package; `scorers.prompts` fills it in.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from builders.core.languages import prompt_name
from builders.engines import Message
from builders.store.columns import MESSAGES
from scorers.errors import UserError, did_you_mean
from scorers.prompts import fence, render_prompt


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
