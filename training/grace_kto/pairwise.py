"""`grace evaluate --pairwise`: a judge chooses between the answers of every two policies, in both orders (§4.1).

    policy   strength               preferred  tie    not preferred
    round 4  +0.92 (+0.61 … +1.30)  58%        26%    16%
    first    -0.92 (-1.30 … -0.61)  16%        26%    58%

The strengths are Bradley and Terry's, in log odds; ties are half a choice for each.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from builders.core.evaluation_table import EvaluationTable
from builders.core.run import run
from builders.grace_kto.settings import GraceKTOSettings
from builders.report.text_tables import write_tables
from builders.store.revision import Revision
from scorers.errors import UserError
from training.bradley_terry import Judged, Strength, strengths
from training.grace_kto.comparisons import COMPARISONS
from training.intervals import Estimate, of_ragged

SHARES = {"a": 1.0, "tie": 0.5, "b": 0.0}
Answers = tuple[str, Revision]
"""The name of a policy and its answers."""


def compare_pairs(
    config: GraceKTOSettings, answers: Sequence[Answers], names: Sequence[str], output: Path
) -> EvaluationTable:
    """Let the judge choose between every two policies' answers, and write comparisons.json, .md, .csv and .tex.

    Args:
        config: the configuration.
        answers: of each policy, two at least.
        names: the policies' names in names of datasets.
        output: folder to write into; it is made where it is missing.

    Raises:
        UserError: no pair has a preference.
    """
    frames = {}
    for first, second in combinations(range(len(answers)), 2):
        frames[first, second] = _compared(config, answers, names, first, second)
    judged = [
        Judged(query, first, second, SHARES[preference])
        for (first, second), (_, frame) in frames.items()
        for query, preference in frame.drop_nulls("preference").select("query_id", "preference").iter_rows()
    ]
    if not judged:
        raise UserError(
            f"no pair of answers has a preference: none of the replies of {config.models.judge} could be read; look at "
            "the judge's replies, or name another"
        )
    policies = [name for name, _ in answers]
    header, rows = _table(policies, strengths(judged, len(answers)), judged)
    lines = [_line(policies[a], policies[b], frame) for (a, b), (_, frame) in frames.items()]
    judge = next(str(frame["judge"][0]) for _, frame in frames.values())
    found = [counts_of(frame) for _, frame in frames.values()]
    agree, pairs = sum(one["orders agree"] for one in found), sum(sum(one[name] for name in SHARES) for one in found)
    lines.append(f"Chosen by {judge}.")
    if 2 * agree < pairs:
        lines.append(
            f"Caution: both orders agree in {agree} of {pairs} pairs: the judge hardly tells the answers apart."
        )
    record = {
        "strengths": dict(zip(policies, map(asdict, strengths(judged, len(answers))), strict=True)),
        "pairs": [
            {"policy_a": policies[a], "policy_b": policies[b], "dataset": str(revision), **counts_of(frame)}
            for (a, b), (revision, frame) in frames.items()
        ],
        "judge": judge,
        "path": str(output),
    }
    bias = position_bias(pl.concat([frame for _, frame in frames.values()]))
    lines.append(bias_line(bias))
    record["first_place"] = asdict(bias)
    return EvaluationTable(
        title=f"{len(judged)} pairs of answers, judged in both orders",
        header=header,
        rows=rows,
        lines=lines,
        public=record,
        files=write_tables(output, "comparisons", header, rows, record=record, lines=lines),
    )


def _compared(
    config: GraceKTOSettings, answers: Sequence[Answers], names: Sequence[str], first: int, second: int
) -> tuple[Revision, pl.DataFrame]:
    """Return the choices between two policies' answers, new ones where the store does not have them."""
    label = f"{names[first]}-{names[second]}"
    evaluate = config.evaluate.model_copy(update={"other": str(answers[second][1]), "label": label})
    own = config.model_copy(update={"evaluate": evaluate, "continues": None})
    from training.grace_kto.pipeline import GRACE_KTO

    revision = run(GRACE_KTO, own, COMPARISONS.name, start=str(answers[first][1]))[-1].revision
    return revision, revision.scan().collect()


def counts_of(frame: pl.DataFrame) -> dict[str, int]:
    """Return how often each side is preferred, how often neither, and how many pairs have no preference.

    `orders agree`: pairs with a choice for the same answer, or a tie, in both orders.
    """
    preferences = frame["preference"]
    agree = (pl.col("forward") == "tie") & (pl.col("backward") == "tie") | pl.col("preference").is_in(["a", "b"])
    return {
        **{name: int((preferences == name).sum()) for name in SHARES},
        "unscored": preferences.null_count(),
        "orders agree": int(frame.select(agree.fill_null(False).sum()).item()),
    }


def position_bias(frame: pl.DataFrame) -> Estimate:
    """Return the share of choices, ties left out, for the answer that stands first; a half is no bias.

    Its interval is by bootstrap over queries; None without a choice.
    """
    places = {"a": 1.0, "b": 0.0}
    queries: dict[str, list[float]] = {}
    for query, *choices in frame.select("query_id", "forward", "backward").iter_rows():
        found = [places[choice] for choice in choices if choice in places]
        if found:
            queries.setdefault(query, []).extend(found)
    return of_ragged(list(queries.values()))


def bias_line(bias: Estimate) -> str:
    """Say whether the judge prefers a place."""
    if bias.value is None:
        return "The judge never chose, so nothing is known of its preference for a place."
    if bias.low is None or bias.high is None:
        return f"The answer that stood first was chosen in {bias.value:.0%} of the choices, of one query."
    told = "it prefers the first place" if bias.low > 0.5 else "it prefers the second place" if bias.high < 0.5 else (
        "no preference for a place can be told"
    )  # fmt: skip
    return f"The answer that stood first was chosen in {bias.value:.0%} ({bias.low:.0%} … {bias.high:.0%}): {told}."


def _line(first: str, second: str, frame: pl.DataFrame) -> str:
    """Say what became of one pair of policies."""
    counts = counts_of(frame)
    judged = sum(counts[name] for name in SHARES)
    if not judged:
        return f"{first} and {second}: no pair could be read, of {frame.height}."
    return (
        f"{first} preferred to {second} in {counts['a']} of {judged} pairs, {second} in {counts['b']}, ties "
        f"{counts['tie']}; both orders agree in {counts['orders agree']}; unscored {counts['unscored']}."
    )


def _table(
    policies: Sequence[str], found: Sequence[Strength], judged: Sequence[Judged]
) -> tuple[list[str], list[list[str]]]:
    """Format strengths and shares, the strongest first."""
    rows: list[tuple[float, list[str]]] = []
    for number, (name, strength) in enumerate(zip(policies, found, strict=True)):
        own = [one.share for one in judged if one.first == number]
        own += [1 - one.share for one in judged if one.second == number]
        shares: list[Any] = [
            sum(share == value for share in own) / len(own) if own else None for value in (1.0, 0.5, 0.0)
        ]
        ends = "" if strength.low is None else f" ({strength.low:+.2f} … {strength.high:+.2f})"
        cells = [name, f"{strength.value:+.2f}{ends}", *("–" if share is None else f"{share:.0%}" for share in shares)]
        rows.append((-strength.value, cells))
    header = ["policy", "strength", "preferred", "tie", "not preferred"]
    return header, [cells for _, cells in sorted(rows, key=lambda row: row[0])]
