"""Prompts: Jinja2 files of a pipeline's folder `prompts`, rendered in a sandbox, and chat messages."""

import functools
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builders.engines import Message
from builders.store.columns import MESSAGES
from scorers.errors import UserError, did_you_mean


@functools.cache
def read_prompt(folder: Path, name: str) -> str:
    """The text of a prompt file, named without its ending.

    Raises:
        UserError: for a name without a file, with the close match.
    """
    names = sorted(path.name.removesuffix(".jinja") for path in folder.glob("*.jinja"))
    if name not in names:
        raise UserError(f"prompt {name!r} is unknown{did_you_mean(name, names)}; prompts: {', '.join(names)}")
    return (folder / f"{name}.jinja").read_text(encoding="utf-8").strip()


def render_prompt(text: str, **values: Any) -> str:
    """Render a prompt; values are text that is inserted, never a template."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(**values)


def chat(user: str, *, system: str | None = None) -> list[Message]:
    """The messages a model answers: the system prompt's text, if any, and the user's."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": user}]


def answer(text: str) -> list[Message]:
    """One assistant message."""
    return [{"role": "assistant", "content": text}]


def chat_column(user: str, *, system: str | None = None) -> pl.Expr:
    """`chat` of every row of a text column."""
    messages = [] if system is None else [_message("system", pl.lit(system))]
    return pl.concat_list(*messages, _message("user", pl.col(user))).cast(MESSAGES)


def answer_column(text: str) -> pl.Expr:
    """`answer` of every row of a text column."""
    return pl.concat_list(_message("assistant", pl.col(text))).cast(MESSAGES)


def _message(role: str, content: pl.Expr) -> pl.Expr:
    return pl.struct(pl.lit(role).alias("role"), content.alias("content"))
