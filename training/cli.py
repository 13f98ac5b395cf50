"""The command line: read options, call the library, print what it returns.

The module stands in `training` because that package may import every other one; nothing imports the command line.
Heavy modules are imported inside the commands, so that `grace --help` stays fast.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training import comparison, inspection
from training.command import Group, Single, one_line_errors, print_version
from training.options import (
    AddressOption,
    ConfigOption,
    ExecutorOption,
    JsonOption,
    ModelOption,
    NprocOption,
    ParentsOption,
    PrivateOption,
    PushOption,
    RoundOption,
    SetOption,
    SplitOption,
    StoreOption,
    SubsetOption,
    WithOptimizerOption,
    WorkersOption,
    examples,
    load_settings,
    shorthands,
)

if TYPE_CHECKING:
    from builders.core.runner import StageResult
    from builders.settings.base import Settings


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,  # drawing boxes would take half of the time that --help may take
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(epilog=examples("grace init", "grace config", "grace loop --rounds 2", "grace status"))
def grace(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Preference data for long-form writing: built in stages, versioned, and trained on, round after round."""


def _require_token(settings: "Settings") -> None:
    """Check that a push may write, before hours of work are spent on what it would send."""
    from builders.hub.token import writable_namespace

    writable_namespace(settings.namespace)


def _publish(
    result: "StageResult", settings: "Settings", *, private: bool, parents: bool, with_optimizer: bool
) -> dict[str, Any]:
    from builders.hub.publish import publish
    from training.pipelines import page_of

    return publish(result.revision, settings, page_of, private=private, parents=parents, with_optimizer=with_optimizer)


def _print_built(results: "list[StageResult]", published: dict[str, Any] | None, *, as_json: bool) -> None:
    from builders.report import as_json as machine
    from builders.report import console

    if as_json:
        machine.print_json(machine.built(results[-1], published))
    else:
        console.print_build(results, published)


@app.command(
    "build",
    epilog=examples(
        "build --stage calibrate",
        "build --stage score --dry-run",
        "build --stage seed --set seed.source=seeds.jsonl",
        "build --stage calibrate --from alice/demo-scores@round-001",
        "build --stage score --workers 2",
        "build --stage score --executor ray --address auto",
    ),
)
def build_command(
    stage: Annotated[str, typer.Option("--stage", help="Last stage, such as score; `grace status` lists them.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    round_: RoundOption = 1,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="REF", help="Start at this dataset: path or name.")
    ] = None,
    subset: SubsetOption = None,
    split: SplitOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be built and why.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even what is fresh.")] = False,
    require_pinned: Annotated[bool, typer.Option("--require-pinned", help="Refuse a dataset on a branch.")] = False,
    push: PushOption = False,
    private: PrivateOption = False,
    parents: ParentsOption = True,
    with_optimizer: WithOptimizerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build what is missing or stale up to a stage, and nothing else."""
    with one_line_errors():
        _require_push(push, with_optimizer=with_optimizer)
        settings = load_settings(config, overrides, store, shorthands(executor, workers, address))
        from builders.report import as_json as machine
        from builders.report import console
        from training.pipelines import build, plan, require_kind

        require_kind(settings, stage, "dataset")
        if dry_run:
            plans = plan(settings, stage, round_=round_, start=start, subset=subset, split=split)
            machine.print_json(machine.planned(plans)) if as_json else console.print_plan(plans)
            return
        if push:
            _require_token(settings)
        results = build(
            settings,
            stage,
            round_=round_,
            start=start,
            subset=subset,
            split=split,
            force=force,
            require_pinned=require_pinned,
        )
        published = None
        if push:
            published = _publish(results[-1], settings, private=private, parents=parents, with_optimizer=with_optimizer)
        _print_built(results, published, as_json=as_json)


@app.command(
    "train",
    epilog=examples(
        "train",
        "train --round 2",
        "train --sft --set models.base=Qwen/Qwen2.5-0.5B-Instruct",
        "train --dataset alice/demo-weights --revision round-001",
        "train --nproc 8",
    ),
)
def train_command(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Dataset to train on: REPO or path.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of it.")] = None,
    subset: SubsetOption = None,
    split: SplitOption = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Model stage; default the one a round ends with.")
    ] = None,
    sft: Annotated[bool, typer.Option("--sft", help="The same as --stage sft.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    round_: RoundOption = 1,
    nproc: NprocOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    force: Annotated[bool, typer.Option("--force", help="Train even what is fresh; datasets are kept.")] = False,
    require_pinned: Annotated[bool, typer.Option("--require-pinned", help="Refuse a branch.")] = False,
    push: PushOption = False,
    private: PrivateOption = False,
    parents: ParentsOption = True,
    with_optimizer: WithOptimizerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model stage: the round's policy on the store's dataset of this round, or on --dataset."""
    with one_line_errors():
        _require_push(push, with_optimizer=with_optimizer)
        settings = load_settings(config, overrides, store, shorthands(executor, workers, address, nproc))
        _check_train_options(dataset, revision, stage, sft=sft)
        from training.pipelines import build, pipeline_of, require_kind

        # Without --stage the target is the model stage that a round ends with.
        target = "sft" if sft else stage or pipeline_of(settings).last
        require_kind(settings, target, "model")
        # A REF: `repo[@revision]`.
        start = f"{dataset}@{revision}" if dataset and revision else dataset
        if push:
            _require_token(settings)
        results = build(
            settings,
            target,
            round_=round_,
            start=start,
            subset=subset,
            split=split,
            force=force,
            require_pinned=require_pinned,
        )
        published = None
        if push:
            published = _publish(results[-1], settings, private=private, parents=parents, with_optimizer=with_optimizer)
        _print_built(results, published, as_json=as_json)


def _require_push(push: bool, *, with_optimizer: bool) -> None:
    from scorers.errors import UserError

    if with_optimizer and not push:
        raise UserError("--with-optimizer says what is published; give --push too")


def _check_train_options(dataset: str | None, revision: str | None, stage: str | None, *, sft: bool) -> None:
    from scorers.errors import UserError

    # Options that exclude or need one another; click cannot express that.
    if sft and stage not in (None, "sft"):
        raise UserError(f"--sft and --stage {stage}: give one of them")
    if revision and not dataset:
        raise UserError(f"--revision {revision}: of which dataset? Give --dataset NAMESPACE/NAME too")


@app.command(epilog=examples("grace loop --rounds 4", "grace loop --config grace.yaml --set generate.queries=64"))
def loop(
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds in all.")] = None,
    nproc: NprocOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build and train, round after round; can be stopped anywhere and resumes there."""
    with one_line_errors():
        extra = [] if rounds is None else [f"loop.rounds={rounds}"]
        extra += shorthands(executor, workers, address, nproc)
        settings = load_settings(config, overrides, store, extra)
        from training.loop import run_loop

        _print_built(run_loop(settings), None, as_json=as_json)


@app.command(
    "push",
    epilog=examples(
        "grace push local/tiny-weights@round-001",
        "grace push local/tiny-policy --private --set namespace=alice",
        "grace push --all --with-optimizer",
    ),
)
def push_command(
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="Revision of the store: REPO[@REVISION] or a path.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Publish the whole run, round after round.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    model: ModelOption = False,
    private: PrivateOption = False,
    parents: ParentsOption = True,
    with_optimizer: WithOptimizerOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish an existing revision of the store, or all, on the Hugging Face Hub, under the tag of its round."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.hub.publish import publish_all, push
        from builders.report import as_json as machine
        from builders.report import console
        from builders.store.names import naming_near
        from builders.store.store import Store
        from scorers.errors import UserError
        from training.pipelines import page_of, whole_run

        if (ref is None) != everything:
            raise UserError("grace push: give a REF or --all, one of them")
        options: dict[str, Any] = {"private": private, "parents": parents, "with_optimizer": with_optimizer}
        if ref is not None:
            with naming_near(ref, Store(Path(settings.store))):
                published = push(ref, settings, page_of, kind="model" if model else None, **options)
            machine.print_json(published) if as_json else console.print_push(published)
            return
        several = publish_all(whole_run(settings), settings, page_of, **options)
        if as_json:
            machine.print_json({"revisions": several})
        else:
            for published in several:
                console.print_push(published)


@app.command("pull", epilog=examples("grace pull alice/demo-weights", "grace pull alice/demo-policy@round-002 --model"))
def pull_command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Revision on the Hub: REPO[@REVISION].")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    model: ModelOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a revision from the Hugging Face Hub into the store, every file checked."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.hub.pull import pull_into
        from builders.report import as_json as machine
        from builders.report import console
        from builders.store.store import Store

        revision = pull_into(ref, Store(Path(settings.store)), "model" if model else "dataset")
        machine.print_json(machine.pulled(revision)) if as_json else console.print_pull(revision)


app.add_typer(comparison.app)
app.add_typer(inspection.app)


def build_main() -> None:
    """Entry point of the command `build`."""
    _standalone(build_command)


def train_main() -> None:
    """Entry point of the command `train`."""
    _standalone(train_command)


def _standalone(command: object) -> None:
    """Run one command as a program of its own, `build` or `train`, instead of `grace build` or `grace train`."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(cls=Single)(command)  # type: ignore[type-var]
    single(prog_name=sys.argv[0].rsplit("/", 1)[-1])  # the name without its folder, as usage lines show it
