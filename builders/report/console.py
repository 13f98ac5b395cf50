"""What commands print for people: short tables, sentences and trees on stdout. `as_json` does the same for machines.

Data comes in as commands return it. Cells are text, never markup; control characters in somebody else's text become
visible escapes.
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
from builders.store.check import Finding
from builders.store.store import Revision


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout."""
    table = Table(title=escape(title), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        numeric = bool(rows) and all(isinstance(row[columns.index(column)], (int, float)) for row in rows)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=220)
    console.print(table)


def plain(text: str) -> str:
    """Text from a manifest or dataset for a terminal: control characters become visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_build(results: Sequence[StageResult], published: dict[str, str] | None) -> None:
    """What was built, and what was kept of the target's own round."""
    target = results[-1]
    rows = []
    for result in results:
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
    """Where a revision is on the Hub, and whether it was there already."""
    how = "published" if published["uploaded"] else "already there"
    print(f"{how}: {published['repo']}@{published['revision']} as {published['tag']}: {published['url']}")


def print_pull(revision: Revision) -> None:
    """What was brought into the store."""
    print(f"{revision} in {revision.path}")


def print_plan(plans: Sequence[StagePlan]) -> None:
    """What a dry run found."""
    rows = [(p.stage, p.round or "", p.repo, p.action, p.reason) for p in plans]
    print_table("", ("stage", "round", "repository", "would", "why"), rows)


def print_status(rows: Sequence[Status]) -> None:
    """What the store holds."""
    columns = ("round", "stage", "kind", "state", "rows", "revision")
    print_table("", columns, [["" if cell is None else cell for cell in astuple(row)[:6]] for row in rows])


def print_findings(revision: Revision, findings: Sequence[Finding]) -> None:
    """What `grace verify` found: a table, or one line where all is well."""
    if findings:
        table = [tuple(plain(cell) for cell in astuple(finding)) for finding in findings]
        print_table(f"{revision} differs", ("where", "what", "stored", "found"), table)
        return
    manifest = revision.manifest
    counted = "" if manifest is None or manifest.kind == "model" else f"{manifest.rows.written} rows, "
    files = len(manifest.files) if manifest else 0
    print(f"ok: {revision}, digest {revision.digest}, {counted}{files} files")


def print_evaluation(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str]) -> None:
    """The table of an evaluation and what is said below it."""
    print_table(title, header, rows)
    print("", *lines, sep="\n")


def print_lineage(nodes: Sequence[Node]) -> None:
    """The REF as the root of a tree of what it was made from."""
    tree, depth, width = lineage_tree(nodes)
    console = Console()
    needed = 4 * depth + width
    Console(width=max(console.width, needed)).print(tree, no_wrap=True, overflow="ignore", crop=False)


def lineage_tree(nodes: Sequence[Node]) -> tuple[Tree, int, int]:
    """The tree of a lineage, its depth and its widest label; what a shared revision was made from is shown once."""
    by_id = {node.id: node for node in nodes}
    tree = Tree(Text(_label("", nodes[0], again=False)))
    shown = {nodes[0].id}
    deepest = 0
    widest = len(_label("", nodes[0], again=False))
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
    """Roles with the revisions that fill them; a model that a stage made is shown in its role alone."""
    in_roles = set(node.models.values())
    return [*((name, id_) for name, id_ in node.parents.items() if id_ not in in_roles), *node.models.items()]


def _label(role: str, node: Node, *, again: bool) -> str:
    """One line of the tree."""
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
    """A table of the datasets, one of the metrics, and the warnings."""
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
    return lambda side: side[key][name] if side[key] else None


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
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
