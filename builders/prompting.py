"""Prompts: Jinja2 files under builders/prompts, rendered in a sandbox, and the messages made from them."""

import functools
from importlib import resources

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scorers.errors import UserError

Message = dict[str, str]


def prompt_names() -> list[str]:
    """Names of the prompt files."""
    folder = resources.files("builders") / "prompts"
    return sorted(entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja"))


@functools.cache
def prompt_text(name: str) -> str:
    """The text of a prompt file.

    Raises:
        UserError: for a name without a file.
    """
    if name not in prompt_names():
        raise UserError(f"prompt {name!r} is unknown; prompts: {', '.join(prompt_names())}")
    return (resources.files("builders") / "prompts" / f"{name}.jinja").read_text(encoding="utf-8").strip()


def render(name: str, **values: object) -> str:
    """Render a prompt; values are text that is inserted, never a template."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(prompt_text(name)).render(**values)


def answer_messages(query: str, system_prompt: str | None) -> list[Message]:
    """The messages a policy answers: the system prompt for the tagged form, if any, and the query."""
    system = [] if system_prompt is None else [{"role": "system", "content": prompt_text(system_prompt)}]
    return [*system, {"role": "user", "content": query}]
