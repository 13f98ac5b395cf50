"""The commands that compare models, or a judge with people: evaluate, benchmark, agreement."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.command import Group, one_line_errors
from training.options import (
    CONTEXT_METHODS,
    AddressOption,
    ConfigOption,
    ContextsOption,
    ExecutorOption,
    JsonOption,
    JudgeOption,
    MethodsOption,
    PairwiseOption,
    SetOption,
    StoreOption,
    WorkersOption,
    engine_of,
    examples,
    judge_of,
    load_settings,
    methods_of,
    shorthands,
    windows_of,
)

if TYPE_CHECKING:
    from builders.core.evaluation_table import EvaluationTable

app = typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(
    epilog=examples(
        "grace evaluate",
        "grace evaluate sft local/tiny-policy@round-002",
        "grace evaluate --set evaluate.source=heldout.jsonl --output results",
        "grace evaluate --judge vllm:Qwen/Qwen3-32B",
        "grace evaluate sft local/tiny-policy --pairwise --judge openai:gpt-4o",
        "grace evaluate --contexts 8k,16k,32k --methods none,dynamic,yarn",
    )
)
def evaluate(
    policies: Annotated[
        list[str] | None, typer.Argument(help="Policies to compare, REF each; default the first and every round's.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    output: Annotated[
        str, typer.Option("--output", help="Folder for the JSON, Markdown and PNG.")
    ] = ".grace/evaluation",
    judge: JudgeOption = None,
    pairwise: PairwiseOption = False,
    contexts: ContextsOption = None,
    methods: MethodsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare policies on held-out queries, or with --contexts one policy's context windows."""
    with one_line_errors():
        settings = load_settings(config, overrides, store, engine_of(judge))
        from scorers.errors import UserError
        from training.pipelines import evaluate_contexts, evaluate_policies

        if contexts is not None and (judge is not None or pairwise):
            raise UserError("--contexts compares windows without a judge; leave --judge and --pairwise out")
        if judge is not None or pairwise:
            settings = load_settings(config, overrides, store, judge_of(judge, settings, pairwise=pairwise))
        if contexts is not None:
            ways = methods_of(methods or CONTEXT_METHODS)
            found = evaluate_contexts(settings, policies or [], Path(output), windows_of(contexts), ways)
        elif methods is not None:
            raise UserError(f"--methods {methods}: of which windows? Give --contexts too, such as 8k,16k,32k")
        else:
            found = evaluate_policies(settings, policies or [], Path(output))
        _print(found, output, as_json=as_json)


@app.command(
    "benchmark",
    epilog=examples(
        "grace benchmark writingbench --data all.jsonl --policy alice/writer",
        "grace benchmark writingbench --data all.jsonl --scores a.jsonl",
    ),
)
def benchmark_command(
    name: Annotated[str, typer.Argument(help="The benchmark, such as writingbench.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Its queries: a file or a dataset; the setting benchmark.data.")
    ] = None,
    requirements: Annotated[
        str | None, typer.Option("--requirements", help="Folder of its subsets; the setting benchmark.requirements.")
    ] = None,
    policies: Annotated[
        list[str] | None, typer.Option("--policy", help="Model that answers and is rated, REF; repeatable.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Model that rates; the setting models.judge.")] = None,
    responses: Annotated[
        list[str] | None,
        typer.Option("--responses", help="File of a model's answers in its own format, to be rated; repeatable."),
    ] = None,
    scores: Annotated[
        list[str] | None, typer.Option("--scores", help="File of a model's scores in its own format; repeatable.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Folder for tables and files; default .grace/benchmark/NAME.")
    ] = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let models answer a benchmark's queries, rate them, and print the benchmark's table."""
    with one_line_errors():
        from training.pipelines import require_benchmark

        named = {"benchmark.data": data, "benchmark.requirements": requirements, "models.judge": judge}
        extra = [f"{path}={json.dumps(value)}" for path, value in named.items() if value is not None]
        require_benchmark(load_settings(config, overrides, store), name)
        settings = load_settings(config, overrides, store, [*extra, *shorthands(executor, workers, address)])
        folder = Path(output or f".grace/benchmark/{name}")
        from training.pipelines import benchmark

        found = benchmark(settings, name, policies or [], scores or [], folder, responses or [])
        _print(found, folder, as_json=as_json)


@app.command(
    "agreement",
    epilog=examples(
        "grace agreement local/tiny-writing-ratings preferences.csv", "grace agreement alice/r p.csv --json"
    ),
)
def agreement_command(
    ratings: Annotated[str, typer.Argument(metavar="RATINGS", help="Dataset of ratings: repo[@revision] or a path.")],
    human: Annotated[
        str,
        typer.Argument(metavar="HUMAN", help="File of preferences: response_a, response_b, preference (a, b, tie)."),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how often a judge's ratings order two responses as people do."""
    with one_line_errors():
        settings = load_settings(config, overrides, store)
        from training.pipelines import agreement

        _print(agreement(ratings, human, settings.store), None, as_json=as_json)


def _print(found: "EvaluationTable", output: "Path | str | None", *, as_json: bool) -> None:
    """Print a comparison, and below it which files were written, where there are any."""
    from builders.report import as_json as machine
    from builders.report import console

    if as_json:
        machine.print_json(found.public)
        return
    console.print_evaluation((found, *found.beside), found.lines)
    if output is not None:
        typer.echo(f"written to {output}: {', '.join(found.files)}")
