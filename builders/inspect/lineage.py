"""`grace lineage`: the chain seed → queries → groups → scores → weights → policy → next round, read from the manifests.

From one revision the walk follows each manifest's parents and models, in the local store and then on the Hub, where
only `manifest.json` is fetched, always at a commit. The manifests may be other people's and are not trusted: each
revision is looked up once, so a circle ends; their number is bounded; and a parent whose digest is not the recorded one
is marked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from builders.cards.markdown import is_public
from builders.hub.client import NotOnHub
from builders.hub.listing import HubUnreachable, fetch_manifest
from builders.hub.refs import open_here
from builders.hub.resolve import resolve_commit
from builders.store.manifest import FILE_NAME, Kind, Manifest, Parent, read_manifest
from builders.store.names import naming_near
from builders.store.ref import Ref, is_commit, is_local, parse_ref, round_tag
from builders.store.store import KINDS, Store
from scorers.errors import UserError

MAX_NODES = 2000  # revisions followed at most

# States of a node.
FOUND = "found"
EXTERNAL = "external"  # not made by this project: it has no manifest
NOT_FOUND = "not found"
UNREACHABLE = "unreachable"  # not in the store, and the Hub did not answer
UNREADABLE = "manifest not readable"
ALTERED = "digest differs"  # found, with another content than the revision made from it recorded
NOT_FOLLOWED = "not followed"  # beyond MAX_NODES


@dataclass(frozen=True)
class Node:
    """One revision of the chain.

    Attributes:
        id: kind, repository and revision in one text.
        state: one of the states above.
        kind: `dataset` or `model`.
        repo: its repository.
        revision: its commit on the Hub, or its name in the store.
        stage: the stage that made it; None, as the next three, where no manifest was found.
        round: its round.
        digest: its content digest.
        rows: rows of a dataset, or those that a model was trained on.
        parents: ids of other nodes by stage.
        models: ids of other nodes by role, such as policy and base.
    """

    id: str
    state: str
    kind: Kind
    repo: str
    revision: str
    stage: str | None = None
    round: int | None = None
    digest: str | None = None
    rows: int | None = None
    parents: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wanted:
    """A revision that a manifest names, with the digest that it records; None for a model that is no parent."""

    kind: Kind
    repo: str
    revision: str
    digest: str | None = None

    @property
    def id(self) -> str:
        """Kind, repository and revision in one text."""
        return f"{self.kind}:{self.repo}@{self.revision}"


def lineage(text: str, store: Store, kind: Kind | None = None) -> list[Node]:
    """Return the revision of a REF and everything it was made from, the REF's first.

    Args:
        text: the REF.
        store: the local store, which is asked before the Hub.
        kind: `dataset` or `model`; None tries a dataset first, then a model.

    Returns:
        One node per revision, however many others were made from it.

    Raises:
        UserError: where the REF itself is not found or has no manifest.
    """
    with naming_near(text, store, KINDS if kind is None else (kind,)):
        root, manifest = _root(text, store, kind)
    finder = _Finder(store)
    nodes: dict[str, Node] = {}
    waiting = [root]
    while waiting:
        wanted = waiting.pop()
        if (seen := nodes.get(wanted.id)) is not None:
            # Looked up before; but this child may record another digest than the one found.
            if _differs(seen.digest, wanted):
                nodes[seen.id] = replace(seen, state=ALTERED)
            continue
        state, found = (FOUND, manifest) if wanted is root else (NOT_FOLLOWED, None)
        # The root's manifest is at hand; beyond the limit a revision is named and not looked up.
        if found is None and len(nodes) < MAX_NODES:
            state, found = finder.find(wanted)
        nodes[wanted.id], following = _node(wanted, state, found)
        # Taken from the end: reversed, the parents come in the manifest's order.
        waiting += reversed(following)
    return list(nodes.values())


def _node(wanted: _Wanted, state: str, manifest: Manifest | None) -> tuple[Node, list[_Wanted]]:
    """Return the node of a revision, and the revisions it was made from: the parents, then the models."""
    bare = Node(wanted.id, state, wanted.kind, wanted.repo, wanted.revision)
    if manifest is None:
        return bare, []
    parents = {
        _role(parent, manifest): _Wanted(parent.kind, parent.repo, parent.revision, parent.digest)
        for parent in manifest.parents
    }
    models = {role: _Wanted("model", model.id, model.revision) for role, model in manifest.models.items()}
    node = replace(
        bare,
        state=ALTERED if _differs(manifest.digest, wanted) else state,
        stage=manifest.stage,
        round=manifest.round,
        digest=manifest.digest,
        rows=manifest.rows.written,
        parents={role: parent.id for role, parent in parents.items()},
        models={role: model.id for role, model in models.items()},
    )
    return node, [*parents.values(), *models.values()]


def _role(parent: Parent, manifest: Manifest) -> str:
    """Return the name of a parent: its stage, with its round where several parents are of that stage."""
    several = sum(other.stage == parent.stage for other in manifest.parents) > 1
    return f"{parent.stage} {round_tag(parent.round)}" if several and parent.round is not None else parent.stage


def _differs(digest: str | None, wanted: _Wanted) -> bool:
    """Whether a digest that was found is another than the one on record."""
    return digest is not None and wanted.digest is not None and digest != wanted.digest


class _Finder:
    """Looks revisions up in the store and then on the Hub, which is asked no more once it has not answered."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.online = True

    def find(self, wanted: _Wanted) -> tuple[str, Manifest | None]:
        """Return state and manifest of a revision that a manifest names; the names are untrusted."""
        made_here = wanted.kind == "dataset" or is_local(wanted.repo)
        try:
            stored = self.store.find(wanted.repo, wanted.revision, wanted.kind) if is_commit(wanted.revision) else None
            if stored is not None:
                return (FOUND, stored.manifest) if stored.manifest else (EXTERNAL, None)
        except UserError:
            # Either the name is no repository's (a model from a folder), or the store's manifest cannot be read.
            return UNREADABLE if self._holds(wanted) else NOT_FOUND if made_here else EXTERNAL, None
        if not is_public(wanted.repo, wanted.revision, "", published=True):
            return NOT_FOUND if made_here else EXTERNAL, None
        return self._on_hub(wanted)

    def _holds(self, wanted: _Wanted) -> bool:
        """Whether the store has a folder for the revision."""
        try:
            return (self.store.repo_path(wanted.repo, wanted.kind) / "snapshots" / wanted.revision).is_dir()
        except UserError:
            return False

    def _on_hub(self, wanted: _Wanted) -> tuple[str, Manifest | None]:
        """Return state and manifest of a revision on the Hub."""
        if not self.online:
            return UNREACHABLE, None
        try:
            manifest = fetch_manifest(wanted.repo, wanted.revision, wanted.kind)
        except NotOnHub:
            return NOT_FOUND, None
        except HubUnreachable:
            self.online = False
            return UNREACHABLE, None
        except UserError:
            return UNREADABLE, None
        return (EXTERNAL, None) if manifest is None else (FOUND, manifest)


def _root(text: str, store: Store, kind: Kind | None) -> tuple[_Wanted, Manifest]:
    """Return the revision that a REF names, with its manifest.

    Raises:
        UserError: where it is not found or has no manifest.
    """
    ref = parse_ref(text)
    # Nothing but the manifest is read: any folder may be named, with whatever lies in it.
    if ref.path is not None and (not ref.path.is_dir() or read_manifest(ref.path) is None):
        raise UserError(
            f"{text}: no {FILE_NAME} in it, so it is no revision and nothing is known of where it came from"
        )
    found = open_here(text, store, kind)
    if found is None:
        return _root_on_hub(ref, KINDS if kind is None else (kind,))
    if found.manifest is None:
        raise UserError(f"{text}: no {FILE_NAME} in it, so nothing is known of where it came from")
    return _Wanted(found.manifest.kind, found.repo, found.revision), found.manifest


def _root_on_hub(ref: Ref, kinds: Sequence[Kind]) -> tuple[_Wanted, Manifest]:
    """Return the revision of a REF that the store does not hold: of a dataset or a model on the Hub, at its commit.

    Raises:
        UserError: where it is not found or has no manifest.
    """
    missing: list[NotOnHub] = []
    for kind in kinds:
        try:
            commit = resolve_commit(ref.repo, ref.revision, kind)
            manifest = fetch_manifest(ref.repo, commit, kind)
        except NotOnHub as error:
            missing.append(error)
            continue
        if manifest is None:
            raise UserError(f"{ref}: no {FILE_NAME} in it, so nothing is known of where it came from")
        return _Wanted(kind, ref.repo, commit), manifest
    raise missing[0]
