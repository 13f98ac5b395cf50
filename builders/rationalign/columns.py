"""The data contract of RationAlign: every dataset's columns, defined once."""

import polars as pl

from builders.store.columns import MESSAGES, column

TASK = column("task", pl.String, "what is asked for: gec, fluency, clarity, …")
SOURCE = column("source", pl.String, "the text before")
EDIT = pl.Struct({"start": pl.Int32, "end": pl.Int32, "source": pl.List(pl.String), "target": pl.List(pl.String)})

# Stage `pairs`.
PAIRS_COLUMNS = (
    column("pair_id", pl.String, "first 16 hex digits of the SHA-256 of task and source"),
    TASK,
    SOURCE,
    column("target", pl.String, "the text as somebody edited it"),
    column("references", pl.List(pl.String), "further edited texts, in no order; may be empty"),
    column("fold", pl.Int32, "1 … K, by the source alone: equal sources of several tasks share a fold"),
)
# Stage `unlabelled`.
UNLABELLED_COLUMNS = (
    column("text_id", pl.String, "first 16 hex digits of the SHA-256 of task and source"),
    TASK,
    SOURCE,
)
# Stage `explain` keeps all columns of its parent.
RATIONALES_COLUMNS = (
    *PAIRS_COLUMNS,
    column("edits", pl.List(EDIT), "edits from source to target: places among the source's words, words that go, come"),
    column("rationale", pl.String, "one reason for each edit, a line each; a fixed sentence where there is no edit"),
    column("teacher", pl.String, "model@revision that wrote the reasons; null where there is no edit", nullable=True),
)
# Stage `contest`.
CONTESTS_COLUMNS = (
    PAIRS_COLUMNS[0],
    column("contest_id", pl.String, "{pair_id}-{j}, j = 0 …"),
    *PAIRS_COLUMNS[1:3],
    column("fold", pl.Int32, "the fold that the model has not seen"),
    column("samples", pl.List(pl.String), "all suggestions that could be read, in the order of their draws"),
    column("metrics", pl.List(pl.Float64), "the task's metric of each, against all references, 0 to 100"),
    column("winner", pl.String, "the one of two drawn suggestions with the higher metric"),
    column("loser", pl.String, "the other one"),
    column("metric_winner", pl.Float64, "the winner's metric"),
    column("metric_loser", pl.Float64, "the loser's metric"),
    column("policy", pl.String, "model@revision that wrote the suggestions"),
    column("chosen", pl.String, "what the reward model reads of the winner: TRL's preference form"),
    column("rejected", pl.String, "what it reads of the loser"),
)
# Stage `sample`.
CANDIDATES_COLUMNS = (
    *UNLABELLED_COLUMNS,
    column("response_id", pl.String, "{text_id}-{j}, j = 0 … M-1"),
    column("response", pl.String, "the response, without special tokens and a thinking block before it"),
    column("suggestion", pl.String, "the new text; null where the response has none that can be read", nullable=True),
    column("rationale", pl.String, "the reasons, a line each; null where there are none", nullable=True),
    column("finish_reason", pl.String, "stop (an end token was sampled) or length (cut at the limit)"),
    column("num_tokens", pl.Int32, "tokens that were sampled, a thinking block and the end token included"),
    column("sample_seed", pl.Int64, "seed of this response's random draws"),
    column("policy", pl.String, "model@revision that wrote the response"),
)
# Stage `prefer`.
PREFERENCES_COLUMNS = (
    *UNLABELLED_COLUMNS,
    column("suggestion_chosen", pl.String, "the suggestion with the highest reward"),
    column("suggestion_rejected", pl.String, "the suggestion with the lowest reward"),
    column("reward_chosen", pl.Float64, "r_w, the reward of the chosen suggestion; scales of tasks may differ"),
    column("reward_rejected", pl.Float64, "r_l, the reward of the rejected suggestion"),
    column("policy", pl.String, "model@revision that wrote the responses"),
    column("reward_model", pl.String, "model@revision that gave the rewards"),
    column("prompt", MESSAGES, "what the writing assistant was asked, TRL's conversational form"),
    column("chosen", MESSAGES, "the response with the chosen suggestion"),
    column("rejected", MESSAGES, "the response with the rejected suggestion"),
)
