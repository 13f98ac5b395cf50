"""What commands print for people: short tables, sentences and trees on stdout; `as_json` prints the same for machines.

Functions take the data that commands return. Cells are text, never markup, and control characters in foreign text
become visible escapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from builders.core.run import StagePlan, StageResult
from builders.inspect.diff import STATISTICS
from builders.inspect.lineage import EXTERNAL, FOUND, Node
from builders.inspect.status import Status
from builders.settings.load import Configuration
from builders.settings.write import describe
from builders.store.check import Finding
from builders.store.store import Revision


def print_config(found: Configuration) -> None:
    """Print a whole configuration as YAML, with where each value comes from as a comment."""
    for _, line, origin in describe(found):
        print(line if origin is None else f"{line:<40}  # {origin}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; columns of numbers are right-aligned."""
    table = Table(title=escape(title), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numeric = bool(rows) and all(isinstance(row[columns.index(column)], (int, float)) for row in rows)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console = Console(soft_wrap=False)
    # Off a terminal rich assumes 80 columns and would break lines that other programs read.
    if not console.is_terminal:
        console = Console(width=220)
    console.print(table)


def plain(text: str) -> str:
    """Return foreign text with control characters as visible escapes, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
                "built" if result.built else "kept",
                result.reason,
                f"{result.seconds:.1f}",
            )
        )
    print_table("", ("stage", "revision", "rows", "dropped", "", "why", "seconds"), rows)
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
    rows = [(p.stage, p.round or "", p.repo, p.action, p.reason) for p in plans]
    print_table("", ("stage", "round", "repository", "would", "why"), rows)


def print_status(rows: Sequence[Status]) -> None:
    """Print which revisions the store holds and which are missing."""
    columns = ("round", "stage", "kind", "state", "rows", "revision")
    print_table("", columns, [["" if cell is None else cell for cell in astuple(row)[:6]] for row in rows])


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


def print_evaluation(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str]) -> None:
    """Print the table of an evaluation and the lines below it."""
    print_table(title, header, rows)
    print("", *lines, sep="\n")


def print_lineage(nodes: Sequence[Node]) -> None:
    """Print a lineage as a tree with the REF as its root."""
    tree, depth, width = lineage_tree(nodes)
    console = Console()
    # Each level is indented by four characters; lines are not broken, however long.
    needed = 4 * depth + width
    Console(width=max(console.width, needed)).print(tree, no_wrap=True, overflow="ignore", crop=False)


def lineage_tree(nodes: Sequence[Node]) -> tuple[Tree, int, int]:
    """Return the tree of a lineage, its depth and the width of its widest label.

    A revision that several others were made from is expanded where it is met first, and named where it is met again.
    """
    by_id = {node.id: node for node in nodes}
    tree = Tree(Text(_label("", nodes[0], again=False)))
    shown = {nodes[0].id}
    deepest = 0
    widest = len(_label("", nodes[0], again=False))
    # A list instead of recursion: a lineage may be deeper than Python's stack.
    waiting = [(tree, role, id_, 1) for role, id_ in reversed(_links(nodes[0]))]
    while waiting:
        branch, role, id_, depth = waiting.pop()
        node = by_id[id_]
        label = _label(role, node, again=id_ in shown)
        child = branch.add(Text(label))
        deepest, widest = max(deepest, depth), max(widest, len(label))
        if id_ not in shown:
            shown.add(id_)
            waiting += [(child, below, next_, depth + 1) for below, next_ in reversed(_links(node))]
    return tree, deepest, widest


def _links(node: Node) -> list[tuple[str, str]]:
    """Return roles with the revisions that fill them; a model made by a stage is left out of the parents."""
    in_roles = set(node.models.values())
    return [*((name, id_) for name, id_ in node.parents.items() if id_ not in in_roles), *node.models.items()]


def _label(role: str, node: Node, *, again: bool) -> str:
    """Return one line of the tree."""
    named = "" if role in ("", node.stage) else f"{role}: "
    stage = "" if node.stage is None else f"{node.stage}, round {node.round}  "
    parts = [f"{named}{stage}{node.repo}@{node.revision[:12]}"]
    if node.rows is not None and not again:
        parts.append(f"{node.rows} rows, digest {str(node.digest)[:12]}")
    if node.state not in (FOUND, EXTERNAL):
        parts.append(f"({node.state})")
    if again and _links(node):
        parts.append("(see above)")
    return plain("  ".join(parts))


def print_diff(result: dict[str, Any]) -> None:
    """Print a table of the two datasets, one of their metrics, and the warnings."""
    sides = (result["a"], result["b"])
    print_table("", ("", "a", "b"), [(name, *(_text(get(side)) for side in sides)) for name, get in _LINES])
    print(f"\nqueries in common: {_text(result['queries_in_common'])}\n")
    rows = [
        (
            name,
            *(f"{_text(pair['a'][s])} → {_text(pair['b'][s])}" for s in STATISTICS),
            _text(pair["standardised_difference"]),
        )
        for name, pair in result["metrics"].items()
    ]
    if rows:
        print_table("a → b", ("metric", *STATISTICS, "std. difference"), rows)
    for text in result["warnings"]:
        print(f"warning: {text}")


def _part(key: str, name: str) -> Callable[[dict[str, Any]], object]:
    """Return a getter of one value of a group, None where the dataset lacks the group."""
    return lambda side: side[key][name] if side[key] else None


# The lines of the first table: a label, and the value of one side.
_LINES: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
    ("dataset", lambda side: f"{side['repo']}@{side['revision'][:12]}"),
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
