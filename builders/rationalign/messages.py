"""What is said of a task to the writing assistant, the teacher and the reward model."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import yaml

from builders.core.prompting import ask_for, prompts_of, read_prompt
from builders.engines import Message
from builders.rationalign.settings import PROMPTS, RationAlignSettings, TaskSettings
from builders.store.revision import Revision
from scorers.edits import Edit, edits_between
from scorers.errors import UserError, did_you_mean
from scorers.prompts import render_prompt
from scorers.rationale import describe
from scorers.suggestion import Order

LANGUAGE = "en"
NOTHING = "No word should be changed because the text is right as it is."
"""The reason where there is no edit."""


@functools.cache
def ours() -> Mapping[str, TaskSettings]:
    """The tasks that come with this package."""
    found = yaml.safe_load((Path(__file__).parent / "tasks.yaml").read_text(encoding="utf-8"))
    return {name: TaskSettings(**values) for name, values in found.items()}


def tasks_of(config: RationAlignSettings) -> dict[str, TaskSettings]:
    """Return all tasks by name, the package's first."""
    return {**ours(), **config.tasks}


def tasks_by_wording(prompt: str) -> str | None:
    """Return the task of this package whose words a prompt says; None where it says none of them."""
    return next((name for name, task in ours().items() if task.change in prompt or task.quality in prompt), None)


def task_of(config: RationAlignSettings, name: str, where: str) -> TaskSettings:
    """Return a task by name.

    Raises:
        UserError: for a task without a metric, naming where it stands.
    """
    tasks = tasks_of(config)
    if name not in tasks:
        raise UserError(
            f"{where}: task {name!r} has no metric{did_you_mean(name, tasks)}; tasks: {', '.join(tasks)}; or describe "
            f"your own: tasks: {{{name}: {{metric: sari, edit: …, change: …, quality: …}}}}"
        )
    return tasks[name]


def require_tasks(config: RationAlignSettings, tasks: pl.Series, texts: Revision) -> None:
    """Check that all tasks of a dataset are known.

    Raises:
        UserError: one is not.
    """
    for name in tasks.unique().sort():
        task_of(config, name, str(texts))


def prompts(
    config: RationAlignSettings, texts: Revision, kinds: Sequence[str], fields: Sequence[str]
) -> dict[str, str]:
    """Return what a stage says and goes by, for its fingerprint.

    Args:
        config: the configuration.
        texts: the dataset whose column `task` names the tasks.
        kinds: of prompt files.
        fields: the settings of a task that the stage reads, such as `edit`.

    Returns:
        The prompt files by name, and of the dataset's tasks those settings; an unknown task has none.
    """
    known = tasks_of(config)
    there: set[str] = set()
    if "task" in texts.schema():
        there |= set(texts.scan().select("task").collect()["task"])
    said = {
        f"task.{name}.{field}": str(getattr(known[name], field))
        for name in sorted(known.keys() & there)
        for field in fields
    }
    return prompts_of(PROMPTS, kinds, [LANGUAGE]) | said


def ask_to_edit(config: RationAlignSettings, task: str, source: str, order: Order) -> list[Message]:
    """Return the messages that a writing assistant answers."""
    return ask(tasks_of(config)[task].edit, source, order)


def ask(wanted: str, source: str, order: Order) -> list[Message]:
    """Return the messages that ask for an edit in given words."""
    return ask_for(PROMPTS, "edit", LANGUAGE, source, task=wanted, source=source, order=order)


def ask_for_reasons(
    config: RationAlignSettings, task: str, source: str, target: str, edits: Sequence[Edit]
) -> list[Message]:
    """Return the messages that ask a teacher why a text was edited."""
    said = tasks_of(config)[task].change
    listed = [describe(edit) for edit in edits]
    return ask_for(
        PROMPTS, "explain", LANGUAGE, source, target, *listed, task=said, source=source, target=target, edits=listed
    )


def reward_text(config: RationAlignSettings, task: str, source: str, suggestion: str) -> str:
    """Return what a reward model reads: a task, the text before and the text after (table 7's kind).

    With `contest.list_edits` the edits from one to the other follow, a line each, or "none".
    """
    edits = []
    if config.contest.list_edits:
        edits = [_line_of(edit) for edit in edits_between(source, suggestion)] or ["none"]
    return render_prompt(
        read_prompt(PROMPTS, f"reward.{LANGUAGE}"),
        task=tasks_of(config)[task].quality,
        source=source,
        suggestion=suggestion,
        edits=edits,
    )


def _line_of(edit: Edit) -> str:
    """Return an edit as the words that go, an arrow, and the words that come."""
    return " ".join([*edit.source, "->", *edit.target])
