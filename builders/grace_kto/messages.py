"""The prompt files of GRACE-KTO, and the system prompts under which responses are sampled."""

from builders.core.prompting import prompt_names, read_prompt
from builders.grace_kto.settings import PROMPTS, GraceKTOSettings
from builders.store.manifest import Manifest
from scorers.prompts import render_prompt

SYSTEM_PREFIX = "system."  # begins the name of every system prompt, in files and in manifests
SYSTEM_BY_LANGUAGE = "system"  # the setting that means the file of each query's language


def prompt_text(name: str) -> str:
    """Return the text of a prompt file of this pipeline.

    Raises:
        UserError: for a name without a file.
    """
    return read_prompt(PROMPTS, name)


def system_prompts(config: GraceKTOSettings, manifest: Manifest | None) -> dict[str, str]:
    """Return the system prompts under which responses were sampled, by name; see `languages.system_for`.

    There is none, one for all queries, or one for each language.

    Args:
        config: its system prompt counts where there is no manifest.
        manifest: manifest of the dataset with the responses; it names the prompt that was used, whatever the
            configuration says by now.
    """
    if manifest is not None:
        return {name: text for name, text in manifest.prompts.items() if name.startswith(SYSTEM_PREFIX)}
    name = config.sample.system_prompt
    if name == SYSTEM_BY_LANGUAGE:
        return {found: prompt_text(found) for found in prompt_names(PROMPTS) if found.startswith(SYSTEM_PREFIX)}
    return {} if name is None else {name: prompt_text(name)}


def ask_for_queries(examples: list[str], count: int, *, prompt: str) -> str:
    """Return the message that shows example queries and asks for `count` new ones."""
    return render_prompt(prompt_text(prompt), examples=examples, count=count)
