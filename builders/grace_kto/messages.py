"""The prompts of GRACE-KTO and the system prompt under which responses were sampled."""

from pathlib import Path

from builders.core.prompting import read_prompt, render_prompt
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.manifest import Manifest

FOLDER = Path(__file__).parent / "prompts"
SYSTEM_PREFIX = "system."


def prompt_text(name: str) -> str:
    """The text of a prompt file of this pipeline.

    Raises:
        UserError: for a name without a file.
    """
    return read_prompt(FOLDER, name)


def system_prompt(config: GraceKTOSettings) -> str | None:
    """The text of the configured system prompt; None for none."""
    name = config.sample.system_prompt
    return None if name is None else prompt_text(name)


def system_prompts(config: GraceKTOSettings, manifest: Manifest | None) -> dict[str, str]:
    """The system prompt under which responses were sampled, by name; empty for none.

    A dataset with a manifest says it itself, whatever the configuration is by now; without one (None) it is the
    configuration's.
    """
    if manifest is not None:
        return {name: text for name, text in manifest.prompts.items() if name.startswith(SYSTEM_PREFIX)}
    name = config.sample.system_prompt
    return {} if name is None else {name: prompt_text(name)}


def ask_for_queries(examples: list[str], count: int, *, prompt: str) -> str:
    """The message that shows example queries and asks for new ones; `prompt` names a prompt file."""
    return render_prompt(prompt_text(prompt), examples=examples, count=count)
