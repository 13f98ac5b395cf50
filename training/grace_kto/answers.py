"""What a policy answers to held-out queries, and how the answers score.

Every policy answers the same queries with the same seeds, and its answers are scored as the score stage scores
responses. A query that leaves no room for an answer counts as one whose answers do not match.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from builders.core.draws import derive_seed, query_id
from builders.core.models import LocalModel, load_engine_for
from builders.core.prompting import chat
from builders.core.replies import begins_in_block
from builders.core.stage import Context
from builders.engines import Completion, SamplingSettings
from builders.grace_kto import sample
from builders.grace_kto.languages import system_for
from builders.grace_kto.loading import load_scorers
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.sample import read_response
from builders.grace_kto.score import score_documents
from builders.grace_kto.settings import GraceKTOSettings
from builders.settings.base import identity
from builders.store.files import write_text
from builders.store.manifest import fingerprint_of
from builders.store.store import Store
from scorers.errors import UserError
from scorers.extraction import Extraction
from training.intervals import Estimate, Floats, Statistic, difference, estimate, length_controlled, value_of

# Part of an evaluation's key in the store: raise it when the same inputs give other results.
VERSION = 3

log = logging.getLogger(__name__)

# The paper's symbols, and the columns of the score stage that they stand for.
COLUMNS = {
    "L": "length",
    "E": "diversity",
    "P": "professionalism",
    "R_s": "relevance_summary",
    "R_d": "relevance_document",
    "ppl_D": "ppl_domain",
}
#: Shares of all answers; every other metric is over the matched ones.
SHARES = ("matched", "cut")
MEDIAN = " median"
#: Metrics that have a median beside their mean: a mean of perplexities can be one document.
MEDIANS = ("P", "ppl_D")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of one policy.

    Attributes:
        name: its name in the table.
        policy: its id and revision.
        columns: by metric, `matched` and `cut` among them, a value per answer, shape (queries, answers to each); NaN
            where an answer has none.
    """

    name: str
    policy: str
    columns: dict[str, Floats]

    @property
    def labels(self) -> list[str]:
        """The metrics of the table, medians behind their means, the shares last."""
        found = []
        for label in self.columns:
            if label not in SHARES:
                found += [label, label + MEDIAN] if label in MEDIANS else [label]
        return [*found, *SHARES]

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """By label, the mean, median or share with its interval."""
        return {label: estimate(self.columns[_column(label)], _statistic(label)) for label in self.labels}

    def change_from(self, first: "Evaluation") -> dict[str, Estimate]:
        """By label, the difference from another policy that answered the same queries, paired by query."""
        return {
            label: difference(first.columns[_column(label)], self.columns[_column(label)], _statistic(label))
            for label in self.labels
        }

    def change_at_equal_length(self, first: "Evaluation") -> dict[str, Estimate]:
        """By metric of a document, but for its length, the difference of the means that length does not explain."""
        lengths = (first.columns["L"], self.columns["L"])
        return {
            label: length_controlled(first.columns[label], self.columns[label], lengths)
            for label in self.columns
            if label not in ("L", *SHARES)
        }

    def value(self, label: str) -> float | None:
        """A mean, a median or a share; None where no answer has a value."""
        return value_of(self.columns[_column(label)], _statistic(label))

    @property
    def queries(self) -> int:
        """Number of held-out queries."""
        return len(self.columns["matched"])


def _column(label: str) -> str:
    return label.removesuffix(MEDIAN)


def _statistic(label: str) -> Statistic:
    return "median" if label.endswith(MEDIAN) else "mean"


def evaluated(context: Context[GraceKTOSettings], name: str, policy: LocalModel, queries: Sequence[str]) -> Evaluation:
    """An evaluation from the store, or a new one that is kept there under everything that decides it.

    Args:
        context: the configuration and the models of the score stage.
        name: the policy's name in the table; one policy may be `first` here and a REF there.
        policy: the policy.
        queries: held-out queries.

    Raises:
        UserError: a metric is NaN or infinite.
    """
    config = context.config
    sections = {"evaluate": config.evaluate, "sample": config.sample, "score": config.score}
    key = fingerprint_of(
        {
            "version": VERSION,
            "policy": str(policy.record),
            "scorers": {role: str(model.record) for role, model in context.models.items()},
            "configuration": {name: identity(section) for name, section in sections.items()},
            "engine": identity(config.engines.policy),
            "system_prompts": system_prompts(config, None),
            "random_seed": config.random_seed,
            "threads": config.threads,
            "queries": list(queries),
        }
    )
    return kept(context.store, key, name, policy, lambda: evaluate(context, name, policy, queries))


def kept(store: Store, key: str, name: str, policy: LocalModel, make: Callable[[], Evaluation]) -> Evaluation:
    """An evaluation from the store, or a new one that is kept there.

    Args:
        store: the store.
        key: digest of everything that decides the evaluation.
        name: its name in the table.
        policy: the policy.
        make: evaluates the policy.
    """
    path = store.root / ".evaluations" / f"{key[:32]}.json"
    if path.is_file():
        found = json.loads(path.read_bytes())
        return Evaluation(name, str(policy.record), {label: np.array(v, np.float64) for label, v in found.items()})
    log.info("evaluate: %s, %s", name, policy.record)
    evaluation = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    # NaN is no JSON: null, which numpy reads as NaN.
    columns = {
        label: [[None if np.isnan(value) else float(value) for value in row] for row in values]
        for label, values in evaluation.columns.items()
    }
    write_text(path, json.dumps(columns))
    return evaluation


def evaluate(context: Context[GraceKTOSettings], name: str, policy: LocalModel, queries: Sequence[str]) -> Evaluation:
    """Let a policy answer every query and score the answers that match.

    Args:
        context: the configuration and the models of the score stage.
        name: the policy's name in the table.
        policy: the policy.
        queries: held-out queries.

    Raises:
        UserError: a metric is NaN or infinite.
    """
    config = context.config
    completions, parts = read_answers(config, policy, queries)
    asked = [query for query in queries for _ in range(config.evaluate.responses)]
    matched = [(query, part) for query, part in zip(asked, parts, strict=True) if part is not None]
    scores = score_documents(
        [query for query, _ in matched],
        [part.summary for _, part in matched],
        [part.document for _, part in matched],
        load_scorers(context),
        config.score,
    )
    if config.score.engine == "vllm":
        # The next policy needs the GPU's memory; and in one process vLLM's models end together.
        context.loaded.keep([context.models["relevance"]])
    metrics = {label: scores[column].cast(pl.Float64) for label, column in COLUMNS.items()}
    check_finite(metrics, name)
    # A source that is a stage is the generated world's: its own measures can read the queries.
    if config.evaluate.source.startswith("world:"):
        metrics |= world_columns([(query, part.document) for query, part in matched])
    return Evaluation(name, str(policy.record), by_query(metrics, completions, parts, len(queries)))


def by_query(
    metrics: Mapping[str, pl.Series],
    completions: Sequence[Completion | None],
    parts: Sequence[Extraction | None],
    queries: int,
) -> dict[str, Floats]:
    """The columns of an evaluation, shape (queries, answers to each).

    Args:
        metrics: by label, a value per matched answer.
        completions: every answer, those of one query together; None for one that was never given.
        parts: summary, outline and document of each answer; None where it does not match.
        queries: number of queries.
    """
    fits = np.array([part is not None for part in parts])
    columns = {}
    for label, values in metrics.items():
        column = np.full(len(parts), np.nan)
        column[fits] = values.fill_null(float("nan")).to_numpy()
        columns[label] = column.reshape(queries, -1)
    columns["matched"] = fits.astype(np.float64).reshape(queries, -1)
    cut = [completion is not None and completion.finish_reason == "length" for completion in completions]
    columns["cut"] = np.array(cut, np.float64).reshape(queries, -1)
    return columns


def read_answers(
    config: GraceKTOSettings, policy: LocalModel, queries: Sequence[str]
) -> tuple[list[Completion | None], list[Extraction | None]]:
    """Sample answers as `answer_queries`, and take each apart; None for one without the tagged form."""
    completions, opened = answer_queries(config, policy, queries)
    tags = config.sample.thinking_tags
    return completions, [
        None if completion is None else read_response(completion.text, tags, opened=opened)[1]
        for completion in completions
    ]


def answer_queries(
    config: GraceKTOSettings, policy: LocalModel, queries: Sequence[str]
) -> tuple[list[Completion | None], bool]:
    """Sample `evaluate.responses` answers per query, with the temperature and top-p of `evaluate`.

    Each draw is seeded with its query and its number, so that an answer does not depend on the other queries.

    Returns:
        The completions, those of one query together; None for a query that leaves no room for one. And whether each
        begins inside a thinking block that the template opens.
    """
    settings = config.evaluate
    engine = load_engine_for(config.engines.policy, policy, config.adapter_rank("policy"))
    system = system_prompts(config, None)
    try:
        room = [query for query in queries if sample.fits(engine, query, config)]
        if len(room) < len(queries):
            log.warning(
                "evaluate: %d of %d held-out queries count as not matched: they leave no room for sample.max_new_tokens"
                " %d in the policy's context window of %d tokens",
                *(len(queries) - len(room), len(queries), config.sample.max_new_tokens, engine.context_window),
            )
        if not room:
            raise sample.nothing_fits(engine, config, f"evaluate: none of {len(queries)} held-out queries")
        messages = [chat(query, system=system_for(query, system)) for query in room]
        numbers = range(settings.responses)
        completions = engine.generate(
            [message for message in messages for _ in numbers],
            [derive_seed(config.random_seed, *_draw(query, number)) for query in room for number in numbers],
            SamplingSettings(
                max_new_tokens=config.sample.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop=config.sample.stop,
            ),
        )
        tags, template_kwargs = config.sample.thinking_tags, config.engines.policy.chat_template_kwargs
        opened = begins_in_block(engine, messages, tags, template_kwargs)
    finally:
        # Only one policy is in memory at a time; the scorers need the room.
        engine.close()
    answered = iter(completions)
    fitting = set(room)
    return [next(answered) if query in fitting else None for query in queries for _ in numbers], opened


def _draw(query: str, number: int) -> tuple[str | int, ...]:
    """What an answer's seed follows from; the first answer's does not say its number, and so is that of one alone."""
    return ("evaluate", query_id(query), *((number,) if number else ()))


def world_columns(documents: Sequence[tuple[str, str]]) -> dict[str, pl.Series]:
    """The generated world's own measures, which no reward contains.

    Args:
        documents: matched answers as (query, document).

    Returns:
        One column per measure, a value per document; null where a measure does not apply.
    """
    from training.world.measures import measures

    rows = [measures(query, document) for query, document in documents]
    names = list(measures("", ""))  # a policy without any matched answer has the same columns
    return {name: pl.Series([row[name] for row in rows], dtype=pl.Float64) for name in names}


def check_finite(columns: Mapping[str, pl.Series], policy: str) -> None:
    """Check metrics for NaN and infinity; nulls are allowed.

    Raises:
        UserError: a value is not finite; the message names the metric and the matched response.
    """
    for label, values in columns.items():
        bad = ~values.is_finite().fill_null(True)
        if bad.any():
            raise UserError(
                f"evaluation of {policy}: {label} is {values.filter(bad)[0]} for matched response {bad.arg_true()[0]}, "
                "counted from 0; look at the model that scored it"
            )
