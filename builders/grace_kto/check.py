"""What `grace verify` recomputes of GRACE-KTO.

Of a weights dataset these are the ranks, rewards, weights and labels (eq. 5–10), which follow from the scores columns
of the same rows and from the coefficients in the manifest. Of a dataset of formatted documents it is the tagged form,
in which the seed's document stands letter by letter.
"""

import itertools
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from builders.core.prompting import answer
from builders.grace_kto.calibrate import add_rewards, add_weights, ranking_of
from builders.grace_kto.columns import WEIGHTS_COLUMNS
from builders.grace_kto.format import tagged
from builders.grace_kto.pieces import pieces_of, read_piece
from builders.grace_kto.rows import CHECKED, RANKING, ResponseIds, Rule, broken_rules, rules, with_rubric
from builders.grace_kto.settings import CalibrateSettings
from builders.store.check import Finding
from builders.store.columns import polars_schema
from builders.store.manifest import FILE_NAME, Manifest
from scorers.extraction import Plan, extract
from scorers.weighting import Totals, totals_of

TOLERANCE = 1e-9  # a recomputed number may differ by this much, absolutely
ROWS_SHOWN = 5  # differing rows listed per column
NOT_COMPOSED = ("summary, outline and reference in the tagged form", "another text")


def calibrated(names: Collection[str]) -> tuple[str, ...]:
    """Return the columns that are recomputed, of a dataset with these names."""
    return (*(f"rank_{metric}" for metric in ranking_of(names)), "rank_sum", "reward", "weight", "label")


def check_calibration(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """Recompute ranks, rewards, weights and labels, and list the first rows that differ or that could not be ranked.

    Args:
        manifest: the revision's manifest, whose coefficients are used.
        files: the readable data files by path.
        sound: whether all files are there and fit the contract; nothing is recomputed otherwise.

    Returns:
        At most `ROWS_SHOWN` findings per column and rule, and one more for each that says how many rows there are.
    """
    try:
        settings = CalibrateSettings.model_validate(manifest.configuration.get("calibrate"))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(["configuration.calibrate", *map(str, fault["loc"])])
        return [Finding(FILE_NAME, where, "the coefficients", fault["msg"])]
    if not sound or not files:
        return [Finding("data/", "calibration", "", "not recomputed: the rows are incomplete or do not fit")]
    names = list(pl.read_parquet_schema(next(iter(files.values()))))
    wanted = {*with_rubric(CHECKED, names), *calibrated(names)}
    stored = pl.Schema({name: dtype for name, dtype in polars_schema(WEIGHTS_COLUMNS).items() if name in wanted})
    # Pieces are files of their own where the revision's files split groups; a pulled revision is not written to.
    with tempfile.TemporaryDirectory(prefix="grace-verify-") as folder:
        pieces = pieces_of(list(files.values()), stored, Path(folder) / "pieces")
        findings, totals = _check_rows(pieces, list(files.values()), settings, with_rubric(CHECKED, names))
        return findings + _recompute(pieces, settings, totals, stored)


def _check_rows(
    pieces: Sequence[str], files: Sequence[Path], settings: CalibrateSettings, schema: pl.Schema
) -> tuple[list[Finding], Totals]:
    """List the first rows that break a rule of calibration or have another row's response_id, and sum the rewards.

    As in the stage this is one pass over the dataset; the totals normalise the weights.
    """
    # The manifest of the weights does not name the models that scored: whether a length explains a missing perplexity
    # is not known here.
    wanted = rules(other_tokenizers=True)
    findings: list[Finding] = []
    ids = ResponseIds()
    counts: dict[Rule, int] = {}
    totals = Totals()
    for piece in pieces:
        rows = read_piece(piece, schema)
        totals += totals_of(add_rewards(rows, settings.coefficients)["reward"], settings.form)
        ids.add(rows["response_id"])
        for rule in broken_rules(rows, wanted):
            broken = rows.filter(rule.broken)
            shown = broken.head(max(0, ROWS_SHOWN - counts.get(rule, 0)))
            findings += [
                Finding(id_, rule.column, str(value), rule.allowed)
                for id_, value in shown.select("response_id", rule.column).rows()
            ]
            counts[rule] = counts.get(rule, 0) + broken.height
    findings += [_summed(rule.column, count) for rule, count in counts.items() if count > ROWS_SHOWN]
    repeated = [
        Finding(id_, "response_id", places[0], f"again in {places[1]}")
        for id_, places in itertools.islice(ids.repeated(files), ROWS_SHOWN)
    ]
    return findings + repeated, totals


def _summed(column: str, count: int) -> Finding:
    """Return the finding that says how many rows differ in a column."""
    return Finding("data/", column, "", f"{count} rows differ, {ROWS_SHOWN} shown")


def _recompute(pieces: Sequence[str], settings: CalibrateSettings, totals: Totals, schema: pl.Schema) -> list[Finding]:
    """Calibrate again with the totals of the whole dataset and return the differences, as `check_calibration` does."""
    columns = calibrated(schema)
    counts = dict.fromkeys(columns, 0)
    findings: list[Finding] = []
    for piece in pieces:
        stored = read_piece(piece, schema)
        rewards = add_rewards(stored.select(with_rubric(RANKING, schema).names()), settings.coefficients)
        computed = add_weights(rewards, totals, binary=settings.binary, form=settings.form)
        for column, differing in _differences(stored, computed, columns):
            shown = differing.head(max(0, ROWS_SHOWN - counts[column]))
            findings += [Finding(row[0], column, str(row[1]), str(row[2])) for row in shown.rows()]
            counts[column] += differing.height
    return findings + [_summed(column, count) for column, count in counts.items() if count > ROWS_SHOWN]


def _differences(
    stored: pl.DataFrame, computed: pl.DataFrame, columns: Sequence[str]
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each calibrated column with its differing rows (id, stored, computed).

    A number differs by more than `TOLERANCE` or in being null, a label in any way.
    """
    for column in columns:
        pair = pl.DataFrame({"id": stored["response_id"], "stored": stored[column], "computed": computed[column]})
        # ne_missing: null equals null and differs from every value.
        differ = pl.col("stored").ne_missing(pl.col("computed"))
        if column != "label":
            near = (pl.col("stored") - pl.col("computed")).abs() <= TOLERANCE
            differ = differ & ~near.fill_null(False)
        yield column, pair.filter(differ)


def check_documents(manifest: Manifest, files: Mapping[str, Path], sound: bool) -> list[Finding]:
    """Compose the tagged form of every document again and list the first rows whose completion is another text.

    Args:
        manifest: the revision's manifest.
        files: the readable data files by path.
        sound: whether all files are there and fit the contract; nothing is recomputed otherwise.

    Returns:
        At most `ROWS_SHOWN` findings, and one more that says how many rows there are.
    """
    if not sound or not files:
        return [Finding("data/", "completion", "", "not recomputed: the rows are incomplete or do not fit")]
    findings: list[Finding] = []
    differing = 0
    names = ("query_id", "reference", "summary", "outline", "attempts", "completion")
    for path in files.values():
        rows = pl.read_parquet(path, columns=list(names), glob=False).select(names)
        for identity, reference, summary, outline, attempts, completion in rows.iter_rows():
            text = tagged(reference, Plan(summary, outline), given=not attempts)
            found = extract(text)
            if found is None or found[:2] != (summary, outline) or completion != answer(text):
                differing += 1
                findings += [Finding(identity, "completion", *NOT_COMPOSED)] if differing <= ROWS_SHOWN else []
    return findings + ([_summed("completion", differing)] if differing > ROWS_SHOWN else [])
