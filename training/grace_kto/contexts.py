"""`grace evaluate --contexts`: one policy in several context windows, by several methods (GRACE-KTO, §3.6, table 3).

In each window and by each method the policy answers the same held-out queries with the same seeds, and may write until
the window is full. Two numbers come of it: the mean length of the documents in tokens, and their perplexity under the
domain model, which reads them in a window of the same size by the same method. `none` leaves the positions as they are;
beyond a model's own window they run on, which the paper calls extrapolation. Within it a model stays as it is, so that
all methods share one evaluation there. The table has a row per method:

    method  ppl_D 8k (1×)  tokens 8k  matched 8k  ppl_D 16k (2×)  tokens 16k  matched 16k
    none    3.413          5377.1     0.990       3.321           6593.5      0.985
    yarn    3.413          5377.1     0.990       3.242           6614.9      0.988

Each evaluation is kept in the store, so a run that was stopped, or is repeated with one more window, makes the others
no second time.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from builders.core.evaluation_table import EvaluationTable
from builders.core.machine import local_engine, require_engine
from builders.core.models import Loaded, LocalModel
from builders.core.prompting import chat
from builders.engines import Completion
from builders.engines.loading import load_tokenizer_and_config
from builders.engines.prompts import NO_LIMIT, encode_prompts
from builders.grace_kto.languages import system_for
from builders.grace_kto.loading import load_perplexity, load_tokenizer
from builders.grace_kto.messages import system_prompts
from builders.grace_kto.ready import perplexity_ready, require_context
from builders.grace_kto.settings import GraceKTOSettings, ScoreSettings
from builders.report.text_tables import write_tables
from builders.settings.base import identity
from builders.settings.context import ContextSettings
from builders.store.files import require_folder, write_text
from builders.store.manifest import fingerprint_of
from builders.store.store import Store
from scorers.context import own_window
from scorers.errors import UserError
from scorers.extraction import Extraction
from scorers.length import lengths
from training.grace_kto.answers import read_answers, require_finite
from training.grace_kto.evaluate import (
    evaluation_models,
    held_out_queries,
    named_policies,
    require_reference,
)
from training.grace_kto.evaluation import Evaluation
from training.grace_kto.table import RUNAWAY_SHARE, differences_between, number
from training.intervals import Floats

log = logging.getLogger(__name__)

VERSION = 1  # part of an evaluation's key in the store: raise it when the same inputs give other results
ROLES = ("tokenizer", "domain")
Evaluations = dict[tuple[str, int], Evaluation]
"""By method and window."""
# The table's columns of a window, by the metric behind them.
LABELS = {"ppl_D": "ppl_D", "L": "tokens", "matched": "matched"}


@dataclass(frozen=True)
class Cell:
    """One window and one method.

    Attributes:
        method: none, dynamic or yarn.
        window: tokens of prompt and answer together.
        config: the configuration of this evaluation: the contexts of policy and domain model, the longest answer.
    """

    method: str
    window: int
    config: GraceKTOSettings

    @property
    def name(self) -> str:
        """Its name in log lines."""
        return f"{self.method} {short(self.window)}"


def evaluate_contexts(
    config: GraceKTOSettings, references: Sequence[str], output: Path, windows: Sequence[int], methods: Sequence[str]
) -> EvaluationTable:
    """Evaluate one policy in several windows, and write contexts.json and contexts.md.

    Args:
        config: the configuration; its `evaluate` section names the held-out queries.
        references: REF of the policy; none for the newest round's in the store, else the first.
        output: folder to write into; it is made where it is missing.
        windows: context windows in tokens.
        methods: of none, dynamic and yarn; the others are compared with the first.

    Raises:
        UserError: several policies; a policy or the held-out source is missing; the engine asks a server; a model
            cannot be brought to a window; a window leaves no room for an answer; a metric is not finite.
    """
    store = Store(Path(config.store))
    require_folder(output)
    require_engine("engines.policy", local_engine("engines.policy", config.engines.policy, "evaluate"))
    perplexity_ready(config)
    if len(references) > 1:
        raise UserError(f"--contexts compares the windows of one policy, found {', '.join(references)}; give one REF")
    for text in references:
        require_reference(text, config, store)
    queries = held_out_queries(config)
    models, finder = evaluation_models(config, first=not references, only=ROLES)
    name, policy = named_policies(config, store, finder, references, models.pop("first", None))[-1]
    own, cells = _cells(config, policy, models["domain"], queries, windows, methods)
    evaluations = {(cell.method, cell.window): _evaluated(store, cell, policy, models, queries) for cell in cells}
    return _report(name, own, cells, evaluations, output, len(queries))


def short(window: int) -> str:
    """Write a window as people say it.

    >>> short(8192), short(1000)
    ('8k', '1000')
    """
    return f"{window // 1024}k" if window % 1024 == 0 else str(window)


def _cells(
    config: GraceKTOSettings,
    policy: LocalModel,
    domain: LocalModel,
    queries: Sequence[str],
    windows: Sequence[int],
    methods: Sequence[str],
) -> tuple[int | None, list[Cell]]:
    """Return the policy's own window, and a cell per method and window that is known to work.

    Raises:
        UserError: a model cannot be brought to a window; a window leaves no room for an answer.
    """
    engine = local_engine("engines.policy", config.engines.policy, "evaluate")
    tokenizer, policy_config = load_tokenizer_and_config(str(policy.path), None, engine.chat_template)
    _, domain_config = load_tokenizer_and_config(str(domain.path), None)
    system = system_prompts(config, None)
    prompts = [chat(query, system=system_for(query, system)) for query in queries]
    ids = encode_prompts(tokenizer, prompts, range(len(prompts)), 0, NO_LIMIT, engine.chat_template_kwargs)
    longest = max(map(len, ids))
    cells = []
    for window in windows:
        if window <= longest:
            raise UserError(
                f"--contexts {short(window)}: the longest of {len(queries)} held-out prompts has {longest} tokens, "
                "which leaves no room for an answer; give larger windows or shorter queries"
            )
        for method in methods:
            writes, reads = _context(policy_config, method, window), _context(domain_config, method, window)
            try:
                require_context(policy, writes, "engines.policy.context")
                require_context(domain, reads, "score.context")
            except UserError as error:
                raise UserError(f"--contexts {short(window)}: {error}") from None
            cells.append(Cell(method, window, _configured(config, writes, reads, window - longest)))
    return own_window(policy_config), cells


def _context(model: Any, method: str, window: int) -> ContextSettings:
    """Return the context of a model with this configuration; within its own window it needs no method.

    A model that states no window takes any number of tokens.
    """
    own = own_window(model)
    beyond = "extrapolation" if method == "none" and own is not None else method
    return ContextSettings.model_validate(
        {"method": "none" if own is not None and window <= own else beyond, "window": window}
    )


def _configured(
    config: GraceKTOSettings, writes: ContextSettings, reads: ContextSettings, max_new_tokens: int
) -> GraceKTOSettings:
    """Return the configuration of one cell."""
    policy = config.engines.policy.model_copy(update={"context": writes})
    return config.model_copy(
        update={
            "engines": config.engines.model_copy(update={"policy": policy}),
            "score": config.score.model_copy(update={"context": reads}),
            "sample": config.sample.model_copy(update={"max_new_tokens": max_new_tokens}),
        }
    )


def _evaluated(
    store: Store, cell: Cell, policy: LocalModel, models: dict[str, LocalModel], queries: Sequence[str]
) -> Evaluation:
    """Return a cell's evaluation, from the store or new."""
    config = cell.config
    sections = {"evaluate": config.evaluate, "sample": config.sample, "score": config.score}
    key = fingerprint_of(
        {
            "contexts": VERSION,
            "policy": str(policy.record),
            "scorers": {role: str(model.record) for role, model in models.items()},
            "configuration": {name: identity(section) for name, section in sections.items()},
            "engine": identity(config.engines.policy),
            "system_prompts": system_prompts(config, None),
            "random_seed": config.random_seed,
            "threads": config.threads,
            "queries": list(queries),
        }
    )
    return kept(store, key, cell.name, policy, lambda: _evaluate(cell, policy, models, queries))


def _evaluate(cell: Cell, policy: LocalModel, models: dict[str, LocalModel], queries: Sequence[str]) -> Evaluation:
    """Let the policy answer in the cell's context, and the domain model read the documents."""
    completions, parts = read_answers(cell.config, policy, queries)
    documents = [part.document for part in parts if part is not None]
    tokenizer = load_tokenizer(models["tokenizer"])
    ids = tokenizer(documents, add_special_tokens=False)["input_ids"] if documents else []
    read = _perplexities(models["domain"], cell.config.score, documents) if documents else []
    metrics = {"L": pl.Series(lengths(ids), dtype=pl.Float64), "ppl_D": pl.Series(read, dtype=pl.Float64)}
    require_finite(metrics, cell.name)
    return Evaluation(cell.name, str(policy.record), by_query(metrics, completions, parts, len(queries)))


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


def _perplexities(model: LocalModel, settings: ScoreSettings, documents: Sequence[str]) -> list[float | None]:
    """Let a model read documents in a cell's context, and free its memory."""
    loaded = Loaded()
    try:
        return loaded.get(model, "perplexity", lambda: load_perplexity(model, settings)).score(documents)
    finally:
        loaded.keep(())


def _report(
    name: str, own: int | None, cells: Sequence[Cell], evaluations: Evaluations, output: Path, queries: int
) -> EvaluationTable:
    """Return the table, and write it with everything behind it."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    windows = list(dict.fromkeys(cell.window for cell in cells))
    header, rows = _table(own, methods, windows, evaluations)
    beyond = [window for window in windows if own is None or window > own]
    lines = [_compared(window, methods[0], method, evaluations) for window in beyond for method in methods[1:]]
    shares = {cell.name: evaluations[cell.method, cell.window].value("cut") or 0.0 for cell in cells}
    if cut := ", ".join(f"{share:.0%} of {cell}" for cell, share in shares.items() if share > RUNAWAY_SHARE):
        lines.append(f"Caution: answers fill the window and are cut, which counts as not matched: {cut}.")
    found: dict[str, Any] = {
        "name": name,
        "policy": next(iter(evaluations.values())).policy,
        "own_window": own,
        "queries": queries,
        "contexts": [_record(cell, evaluations, methods[0]) for cell in cells],
    }
    return EvaluationTable(
        title=f"{name}, {queries} held-out queries, means over matched responses",
        header=header,
        rows=rows,
        lines=lines,
        public={**found, "lines": lines, "path": str(output)},
        files=write_tables(output, "contexts", header, rows, record=found, lines=lines),
    )


def _record(cell: Cell, evaluations: Evaluations, first: str) -> dict[str, Any]:
    """A cell for machines: each estimate, and its change from the first method in the same window."""
    evaluation = evaluations[cell.method, cell.window]
    changes = evaluation.change_from(evaluations[first, cell.window])
    return {
        "method": cell.method,
        "window": cell.window,
        "max_new_tokens": cell.config.sample.max_new_tokens,
        "estimates": {label: asdict(found) for label, found in evaluation.estimates.items()},
        "changes": {label: asdict(change) for label, change in changes.items()},
    }


def _table(
    own: int | None, methods: Sequence[str], windows: Sequence[int], evaluations: Evaluations
) -> tuple[list[str], list[list[str]]]:
    """Format the table: a row per method, and per window perplexity, tokens and matched share."""
    header = ["method"]
    for window in windows:
        ppl, *others = (f"{word} {short(window)}" for word in LABELS.values())
        header += [ppl if own is None else f"{ppl} ({window / own:.3g}×)", *others]
    rows = [
        [method, *(number(evaluations[method, window].value(label), label) for window in windows for label in LABELS)]
        for method in methods
    ]
    return header, rows


def _compared(window: int, first: str, method: str, evaluations: Evaluations) -> str:
    """One sentence on what a method changes at a window beyond the policy's own."""
    before, after = evaluations[first, window], evaluations[method, window]
    found = {one.metric: one for one in differences_between(before, after, only=LABELS)}
    told = ", ".join(
        f"{word} {number(one.before, label)} → {number(one.after, label)}, {one.verdict}"
        for label, word in LABELS.items()
        if (one := found[label]).raw.value is not None
    )
    return f"At {short(window)}, from {first} to {method}: {told}."
