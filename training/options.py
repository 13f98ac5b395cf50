"""Options that several commands take, and the configuration that they name."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from builders.settings.base import Settings

CONTEXT_METHODS = "none,dynamic,yarn"  # of `grace evaluate --contexts`
WINDOW = re.compile(r"([0-9]{1,9})(k?)", re.ASCII)  # in tokens
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

ContextsOption = Annotated[
    str | None,
    typer.Option("--contexts", metavar="WINDOWS", help="Compare one policy's context windows, such as 8k,16k,32k."),
]
MethodsOption = Annotated[
    str | None,
    typer.Option("--methods", help=f"How it gets beyond its own window; default {CONTEXT_METHODS}."),
]


def examples(*lines: str) -> str:
    """Return the examples that stand below a command's options, one a line."""
    # \b: the lines are not joined to a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def windows_of(contexts: str) -> list[int]:
    """Read the option `--contexts`: context windows in tokens, k for 1,024.

    Raises:
        UserError: a part is no number of tokens from 2 on, or stands there twice.
    """
    from scorers.errors import UserError

    windows = []
    for part in contexts.split(","):
        found = WINDOW.fullmatch(part.strip())
        window = 0 if found is None else int(found[1]) * (1024 if found[2] else 1)
        if window < 2 or window in windows:
            raise UserError(
                f"--contexts {contexts}: {part.strip()!r} is no further window; give numbers of tokens, each once, "
                "such as 8k,16k,32k"
            )
        windows.append(window)
    return windows


def methods_of(methods: str) -> list[str]:
    """Read the option `--methods`.

    Raises:
        UserError: a part is no method, or stands there twice.
    """
    from scorers.errors import UserError, did_you_mean

    known = CONTEXT_METHODS.split(",")
    names: list[str] = []
    for name in map(str.strip, methods.split(",")):
        if name not in known or name in names:
            close = "" if name in known else did_you_mean(name, known)
            raise UserError(
                f"--methods {methods}: {name!r} is no further method{close}; give some of {', '.join(known)}, each once"
            )
        names.append(name)
    return names


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
