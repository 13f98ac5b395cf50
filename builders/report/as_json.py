"""What commands print for machines: with `--json` the last line on stdout is one JSON object.

The keys are public: scripts read them.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from builders.core.costs import CostPlan, Rehearsed
from builders.core.run import StagePlan
from builders.core.runner import StageResult
from builders.inspect.lineage import Node
from builders.inspect.status import Status
from builders.report.page.page import Written
from builders.settings.base import shown_values
from builders.settings.load import Configuration
from builders.settings.write import describe
from builders.store.check import Finding
from builders.store.revision import Revision


def print_json(value: object) -> None:
    """Print one JSON object on one line of stdout."""
    # Escapes of JSON's own where the terminal lacks characters: stand-ins would change the values.
    print(json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf")), flush=True)


def built(result: StageResult, published: dict[str, str] | None) -> dict[str, Any]:
    """Return the public form of one built revision; `pushed` is null where it was not published."""
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


def pulled(revision: Revision) -> dict[str, Any]:
    """Return the public form of a revision that was brought into the store."""
    return {**_named(revision), "path": str(revision.path)}


def planned(plans: Sequence[StagePlan]) -> dict[str, Any]:
    """Return the public form of a dry run."""
    return {"plan": [asdict(plan) for plan in plans]}


def costs(plan: CostPlan) -> dict[str, Any]:
    """Return the public form of `grace plan`: by section and part the number, its unit and its formula."""
    sections: dict[str, dict[str, Any]] = {}
    for cost in plan.costs:
        found = {"value": cost.value, "unit": cost.unit, "formula": cost.formula}
        sections.setdefault(cost.section, {})[cost.part] = found
    return {"name": plan.name, "machine": plan.machine, "assumptions": list(plan.assumptions), "sections": sections}


def rehearsed(parts: Sequence[Rehearsed]) -> dict[str, Any]:
    """Return the public form of `grace rehearse`; `hours` is null for what takes next to nothing in a full run."""
    return {"parts": [asdict(part) for part in parts]}


def held(rows: Sequence[Status]) -> dict[str, Any]:
    """Return the public form of `grace status`."""
    return {"revisions": [asdict(row) for row in rows]}


def verified(revision: Revision, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the public form of `grace verify`."""
    files = len(revision.manifest.files) if revision.manifest else 0
    return {**_named(revision), "files": files, "ok": not findings, "findings": [asdict(f) for f in findings]}


def traced(nodes: Sequence[Node]) -> dict[str, Any]:
    """Return the public form of `grace lineage`: a flat list that names each revision once, the REF first."""
    return {"ref": nodes[0].id, "nodes": [asdict(node) for node in nodes]}


def reported(written: Written) -> dict[str, Any]:
    """Return the public form of `grace report`: the file, its bytes, and how many groups of how many it shows."""
    return asdict(written) | {"path": str(written.path)}


def configured(found: Configuration) -> dict[str, Any]:
    """Return the public form of `grace config`: the whole configuration, and by path where each value comes from."""
    origins = {path: origin for path, _, origin in describe(found) if origin is not None}
    return {"configuration": shown_values(found.settings), "origins": origins}


def _named(revision: Revision) -> dict[str, Any]:
    """Return repository, revision, digest, and the rows of a dataset."""
    manifest = revision.manifest
    rows = manifest.rows.written if manifest is not None and manifest.kind == "dataset" else None
    return {"repo": revision.repo, "revision": revision.revision, "digest": revision.digest, "rows": rows}
