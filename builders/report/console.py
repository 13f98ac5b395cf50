"""What commands print for people: short tables, sentences and trees on stdout; `as_json` prints the same for machines.

Functions take the data that commands return. Cells are text, never markup, and control characters in foreign text
become visible escapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from builders.core.costs import Cost, CostPlan, Rehearsed
from builders.core.evaluation_table import Table
from builders.core.run import StagePlan
from builders.core.runner import StageResult
from builders.inspect.diff import STATISTICS
from builders.inspect.lineage import Node
from builders.inspect.status import Status
from builders.report.lineage import lineage_rows
from builders.report.page.page import Written
from builders.report.tables import SHORTEST, print_paragraph, print_table, print_wide_table, shortened, width
from builders.settings.load import Configuration
from builders.settings.write import describe
from builders.store.check import Finding
from builders.store.revision import Revision
from scorers.errors import plain


def print_config(found: Configuration) -> None:
    """Print a whole configuration as YAML, with where each value comes from as a comment."""
    for _, line, origin in describe(found):
        print(line if origin is None else f"{line:<40}  # {origin}")


def print_build(results: Sequence[StageResult], published: dict[str, str] | None) -> None:
    """Print the revisions that were built, and those kept of the target's own round or of no round."""
    target = results[-1]
    rows = []
    for result in results:
        # Kept revisions of other rounds would make the table longer with every round.
        if not result.built and result.round not in (0, target.round):
            continue
        manifest = result.revision.manifest
        dropped = sum(manifest.rows.dropped.values()) if manifest else 0
        rows.append(
            (
                result.stage,
                f"{result.revision.repo}@{result.revision.revision[:12]}",
                manifest.rows.written if manifest else "",
                dropped,
                round(result.seconds, 1),
                f"{'built' if result.built else 'kept'}: {result.reason}",
            )
        )
    print_table("", ("stage", "revision", "rows", "dropped", "seconds", "why"), rows, names=("revision",))
    if published is not None:
        print(f"published {published['repo']}@{published['revision']} as {published['tag']}: {published['url']}")


def print_push(published: dict[str, Any]) -> None:
    """Print where a revision is on the Hub, and whether it was there already."""
    how = "published" if published["uploaded"] else "already there"
    print(f"{how}: {published['repo']}@{published['revision']} as {published['tag']}: {published['url']}")


def print_pull(revision: Revision) -> None:
    """Print which revision was brought into the store, and where it lies."""
    print(f"{revision} in {revision.path}")


def print_plan(plans: Sequence[StagePlan]) -> None:
    """Print what a run would do."""
    rows = [(p.stage, p.round or "", p.repo, f"{p.action}: {p.reason}") for p in plans]
    print_table("", ("stage", "round", "repository", "would"), rows, names=("repository",))


def print_costs(plan: CostPlan) -> None:
    """Print what a configuration will cost: a table for each section, and what the numbers rest on."""
    print(plain(f"{plan.name} on {plan.machine}"))
    for section in dict.fromkeys(cost.section for cost in plan.costs):
        print()
        rows = [(c.part, _amount(c), plain(c.formula)) for c in plan.costs if c.section == section]
        print_table(plain(section), ("part", "amount", "formula"), rows)
    for text in plan.assumptions:
        print_paragraph(plain(text))


def print_rehearsal(parts: Sequence[Rehearsed]) -> None:
    """Print what each part of a rehearsal took, and the hours of the full run that follow from it."""
    rows = [
        (p.part, round(p.seconds, 1), round(p.memory / 2**30, 2), "" if p.hours is None else round(p.hours, 2), p.note)
        for p in parts
    ]
    print_table("", ("part", "seconds", "GiB", "hours of the full run", "note"), rows)
    hours = sum(p.hours or 0 for p in parts)
    print_paragraph(
        f"All of the full run: {hours:,.1f} hours, by the ratio of tokens. Seconds hold the loading of models, which a "
        "full run does once, so they are an upper bound; nothing of the rehearsal was kept."
    )


def _amount(cost: Cost) -> str:
    """Return a number of a plan with its unit, as people read it."""
    if cost.unit == "bytes":
        unit, size = next(((u, s) for u, s in (("TiB", 2**40), ("GiB", 2**30)) if cost.value >= s), ("MiB", 2**20))
        return f"{cost.value / size:,.1f} {unit}"
    if cost.unit in ("parameters", "tokens"):
        return f"{cost.value:,.0f}"
    return f"{cost.value:,.1f} h" if cost.value >= 1 else f"{60 * cost.value:,.1f} min"


def print_status(rows: Sequence[Status]) -> None:
    """Print which revisions the store holds and which are missing, what is damaged, and which tags have moved."""
    columns = ("round", "stage", "kind", "state", "rows", "revision")
    cells = [["" if cell is None else cell for cell in astuple(row)[:6]] for row in rows]
    print_table("", columns, cells, names=("revision",))
    for row in rows:
        if row.fault is not None:
            print(plain(f"damaged: {row.revision}: {row.fault}"))
    for row in rows:
        for move in row.earlier[:1]:
            others = len(row.earlier) - 1
            more = f", and for {others} other{'s' if others > 1 else ''} before (--json lists all)" if others else ""
            print(plain(f"{move.ref} stood for {move.repo}@{move.revision} until {move.until}{more}"))


def print_findings(revision: Revision, findings: Sequence[Finding]) -> None:
    """Print what `grace verify` found: a table of differences, or one line where there are none."""
    if findings:
        table = [tuple(plain(cell) for cell in astuple(finding)) for finding in findings]
        print_table(f"{revision} differs", ("where", "what", "stored", "found"), table)
        return
    manifest = revision.manifest
    counted = "" if manifest is None or manifest.kind == "model" else f"{manifest.rows.written} rows, "
    files = len(manifest.files) if manifest else 0
    print(f"ok: {revision}, digest {revision.digest}, {counted}{files} files")


def print_evaluation(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print the tables of an evaluation and the lines below them."""
    for place, table in enumerate(tables):
        if place:
            print()
        print_wide_table(table.title, table.header, table.rows)
    for line in lines:
        print_paragraph(line)


def print_lineage(nodes: Sequence[Node]) -> None:
    """Print a lineage as a table, the REF first, then what it was made from, back to the seeds."""
    print_table("", ("stage", "revision", "rows", "made from"), lineage_rows(nodes), names=("revision",))


def print_report(written: Written) -> None:
    """Print which page was written, and how much of the data it shows."""
    shown = f", {written.line}" if written.line else ""
    print(f"wrote {written.path}: {written.bytes / 1e6:.1f} MB{shown}")


def print_diff(result: dict[str, Any]) -> None:
    """Print a table of the two datasets, one of their metrics, and the warnings."""
    sides = (result["a"], result["b"])
    for name, side in zip("ab", sides, strict=True):
        print(f"{name}: {shortened('{repo}@{revision}'.format(**side), max(width() - 3, SHORTEST))}")
    print()
    print_table("", ("", "a", "b"), [(name, *(_text(get(side)) for side in sides)) for name, get in _LINES])
    print(f"\nqueries in common: {_text(result['queries_in_common'])}")
    rows = [
        (
            name,
            *(f"{_text(pair['a'][s])} → {_text(pair['b'][s])}" for s in STATISTICS),
            _text(pair["standardised_difference"]),
        )
        for name, pair in result["metrics"].items()
    ]
    if rows:
        print()
        print_wide_table("a → b", ("metric", *STATISTICS, "std. difference"), rows)
    for side, names in result["only"].items():
        if names:
            print_paragraph(f"only in {side}: {', '.join(names)}")
    for text in result["warnings"]:
        print_paragraph(f"warning: {text}")


def _part(key: str, name: str) -> Callable[[dict[str, Any]], object]:
    """Return a getter of one value of a group, None where the dataset lacks the group."""
    return lambda side: side[key][name] if side[key] else None


# The lines of the first table: a label, and the value of one side.
_LINES: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
    ("rows", lambda side: side["rows"]),
    ("queries", lambda side: side["queries"]),
    ("positive rows", _part("labels", "positive")),
    ("negative rows", _part("labels", "negative")),
    ("positive share", _part("labels", "share")),
    ("effective sample size (Σ|W|)²/ΣW²", lambda side: side["effective_sample_size"]),
    ("length and weight, Pearson", _part("length_and_weight", "pearson")),
    ("length and weight, Spearman", _part("length_and_weight", "spearman")),
    ("length and reward within a query, Spearman", _part("length_and_reward", "spearman")),
)


def _text(value: object) -> str:
    """Return a value as a cell: four significant digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
