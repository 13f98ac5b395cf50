"""Stage `sample`: M responses of the writing assistant to each unlabelled text (§3.2.2).

One row::

    {"text_id": "51c0…", "task": "gec", "source": "He go.", "response_id": "51c0…-3",
     "response": "<suggestion>He goes.</suggestion>\\n<reasons>The word …</reasons>", "suggestion": "He goes.",
     "rationale": "The word …", "finish_reason": "stop", "num_tokens": 31, "sample_seed": 3310…, "policy": "…"}
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from builders.core.draws import derive_seed
from builders.core.sampled import fitting, sampled
from builders.core.stage import Asking, Asks, Context, Shard, ShardResult, row_shards
from builders.rationalign import messages
from builders.rationalign.columns import CANDIDATES_COLUMNS, UNLABELLED_COLUMNS
from builders.rationalign.contest import OVER_WINDOW, sampling_of
from builders.rationalign.settings import RationAlignSettings
from builders.store.columns import check_frame, frame_of, require_columns
from builders.store.revision import Revision
from scorers.suggestion import read_answer

SampleContext = Context[RationAlignSettings]

ROWS_PER_SHARD = 32
WITHOUT_SUGGESTION = "responses without a suggestion"
WITHOUT_REASONS = "responses without reasons"


def prompts(config: RationAlignSettings, inputs: Mapping[str, Revision]) -> dict[str, str]:
    """Return the writing assistant's prompt, and what is said of each task."""
    return messages.prompts(config, inputs["unlabelled"], ["edit"], ["edit"])


def plan(context: SampleContext) -> list[Shard]:
    """Plan shards of consecutive texts."""
    parent = context.inputs["unlabelled"]
    require_columns(parent.schema(), UNLABELLED_COLUMNS, str(parent))
    rows = parent.scan().select("task").collect()
    messages.require_tasks(context.config, rows["task"], parent)
    return row_shards(rows.height, context.config.sample.shard_rows, ROWS_PER_SHARD)


def build(context: SampleContext, shard: Shard) -> Asking:
    """Sample the responses to a shard's texts."""
    config, parent = context.config, context.inputs["unlabelled"]
    settings, order = config.sample, config.sft.order
    texts = parent.scan().select(c.name for c in UNLABELLED_COLUMNS).slice(*shard.spec).collect()
    check_frame(texts, UNLABELLED_COLUMNS, str(parent))

    def ask(row: dict[str, Any]) -> Any:
        return messages.ask_to_edit(config, row["task"], row["source"], order)

    rows = fitting(context, "policy", list(texts.iter_rows(named=True)), ask, settings.max_new_tokens)
    counts: Counter[str] = Counter({"read": texts.height, f"dropped.{OVER_WINDOW}": texts.height - len(rows)})
    asked = [(row, said, j) for row, said in rows for j in range(settings.responses)]
    seeds = [derive_seed(config.random_seed, "sample", row["text_id"], j) for row, _, j in asked]
    said = [prompt for _, prompt, _ in asked]
    found = yield from sampled(context, "policy", said, seeds, sampling_of(settings), settings.thinking_tags, counts)
    policy = str(context.models["policy"].record)
    kept = []
    for (row, _, j), seed, (text, completion) in zip(asked, seeds, found, strict=True):
        answer = read_answer(text)
        counts[WITHOUT_SUGGESTION] += answer is None
        counts[WITHOUT_REASONS] += order != "none" and (answer is None or answer.rationale is None)
        kept.append(
            {
                **row,
                "response_id": f"{row['text_id']}-{j}",
                "response": text,
                "suggestion": answer and answer.suggestion,
                "rationale": answer and answer.rationale,
                "finish_reason": completion.finish_reason,
                "num_tokens": completion.num_tokens,
                "sample_seed": seed,
                "policy": policy,
            }
        )
    return ShardResult(frame_of(kept, CANDIDATES_COLUMNS), dict(+counts))


BUILD = Asks("policy", build)
