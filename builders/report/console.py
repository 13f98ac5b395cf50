"""What commands print: a short table for people, or one JSON object as the last line of stdout."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builders.core.run import StagePlan, StageResult
from builders.store.store import Revision


def print_json(value: object) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; cells are text, never markup."""
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


def describe(result: StageResult, published: dict[str, str] | None) -> dict[str, Any]:
    """The public JSON form of one built revision."""
    manifest = result.revision.manifest
    return {
        "stage": result.stage,
        "repo": result.revision.repo,
        "revision": result.revision.revision,
        "digest": result.revision.digest,
        "rows": None if manifest is None else manifest.rows.written,
        "path": str(result.revision.path),
        "pushed": published and {key: published[key] for key in ("repo", "revision", "tag", "url")},
    }


def print_build(results: Sequence[StageResult], published: dict[str, str] | None, *, as_json: bool) -> None:
    """What was built and what was kept."""
    if as_json:
        print_json(describe(results[-1], published))
        return
    rows = []
    for result in results:
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


def print_push(published: dict[str, Any], *, as_json: bool) -> None:
    """Where a revision is on the Hub, and whether it was there already."""
    if as_json:
        print_json(published)
        return
    how = "published" if published["uploaded"] else "already there"
    print(f"{how}: {published['repo']}@{published['revision']} as {published['tag']}: {published['url']}")


def print_pull(revision: Revision, *, as_json: bool) -> None:
    """What was brought into the store."""
    if as_json:
        rows = None if revision.manifest is None else revision.manifest.rows.written
        found = {"repo": revision.repo, "revision": revision.revision, "digest": revision.digest, "rows": rows}
        print_json({**found, "path": str(revision.path)})
        return
    print(f"{revision} in {revision.path}")


def print_plan(plans: Sequence[StagePlan], *, as_json: bool) -> None:
    """What a dry run found."""
    if as_json:
        print_json({"plan": [plan.__dict__ for plan in plans]})
        return
    print_table("", ("stage", "dataset", "would", "why"), [(p.stage, p.repo, p.action, p.reason) for p in plans])


def print_status(rows: Sequence[dict[str, object]], *, as_json: bool) -> None:
    """What the store holds."""
    if as_json:
        print_json({"revisions": list(rows)})
        return
    columns = ("round", "stage", "state", "rows", "revision")
    print_table("", columns, [["" if row[c] is None else row[c] for c in columns] for row in rows])
