"""The revisions of a page, by the REFs that name them, and what each was made from."""

from collections.abc import Sequence

from builders.core.evaluation_table import Table
from builders.hub.refs import open_revision
from builders.inspect.lineage import lineage
from builders.report.lineage import lineage_rows
from builders.store.names import naming_near
from builders.store.ref import parse_ref
from builders.store.revision import Choice, Revision
from builders.store.store import Store
from scorers.errors import UserError


def open_all(references: Sequence[str], store: Store, choice: Choice) -> list[Revision]:
    """Open the datasets and models of a page: paths, revisions of the store or of the Hub.

    Args:
        references: REFs.
        store: the local store.
        choice: the subset and the split of datasets that have several.

    Raises:
        UserError: a REF stands for nothing, or two stand for the same revision.
    """
    found: list[Revision] = []
    for text in references:
        with naming_near(text, store):
            revision = open_revision(text, store, choice=choice)
        if str(revision) in map(str, found):
            raise UserError(f"{text}: {revision} stands there twice; name each revision once")
        found.append(revision)
    return found


def lineage_table(text: str, revision: Revision, store: Store) -> Table | None:
    """Return the lineage of a revision; None for one that this project did not make, of which nothing is known.

    Args:
        text: the REF that named it.
        revision: what it stands for.
        store: the local store, which is asked before the Hub.
    """
    manifest = revision.manifest
    if manifest is None:
        return None
    # A path stands for itself; a name is pinned, so that the lineage is that of the revision which is shown.
    named = text if parse_ref(text).path is not None else str(revision)
    rows = [tuple(map(str, row)) for row in lineage_rows(lineage(named, store, manifest.kind))]
    title = f"Lineage of {revision.repo}@{revision.revision[:12]}"
    return Table(title, ("stage", "revision", "rows", "made from"), rows)
