"""`grace evaluate`: policies side by side on held-out queries (the paper's tables 1 and 4, figures 1 and 3).

Metrics are means over matched responses, so the matched share and the share cut at the length limit always stand beside
them. Rank 1 is best, the average rank is over L, E, P, R_s and R_d. In the generated world, measures that no reward
knows are printed too: grammaticality, duplicate sentences, on-topic share, heading coverage.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.models import (
    WORLD_PREFIX,
    LocalModel,
    Models,
    from_store,
    load_policy_engine,
    policy_model,
    policy_repo,
    resolve_model,
)
from builders.core.prompting import answer_messages, prompt_text
from builders.engines import SamplingSettings
from builders.grace_kto.score import score_documents
from builders.grace_kto.seed import read_table
from builders.hub.refs import open_revision
from builders.report.console import print_json, print_table
from builders.settings.load import Config
from builders.store.manifest import fingerprint_of, read_manifest
from builders.store.store import Store, round_tag, write_text
from scorers.errors import UserError
from scorers.extraction import extract
from training.pipelines import GRACE_KTO
from training.prepare import log, prepare, prepare_world, set_threads

VERSION = 1
RANKED = ("L", "E", "P", "R_s", "R_d")
COLUMNS = {
    "L": "length",
    "E": "diversity",
    "P": "professionalism",
    "R_s": "relevance_summary",
    "R_d": "relevance_document",
    "ppl_D": "ppl_domain",
}
#: What a metric's mean is worth noticing for: a change of this many standard errors.
NOTABLE = 2.0
#: Share of responses cut at the length limit, and rise of the domain model's perplexity, that call for a caution.
RUNAWAY_SHARE = 0.05
COLLAPSE_RATIO = 1.5


@dataclass(frozen=True)
class Evaluation:
    """One policy's results: means, their standard errors (null where nothing matched), and shares in [0, 1]."""

    name: str
    policy: str
    queries: int
    matched: float
    cut: float
    means: dict[str, float | None]
    errors: dict[str, float | None]


def evaluate_policies(config: Config, references: Sequence[str], output: Path, *, as_json: bool) -> list[Evaluation]:
    """Evaluate policies and write evaluation.json, evaluation.md and evaluation.png.

    Args:
        references: REFs of policies; none for the first policy and every round's that is there.
        output: folder to write into.
        as_json: print one JSON object instead of the table.

    Raises:
        UserError: for a policy or a held-out source that is missing.
    """
    store = Store(Path(config.store))
    if references:
        prepare_world(config)
    else:
        prepare(config, GRACE_KTO, 1)
    set_threads(config)
    queries = held_out_queries(config, store)
    models = Models(config, store, 1)
    policies = named_policies(config, store, references)
    evaluations = [_cached(config, store, models, name, policy, queries) for name, policy in policies]
    ranks, average = rank_policies(evaluations)
    output.mkdir(parents=True, exist_ok=True)
    markdown = markdown_table(evaluations, ranks, average)
    sentence = verdict(evaluations)
    warned = cautions(config, evaluations)
    record = [
        asdict(evaluation) | {"ranks": rank, "average_rank": mean}
        for evaluation, rank, mean in zip(evaluations, ranks, average, strict=True)
    ]
    write_text(output / "evaluation.json", json.dumps(record, indent=1) + "\n")
    lines = [sentence, *(f"Caution: {line}." for line in warned)]
    write_text(output / "evaluation.md", "\n".join([markdown, *lines]) + "\n")
    draw(evaluations, output / "evaluation.png")
    if as_json:
        print_json({"policies": record, "verdict": sentence, "cautions": warned, "path": str(output)})
    else:
        header, rows = _cells(evaluations, ranks, average)
        print_table(f"{len(queries)} held-out queries, means over matched responses (rank)", header, rows)
        print("", *lines, sep="\n")
        print(f"written to {output}: evaluation.json, evaluation.md, evaluation.png")
    return evaluations


def held_out_queries(config: Config, store: Store) -> list[str]:
    """`evaluate.queries` queries of the held-out source, after `evaluate.skip` others.

    Raises:
        UserError: where the source or its column is missing, or no query is left.
    """
    settings = config.evaluate
    frame = read_table(settings.source, settings.split, config, store)
    if settings.column not in frame.columns:
        raise UserError(
            f"evaluate.source {settings.source}: no column {settings.column}; it has {', '.join(frame.columns)}; "
            "set evaluate.column"
        )
    texts = frame[settings.column].cast(pl.String).str.strip_chars()
    distinct = texts.filter(texts != "").unique(maintain_order=True)
    queries = distinct.slice(settings.skip, settings.queries).to_list()
    if not queries:
        raise UserError(f"evaluate.source {settings.source} holds no query after the first {settings.skip}")
    return queries


def named_policies(config: Config, store: Store, references: Sequence[str]) -> list[tuple[str, LocalModel]]:
    """Policies with the names they have in the table."""
    if references:
        return [(text, _named(text, config, store)) for text in references]
    found = [("first", policy_model(config, store, 1))]
    for round_ in range(1, config.loop.rounds + 1):
        revision = store.find(policy_repo(config), round_tag(round_), "model")
        if revision is not None:
            found.append((f"round {round_}", from_store(revision, config, store)))
    return found


def _named(text: str, config: Config, store: Store) -> LocalModel:
    """A policy by REF, or any model folder, such as one that another program wrote."""
    plain_folder = Path(text).is_dir() and read_manifest(Path(text)) is None
    if plain_folder or text.startswith(WORLD_PREFIX):
        return resolve_model(text, config, store)
    return from_store(open_revision(text, store, "model"), config, store)


def _cached(
    config: Config, store: Store, models: Models, name: str, policy: LocalModel, queries: list[str]
) -> Evaluation:
    """An evaluation, kept in the store under everything that decides it."""
    scorers = {role: models.find(role).record for role in ("tokenizer", "general", "domain", "relevance")}
    key = fingerprint_of(
        {
            "version": VERSION,
            "policy": str(policy.record),
            "scorers": {role: str(record) for role, record in scorers.items()},
            "configuration": {
                section: getattr(config, section).model_dump() for section in ("evaluate", "sample", "score", "engine")
            },
            "system_prompt": config.sample.system_prompt and prompt_text(config.sample.system_prompt),
            "random_seed": config.random_seed,
            "queries": queries,
        }
    )
    path = store.root / ".evaluations" / f"{key[:32]}.json"
    if path.is_file():
        return Evaluation(**{**json.loads(path.read_text(encoding="utf-8")), "name": name})
    log(f"evaluate: {name}, {policy.record}")
    evaluation = evaluate(config, models, name, policy, queries)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(evaluation)))
    return evaluation


def evaluate(config: Config, models: Models, name: str, policy: LocalModel, queries: list[str]) -> Evaluation:
    """Answer the queries once each and score what matched."""
    settings = config.evaluate
    engine = load_policy_engine(config, policy)
    try:
        completions = engine.generate(
            [answer_messages(query, config.sample.system_prompt) for query in queries],
            [derive_seed(config.random_seed, "evaluate", query_id(query)) for query in queries],
            SamplingSettings(
                max_new_tokens=config.sample.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
            ),
        )
    finally:
        engine.close()
    parts = [extract(completion.text) for completion in completions]
    matched = [(query, part) for query, part in zip(queries, parts, strict=True) if part is not None]
    scores = score_documents(
        [query for query, _ in matched],
        [part.summary for _, part in matched],
        [part.document for _, part in matched],
        models,
        config.score,
    )
    columns = {label: scores[column].cast(pl.Float64) for label, column in COLUMNS.items()}
    check_finite(columns, name)
    if config.world is not None:
        columns |= world_columns([(query, part.document) for query, part in matched])
    return Evaluation(
        name=name,
        policy=str(policy.record),
        queries=len(queries),
        matched=len(matched) / len(queries),
        cut=sum(completion.finish_reason == "length" for completion in completions) / len(queries),
        means={label: _mean(values) for label, values in columns.items()},
        errors={label: _standard_error(values) for label, values in columns.items()},
    )


def world_columns(documents: Sequence[tuple[str, str]]) -> dict[str, pl.Series]:
    """The generated world's own measures, which no reward knows."""
    from training.world.texts import measures

    rows = [measures(query, document) for query, document in documents]
    names = list(measures("", ""))  # without a document too, so that every policy has the same columns
    return {name: pl.Series([row[name] for row in rows], dtype=pl.Float64) for name in names}


def check_finite(columns: Mapping[str, pl.Series], policy: str) -> None:
    """Raise UserError for a metric that is NaN or infinite, naming the matched response."""
    for label, values in columns.items():
        bad = ~values.is_finite().fill_null(True)
        if bad.any():
            raise UserError(
                f"evaluation of {policy}: {label} is {values.filter(bad)[0]} for matched response {bad.arg_true()[0]}, "
                "counted from 0; look at the model that scored it"
            )


def _mean(values: pl.Series) -> float | None:
    mean = values.mean()
    return float(mean) if isinstance(mean, float) else None


def _standard_error(values: pl.Series) -> float | None:
    present = values.drop_nulls()
    deviation = present.std()
    return float(deviation) / math.sqrt(len(present)) if isinstance(deviation, float) else None


def rank_policies(evaluations: Sequence[Evaluation]) -> tuple[list[dict[str, float]], list[float]]:
    """Rank of each policy by each of L, E, P, R_s, R_d (1 best, ties share the mean rank) and their average.

    A policy without a value for a metric ranks last in it.
    """
    ranks: list[dict[str, float]] = [{} for _ in evaluations]
    for metric in RANKED:
        values = [e.means[metric] if e.means[metric] is not None else -math.inf for e in evaluations]
        for rank, place in zip(ranks, pl.Series(values).rank("average", descending=True).to_list(), strict=True):
            rank[metric] = place
    return ranks, [sum(rank.values()) / len(rank) for rank in ranks]


def _cells(
    evaluations: Sequence[Evaluation], ranks: Sequence[dict[str, float]], average: Sequence[float]
) -> tuple[list[str], list[list[str]]]:
    others = [label for label in evaluations[0].means if label not in RANKED]
    header = ["policy", *RANKED, "avg. rank", "matched", "cut", *others]
    rows = []
    for evaluation, rank, mean in zip(evaluations, ranks, average, strict=True):
        ranked = [f"{_number(evaluation.means[metric], metric)} ({rank[metric]:g})" for metric in RANKED]
        rest = [_number(evaluation.means[label], label) for label in others]
        rows.append(
            [evaluation.name, *ranked, f"{mean:.1f}", f"{evaluation.matched:.3f}", f"{evaluation.cut:.3f}", *rest]
        )
    return header, rows


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if metric in ("L", "E") else f"{value:.3f}"


def markdown_table(
    evaluations: Sequence[Evaluation], ranks: Sequence[dict[str, float]], average: Sequence[float]
) -> str:
    """The table as Markdown, as tables 1 and 4 of the paper."""
    header, rows = _cells(evaluations, ranks, average)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def verdict(evaluations: Sequence[Evaluation]) -> str:
    """One sentence on what changed from the first to the last policy by more than two standard errors.

    Higher is better for all but the perplexity and the duplicate sentences.
    """
    if len(evaluations) < 2:
        return "One policy alone: nothing to compare."
    first, last = evaluations[0], evaluations[-1]
    better, worse, same = [], [], []
    for label in (*last.means, "matched", "cut"):
        before, after = _value(first, label), _value(last, label)
        if before is None or after is None:
            continue
        change = f"{label} {_number(before, label)} → {_number(after, label)}"
        spread = math.hypot(_error(first, label), _error(last, label))
        if abs(after - before) <= NOTABLE * spread:
            same.append(label)
        elif (after > before) != (label in ("ppl_D", "cut", "duplicate_sentences")):
            better.append(change)
        else:
            worse.append(change)
    return (
        f"From {first.name} to {last.name}, better: {', '.join(better) or 'nothing'}; worse: "
        f"{', '.join(worse) or 'nothing'}; within two standard errors: {', '.join(same) or 'nothing'}."
    )


def cautions(config: Config, evaluations: Sequence[Evaluation]) -> list[str]:
    """One line for each known way to go wrong that shows: metrics that improve may hide it."""
    first, last = evaluations[0], evaluations[-1]
    lines = []
    if last.cut > RUNAWAY_SHARE:
        lines.append(
            f"{last.cut:.0%} of {last.name}'s responses are cut at the length limit: length runs away; "
            "raise train.mu, lower train.learning_rate, or raise sample.max_new_tokens"
        )
    before, after = _value(first, "ppl_D"), _value(last, "ppl_D")
    if before is not None and after is not None and after > COLLAPSE_RATIO * before:
        lines.append(
            f"perplexity under the domain model rose from {before:.2f} to {after:.2f}: the language decays, which "
            "length and relevance hide; lower train.learning_rate"
        )
    if config.sample.temperature < 1:
        lines.append(
            f"sample.temperature is {config.sample.temperature:g}: below 1 the responses to a query grow alike and "
            "their ranks say little"
        )
    return lines


def _value(evaluation: Evaluation, label: str) -> float | None:
    shares = {"matched": evaluation.matched, "cut": evaluation.cut}
    return shares[label] if label in shares else evaluation.means[label]


def _error(evaluation: Evaluation, label: str) -> float:
    if label in ("matched", "cut"):
        share = evaluation.matched if label == "matched" else evaluation.cut
        return math.sqrt(share * (1 - share) / evaluation.queries)
    return evaluation.errors[label] or 0.0


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """z-scored metrics over the policies (figures 1 and 3)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for metric in RANKED:
        values = pl.Series([e.means[metric] for e in evaluations], dtype=pl.Float64)
        deviation = values.std(ddof=0)
        scale = deviation if isinstance(deviation, float) and deviation > 0 else 1.0
        axes.plot([e.name for e in evaluations], (values - values.mean()) / scale, marker="o", label=metric)
    axes.set_ylabel("z-score over the policies")
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend(ncol=len(RANKED), fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
