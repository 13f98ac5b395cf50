"""The results of one policy on held-out queries: every metric of every answer, estimates and differences."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from training.intervals import Estimate, Floats, Statistic, difference, estimate, length_controlled, paired, value_of

# The paper's symbols, and the columns of the score stage that they stand for.
COLUMNS = {
    "L": "length",
    "E": "diversity",
    "P": "professionalism",
    "R_s": "relevance_summary",
    "R_d": "relevance_document",
    "ppl_D": "ppl_domain",
}
#: A judge's grades, 1 to 10, by the paper's symbols, and their score, 10 to 100; of all answers that could be graded.
JUDGE_SCORE = "Score"
GRADES = {
    JUDGE_SCORE: "judge_score",
    "CAR": "content",
    "TF": "tone",
    "IDA": "ideas",
    "SC": "structure",
    "PE": "persuasiveness",
}
#: The generated world's own measures, which no reward contains.
MEASURES = ("grammaticality", "duplicate_sentences", "on_topic", "heading_coverage")
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
        """By label, the difference from another policy, over the queries that both have a value for."""
        return {
            label: difference(first.columns[_column(label)], self.columns[_column(label)], _statistic(label))
            for label in self.labels
        }

    def beside(self, first: "Evaluation") -> dict[str, tuple[float | None, float | None, int]]:
        """By label, the values of another policy and of this one over the queries that both have one for, and how many.

        These are the two whose difference `change_from` is.
        """
        pairs = {label: paired(first.columns[_column(label)], self.columns[_column(label)]) for label in self.labels}
        return {
            label: (value_of(before, _statistic(label)), value_of(after, _statistic(label)), len(before))
            for label, (before, after) in pairs.items()
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


def evaluation_of(name: str, rows: pl.DataFrame) -> Evaluation:
    """Return the evaluation of a policy's answers.

    Args:
        name: the policy's name in the table.
        rows: a dataset of stage `answers` or `evaluations`, answers to one query together and all policies' queries in
            one order.
    """
    queries = rows["query_id"].n_unique()
    names = {**COLUMNS, **GRADES, **{name: name for name in MEASURES}}
    measured = {label: column for label, column in names.items() if column in rows}
    columns = {label: rows[column].cast(pl.Float64).fill_null(float("nan")) for label, column in measured.items()}
    columns["matched"] = rows["matched"].cast(pl.Float64)
    columns["cut"] = (rows["finish_reason"] == "length").fill_null(False).cast(pl.Float64)
    shaped = {label: values.to_numpy().reshape(queries, -1) for label, values in columns.items()}
    return Evaluation(name, rows["policy"][0], shaped)
