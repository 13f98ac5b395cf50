"""The commands that leave the store as it is: plan, rehearse, status, verify, lineage, diff, report, init and config.

They are part of `grace` (training/cli.py), and import what they need when they run, so that `grace --help` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from training.command import one_line_errors
from training.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    SetOption,
    SplitOption,
    StoreOption,
    SubsetOption,
    examples,
    load_settings,
)

app = typer.Typer()


@app.command(epilog=examples("grace status", "grace status --config grace.yaml --json"))
def status(
    config: ConfigOption = None, overrides: SetOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Show what the store holds for this configuration, round by round."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.inspect.status import status as status_of
        from builders.report import as_json as machine
        from builders.report import console
        from training.pipelines import pipeline_of

        rows = status_of(pipeline_of(settings), settings)
        machine.print_json(machine.held(rows)) if as_json else console.print_status(rows)


@app.command(
    "plan",
    epilog=examples(
        "grace plan --config paper-72b",
        "grace plan --gpu a100-80gb --gpus 8",
        "grace plan --set plan.response_share=0.3 --json",
    ),
)
def plan_command(
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU to count for, such as h100; cpu for none.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs of the node.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count parameters, memory, tokens, bytes and hours of a run, before it begins; refuse what cannot fit."""
    with one_line_errors():
        named = [*([] if gpu is None else [f"plan.gpu={gpu}"]), *([] if gpus is None else [f"plan.gpus={gpus}"])]
        settings = load_settings(config, [*(overrides or []), *named], store)
        from builders.report import as_json as machine
        from builders.report import console
        from training.pipelines import plan_costs

        found = plan_costs(settings)
        machine.print_json(machine.costs(found)) if as_json else console.print_costs(found)


@app.command(
    epilog=examples("grace rehearse", "grace rehearse --config qwen2.5-7b --random-weights", "grace rehearse --json")
)
def rehearse(
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Models of the same shapes, nothing downloaded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run every stage and training once, on two queries, in a throw-away store; measure and project."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.report import as_json as machine
        from builders.report import console
        from training.pipelines import rehearse as rehearse_run

        found = rehearse_run(settings, random_weights=random_weights)
        machine.print_json(machine.rehearsed(found)) if as_json else console.print_rehearsal(found)


@app.command("verify", epilog=examples("grace verify local/tiny-weights", "grace verify alice/demo-weights@round-001"))
def verify_command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Dataset or model: repo[@revision] or a path.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    model: ModelOption = False,
    as_json: JsonOption = False,
) -> None:
    """Recompute a revision's digests, for weights also ranks, rewards and weights; exit status 1 on a difference."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.hub.refs import open_here, open_revision
        from builders.inspect.verify import verify
        from builders.report import as_json as machine
        from builders.report import console
        from builders.store.manifest import FILE_NAME, Kind
        from builders.store.names import naming_near
        from builders.store.store import Store
        from scorers.errors import UserError
        from training.pipelines import PIPELINES

        if Path(ref).is_dir() and not (Path(ref) / FILE_NAME).is_file():
            raise UserError(f"{ref}: no {FILE_NAME} in it, so there is nothing to verify it against")
        found = Store(Path(settings.store))
        # A local copy first, as it lies on disk: a newer round on the Hub is not what is to be verified.
        with naming_near(ref, found):
            kind: Kind | None = "model" if model else None
            revision = open_here(ref, found, kind) or open_revision(ref, found, kind)
        findings = verify(revision, PIPELINES)
        machine.print_json(machine.verified(revision, findings)) if as_json else console.print_findings(
            revision, findings
        )
        if findings:
            raise typer.Exit(1)


@app.command(
    "lineage", epilog=examples("grace lineage local/tiny-policy@round-004", "grace lineage alice/demo-weights --json")
)
def lineage_command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Dataset or model: repo[@revision] or a path.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    model: ModelOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a revision was made from, back to the seeds, in the store and on the Hub."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.inspect.lineage import lineage
        from builders.report import as_json as machine
        from builders.report import console
        from builders.store.store import Store

        nodes = lineage(ref, Store(Path(settings.store)), "model" if model else None)
        machine.print_json(machine.traced(nodes)) if as_json else console.print_lineage(nodes)


@app.command("diff", epilog=examples("grace diff local/tiny-weights@round-001 local/tiny-weights@round-002"))
def diff_command(
    first: Annotated[str, typer.Argument(metavar="REF", help="Dataset: repo[@revision] or a path.")],
    second: Annotated[str, typer.Argument(metavar="REF", help="Dataset to compare it with.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two datasets: queries in common, drift of the metrics, labels and weights."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.hub.refs import open_revision
        from builders.inspect.diff import diff
        from builders.report import as_json as machine
        from builders.report import console
        from builders.store.names import naming_near
        from builders.store.store import Store
        from training.pipelines import summaries_of

        found = Store(Path(settings.store))
        sides = []
        for text in (first, second):
            with naming_near(text, found, ("dataset",)):
                sides.append(open_revision(text, found, "dataset"))
        a, b = sides
        result = diff(a, b, summaries_of(settings, (a, b)))
        machine.print_json(result) if as_json else console.print_diff(result)


@app.command(
    "report",
    epilog=examples(
        "grace report local/tiny-weights -o weights.html",
        "grace report alice/demo-weights@round-001 alice/demo-weights@round-002",
        "grace report local/tiny-weights --max-mb 20 --json",
    ),
)
def report_command(
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="Datasets or models: repo[@revision] or a path.")],
    output: Annotated[str, typer.Option("--output", "-o", help="HTML file to write.")] = "report.html",
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.1, help="Megabytes at most; beyond it not every group is shown.")
    ] = 60,
    subset: SubsetOption = None,
    split: SplitOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page to read revisions in: summary, lineage and a browser of their groups."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from builders.report import as_json as machine
        from builders.report import console
        from training.pipelines import report

        written = report(settings, refs, Path(output), max_mb, subset=subset, split=split)
        machine.print_json(machine.reported(written)) if as_json else console.print_report(written)


@app.command(epilog=examples("grace init", "grace init --config qwen2.5-0.5b mine.yaml"))
def init(
    path: Annotated[str, typer.Argument(help="File to write.")] = "grace.yaml",
    preset: Annotated[str | None, typer.Option("--config", metavar="PRESET", help="Preset; default tiny.")] = None,
) -> None:
    """Write a commented configuration file with the values of a preset."""
    with one_line_errors():
        from training.pipelines import init_config

        typer.echo(f"wrote {init_config(path, preset)}")


@app.command("config", epilog=examples("grace config", "grace config --config tiny --set sample.top_p=0.95"))
def config_command(
    config: ConfigOption = None, overrides: SetOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Print the configuration that counts, as YAML, and where each value comes from."""
    with one_line_errors():
        from builders.report import as_json as machine
        from builders.report import console
        from training.pipelines import configuration

        found = configuration(config, overrides or [], store)
        machine.print_json(machine.configured(found)) if as_json else console.print_config(found)
