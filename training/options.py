"""Options that several commands take, and the configuration that they name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from builders.settings.base import Settings

MAX_ROUNDS = 10_000  # as in builders/settings/base.py, which a command imports only when it runs

ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Preset or YAML file; default grace.yaml here, else the preset tiny.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; repeatable.")
]
StoreOption = Annotated[str | None, typer.Option("--store", help="Folder of the local store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line on stdout.")]
RoundOption = Annotated[int, typer.Option("--round", min=1, max=MAX_ROUNDS, help="Round of the semi-online loop.")]
PushOption = Annotated[bool, typer.Option("--push", help="Publish the result on the Hugging Face Hub.")]
ModelOption = Annotated[bool, typer.Option("--model", help="The repository is a model's.")]
PrivateOption = Annotated[bool, typer.Option("--private", help="Create repositories private.")]
SubsetOption = Annotated[str | None, typer.Option("--subset", help="Subset of that dataset, if it has several.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of that dataset; default train.")]
NprocOption = Annotated[
    int | None, typer.Option("--nproc", min=1, help="Processes that train together, one per GPU; the setting nproc.")
]
ParentsOption = Annotated[
    bool, typer.Option("--parents/--no-parents", help="Publish unpublished parents too, or refuse.")
]
WithOptimizerOption = Annotated[
    bool, typer.Option("--with-optimizer", help="Publish models with the optimizer's state, to go on from.")
]


def examples(*lines: str) -> str:
    """Return the examples that stand below a command's options, one a line."""
    # \b: the lines are not joined to a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def load_settings(
    config: str | None, overrides: list[str] | None, store: str | None, **shorthands: object
) -> "Settings":
    """Return the settings that the options `--config`, `--set` and `--store` name.

    Args:
        config: a preset or a file.
        overrides: `section.key=value` each.
        store: folder of the store.
        shorthands: top-level settings that have an option of their own; None where it is not given.
    """
    from training.pipelines import load_config

    more = [f"{name}={value}" for name, value in shorthands.items() if value is not None]
    settings: Settings = load_config(config, [*(overrides or []), *more], store)
    return settings
