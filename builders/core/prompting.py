"""Prompts: Jinja2 files under builders/prompts, rendered in a sandbox, and the messages made from them."""

import functools
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scorers.errors import UserError

if TYPE_CHECKING:
    from builders.settings.load import Config
    from builders.store.manifest import Manifest

Message = dict[str, str]
SYSTEM_PREFIX = "system."


def prompt_names() -> list[str]:
    """Names of the prompt files."""
    folder = resources.files("builders.grace_kto") / "prompts"
    return sorted(entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja"))


@functools.cache
def prompt_text(name: str) -> str:
    """The text of a prompt file.

    Raises:
        UserError: for a name without a file.
    """
    if name not in prompt_names():
        raise UserError(f"prompt {name!r} is unknown; prompts: {', '.join(prompt_names())}")
    return (resources.files("builders.grace_kto") / "prompts" / f"{name}.jinja").read_text(encoding="utf-8").strip()


def render(name: str, **values: object) -> str:
    """Render a prompt; values are text that is inserted, never a template."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(prompt_text(name)).render(**values)


def system_prompts(config: "Config", manifest: "Manifest | None") -> dict[str, str]:
    """The system prompt under which responses were sampled, by name; empty for none.

    A dataset with a manifest says it itself, whatever the configuration is by now; without one (None) it is the
    configuration's.
    """
    if manifest is not None:
        return {name: text for name, text in manifest.prompts.items() if name.startswith(SYSTEM_PREFIX)}
    name = config.sample.system_prompt
    return {} if name is None else {name: prompt_text(name)}


def answer_messages(query: str, system_prompt: str | None) -> list[Message]:
    """The messages a policy answers: the system prompt for the tagged form, if any, and the query."""
    system = [] if system_prompt is None else [{"role": "system", "content": prompt_text(system_prompt)}]
    return [*system, {"role": "user", "content": query}]
