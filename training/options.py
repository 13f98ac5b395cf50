"""Options that several commands take, and the configuration that they name."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

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
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="ROLE|ENGINE:MODEL",
        help="Who grades the answers: a role of the configuration, or such as vllm:Qwen/Qwen3-32B, openai:gpt-4o.",
    ),
]
ENGINES = ("transformers", "vllm", "openai")
PairwiseOption = Annotated[
    bool, typer.Option("--pairwise", help="Let the judge choose between every two policies' answers, in both orders.")
]


def engine_of(judge: str | None) -> list[str]:
    """Return what the option `--judge` says of its engine: other settings of the engine are known by its kind alone."""
    engine = (judge or "").partition(":")[0]
    return [f"engines.judge.kind={engine}"] if engine in ENGINES else []


def judge_of(judge: str | None, settings: "Settings", *, pairwise: bool = False) -> list[str]:
    """Return what the options `--judge` and `--pairwise` set.

    Args:
        judge: a role that has a model, or an engine with a model; None: the role `judge`.
        settings: the configuration without it.
        pairwise: whether the judge chooses between policies.

    Raises:
        UserError: it is neither, the role has no model, or the pipeline has no judge, or none that chooses.
    """
    from scorers.errors import UserError, did_you_mean

    models: Any = getattr(settings, "models", None)
    evaluate = getattr(settings, "evaluate", None)
    if not hasattr(models, "judge"):
        raise UserError(f"--judge {judge}: pipeline {settings.pipeline} has no judge; leave it out")
    name = "pairwise" if pairwise else "judge"
    if pairwise and not hasattr(evaluate, name):
        raise UserError(f"--pairwise: pipeline {settings.pipeline} has no judge that chooses; leave it out")
    switch = [f"evaluate.{name}=true"] if hasattr(evaluate, name) else []
    if judge is None:
        return switch
    engine, _, model = judge.partition(":")
    if engine in ENGINES and model:
        return [*switch, f"models.judge={json.dumps(model)}", f"engines.judge.kind={engine}"]
    known = [name for name in type(models).model_fields if isinstance(getattr(models, name), str)]
    if judge not in known:
        unset = f"models.{judge} is null" if judge in type(models).model_fields else "no such role"
        raise UserError(
            f"--judge {judge}: {unset}{did_you_mean(judge, known)}; give a role that has a model ({', '.join(known)}), "
            f"or ENGINE:MODEL with one of {', '.join(ENGINES)}, such as openai:gpt-4o"
        )
    if judge == "judge":
        return switch
    own = getattr(settings.engines, judge, None)  # type: ignore[attr-defined]
    ran = [] if own is None else [f"engines.judge={json.dumps(own.model_dump(mode='json'))}"]
    return [*switch, f"models.judge={json.dumps(getattr(models, judge))}", *ran]


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


def shorthands(executor: str | None, workers: int | None, address: str | None, nproc: int | None = None) -> list[str]:
    """Return what the options `--executor`, `--workers`, `--address` and `--nproc` set.

    An address is that of a Ray cluster.
    """
    given = {"kind": executor or ("ray" if address else None), "workers": workers, "address": address}
    # As JSON, which YAML reads as the text it is.
    found = [f"executor.{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    return found if nproc is None else [*found, f"nproc={nproc}"]
