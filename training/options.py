"""Options that several commands take, and the configuration that they name."""

import json
from collections.abc import Sequence
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
ExecutorOption = Annotated[
    str | None, typer.Option("--executor", help="Where shards are built: local or ray; see executor: in the settings.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes that build shards; on Ray, actors.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Ray cluster to join: auto or host:port; default a Ray of its own.")
]
RoundOption = Annotated[int, typer.Option("--round", min=1, max=MAX_ROUNDS, help="Round of the semi-online loop.")]
PushOption = Annotated[bool, typer.Option("--push", help="Publish the result on the Hugging Face Hub.")]
PrivateOption = Annotated[bool, typer.Option("--private", help="Create repositories private.")]
SubsetOption = Annotated[str | None, typer.Option("--subset", help="Subset of that dataset, if it has several.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of that dataset; default train.")]
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
    config: str | None, overrides: list[str] | None, store: str | None, more: Sequence[str] = ()
) -> "Settings":
    """Return the settings that the options `--config`, `--set` and `--store` name.

    Args:
        config: of `--config`.
        overrides: of `--set`.
        store: of `--store`.
        more: what options that are short for settings set, on top of `--set`.
    """
    from training.pipelines import load_config

    settings: Settings = load_config(config, [*(overrides or []), *more], store)
    return settings


def executor_settings(executor: str | None, workers: int | None, address: str | None) -> list[str]:
    """Return what the options `--executor`, `--workers` and `--address` set; an address is that of a Ray cluster."""
    given = {"kind": executor or ("ray" if address else None), "workers": workers, "address": address}
    # As JSON, which YAML reads as the text it is.
    return [f"executor.{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
