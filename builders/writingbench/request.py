"""Stage `request`: initial writing requests for each subdomain and language, in lists (§3.1.1, C.1).

The teacher is asked for `per_prompt` requests at a time until a subdomain has its n; a reply with fewer, or with
repetitions, is followed by another prompt. One row::

    {"request_id": "5b1c…-3", "request": "I teach year 5 and need …", "domain": "Education",
     "subdomain": "Lesson Plan", "language": "en", "writer": "Qwen/Qwen2.5-72B-Instruct@495f…"}
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from builders.core.languages import contradicts
from builders.core.prompting import ask_for, prompts_of
from builders.core.query_parser import read_queries
from builders.core.replies import Question, Unread, ask, dropped_in, keep_unanswered
from builders.core.stage import Asking, Context, Shard, ShardResult, row_shards
from builders.core.unread import unread_in
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.revision import Revision
from builders.writingbench.columns import REQUEST_COLUMNS, TAXONOMY_COLUMNS
from builders.writingbench.settings import PROMPTS, WritingBenchSettings
from scorers.errors import UserError

RequestContext = Context[WritingBenchSettings]

ROWS_PER_SHARD = 8
NO_LIST = "reply without a list of requests"
MISSING = "requests missing"


def prompts(config: WritingBenchSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the prompts by name, in the taxonomy's languages."""
    return prompts_of(PROMPTS, ["request"], languages_of(inputs["taxonomy"]))


def languages_of(revision: Revision) -> list[str]:
    """Return the languages of a dataset's rows, sorted."""
    return sorted(revision.scan().select("language").unique().collect()["language"].to_list())


def plan(context: RequestContext) -> list[Shard]:
    """Plan shards of consecutive rows of the taxonomy."""
    parent = context.inputs["taxonomy"]
    require_columns(parent.schema(), TAXONOMY_COLUMNS, str(parent))
    rows = parent.scan().select("subdomain_id").collect().height
    return row_shards(rows, context.config.request.shard_rows, ROWS_PER_SHARD)


def build(context: RequestContext, shard: Shard) -> Asking:
    """Ask for the requests of a shard's subdomains, again for those that are missing."""
    settings, parent = context.config.request, context.inputs["taxonomy"]
    kinds = parent.scan().select(c.name for c in TAXONOMY_COLUMNS).slice(*shard.spec).collect()
    check_frame(kinds, TAXONOMY_COLUMNS, str(parent))
    found: dict[str, dict[str, None]] = {row["subdomain_id"]: {} for row in kinds.iter_rows(named=True)}
    counts: Counter[str] = Counter(read=kinds.height)
    once = settings.model_copy(update={"attempts": 1})
    # As many prompts as could do, and then `attempts` times as many again where replies had too few.
    fewest = -(-settings.requests // settings.per_prompt)
    last: list[Question[list[str]]] = []
    for turn in range(fewest * settings.attempts if settings.temperature else 1):
        waiting = [row for row in kinds.iter_rows(named=True) if len(found[row["subdomain_id"]]) < settings.requests]
        if not waiting:
            break
        last = [_question(row, turn, settings.per_prompt) for row in waiting]
        yield from ask(context, "request", "teacher", last, once, read, counts)
        for row, question in zip(waiting, last, strict=True):
            _take(question.answer or [], row, found[row["subdomain_id"]], context.config, counts)
    keep_unanswered(context, shard.index, last)
    if not any(found.values()):
        said = unread_in(context.work, "no list was")
        raise UserError(
            f"request: the replies about {kinds.height} subdomains hold no request ({dropped_in(counts) or NO_LIST}); "
            f"raise request.attempts or request.max_new_tokens, or use a teacher that follows instructions{said}"
        )
    writer = str(context.models["teacher"].record)
    rows = [
        {
            "request_id": f"{row['subdomain_id']}-{j}",
            "request": request,
            **{name: row[name] for name in ("domain", "subdomain", "language")},
            "writer": writer,
        }
        for row in kinds.iter_rows(named=True)
        for j, request in enumerate(found[row["subdomain_id"]])
    ]
    counts[MISSING] = kinds.height * settings.requests - len(rows)
    return ShardResult(frame_of(rows, REQUEST_COLUMNS), dict(+counts))


def _question(row: Mapping[str, Any], turn: int, count: int) -> Question[list[str]]:
    """Return one prompt for requests of a subdomain."""
    values = {name: row[name] for name in ("domain", "subdomain", "description")}
    return Question(
        f"{row['subdomain_id']}-{turn}", ask_for(PROMPTS, "request", row["language"], count=count, **values)
    )


def read(question: Question[list[str]], reply: str) -> list[str] | Unread:
    """Read the requests of a reply; the strings of the prompt's own example are none."""
    found = read_queries(reply, _shown(question)).queries
    return found or Unread(NO_LIST)


def _shown(question: Question[list[str]]) -> Sequence[str]:
    """Return the strings of the list that the prompt shows."""
    return read_queries(question.messages[-1]["content"]).queries


def _take(
    requests: Sequence[str],
    row: Mapping[str, Any],
    found: dict[str, None],
    config: WritingBenchSettings,
    counts: Counter[str],
) -> None:
    """Add those of a reply's requests that are new and fit, up to n."""
    for text in map(str.strip, requests):
        if len(found) == config.request.requests:
            return
        if not text:
            counts["dropped.blank"] += 1
        elif len(text) > config.request.max_request_chars:
            counts["dropped.over-long"] += 1
        elif contradicts(text, row["language"]):
            counts["dropped.other language"] += 1
        elif text in found:
            counts["dropped.duplicate"] += 1
        else:
            found[text] = None
