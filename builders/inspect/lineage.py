"""`grace lineage`: the chain seed → queries → groups → scores → weights → policy → next round, read from the manifests.

From one revision the walk follows each manifest's parents and models, in the local store and then on the Hub, where
only `manifest.json` is fetched, always at a commit. The manifests are other people's: each revision is looked up once,
so a circle ends, their number is bounded, and a parent whose digest is not the recorded one is marked.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from builders.cards.markdown import is_public
from builders.hub.client import NotOnHub, call, client
from builders.hub.pull import resolve_commit
from builders.hub.refs import open_here
from builders.store.manifest import FILE_NAME, Kind, Manifest, Parent, is_manifest, read_manifest
from builders.store.store import KINDS, Ref, Store, is_commit, parse_ref, round_tag
from scorers.errors import UserError

MAX_NODES = 2000  # revisions followed at most

FOUND = "found"
EXTERNAL = "external"  # not made by this project: it has no manifest
NOT_FOUND = "not found"
UNREACHABLE = "unreachable"  # not in the store, and the Hub did not answer
UNREADABLE = "manifest not readable"
ALTERED = "digest differs"  # found, with another content than the revision made from it recorded
NOT_FOLLOWED = "not followed"  # beyond MAX_NODES


class HubUnreachable(UserError):
    """The Hub did not answer."""


@dataclass(frozen=True)
class Node:
    """One revision of the chain.

    `id` is kind, repository and revision in one text. `parents` and `models` map a role (the parent's stage; policy,
    base, …) to the id of another node. stage, round, digest and rows are None where no manifest was found; rows are
    those of a dataset, or those a model was trained on.
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
    """A revision that a manifest names, with the digest it records."""

    kind: Kind
    repo: str
    revision: str
    digest: str | None = None

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.repo}@{self.revision}"


def lineage(text: str, store: Store) -> list[Node]:
    """A REF and everything it was made from, the REF first; a revision that several others share is there once.

    Raises:
        UserError: where the REF itself is not found or has no manifest.
    """
    root, manifest = _root(text, store)
    finder = _Finder(store)
    nodes: dict[str, Node] = {}
    waiting = [root]
    while waiting:
        wanted = waiting.pop()
        if (seen := nodes.get(wanted.id)) is not None:
            if _differs(seen.digest, wanted):
                nodes[seen.id] = replace(seen, state=ALTERED)
            continue
        state, found = (FOUND, manifest) if wanted is root else (NOT_FOLLOWED, None)
        if found is None and len(nodes) < MAX_NODES:
            state, found = finder.find(wanted)
        nodes[wanted.id], following = _node(wanted, state, found)
        waiting += reversed(following)
    return list(nodes.values())


def _node(wanted: _Wanted, state: str, manifest: Manifest | None) -> tuple[Node, list[_Wanted]]:
    """A node, and the revisions it was made from: the parents, then the models."""
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
    """What a parent is called: its stage, with its round where several parents are of that stage."""
    several = sum(other.stage == parent.stage for other in manifest.parents) > 1
    return f"{parent.stage} {round_tag(parent.round)}" if several and parent.round is not None else parent.stage


def _differs(digest: str | None, wanted: _Wanted) -> bool:
    return digest is not None and wanted.digest is not None and digest != wanted.digest


class _Finder:
    """Looks a revision up in the store, then on the Hub, which is left alone once it did not answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.online = True

    def find(self, wanted: _Wanted) -> tuple[str, Manifest | None]:
        """State and manifest of a revision that a manifest names; the names are untrusted."""
        made_here = wanted.kind == "dataset" or wanted.repo.startswith("local/")
        try:
            stored = self.store.find(wanted.repo, wanted.revision, wanted.kind) if is_commit(wanted.revision) else None
            if stored is not None:
                return (FOUND, stored.manifest) if stored.manifest else (EXTERNAL, None)
        except UserError:
            # The name of a folder, which no repository has, or a manifest in the store that cannot be read.
            return UNREADABLE if self._holds(wanted) else NOT_FOUND if made_here else EXTERNAL, None
        if not is_public(wanted.repo, wanted.revision, "", published=True):
            return NOT_FOUND if made_here else EXTERNAL, None
        return self._on_hub(wanted)

    def _holds(self, wanted: _Wanted) -> bool:
        try:
            return (self.store.repo_path(wanted.repo, wanted.kind) / "snapshots" / wanted.revision).is_dir()
        except UserError:
            return False

    def _on_hub(self, wanted: _Wanted) -> tuple[str, Manifest | None]:
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


def fetch_manifest(repo: str, revision: str, kind: Kind) -> Manifest | None:
    """The manifest of a revision on the Hub, without its data; None where the repository holds none of this project.

    Raises:
        NotOnHub: where repository or revision is not there, or not for this token.
        HubUnreachable: where the Hub gives no usable answer.
        UserError: where the file is no sound manifest.
    """

    def request() -> str | None:
        try:
            return client().hf_hub_download(repo, FILE_NAME, repo_type=kind, revision=revision)
        except LocalEntryNotFoundError as error:  # no answer, or offline, where trying again is no use
            raise OfflineModeIsEnabled(str(error)) if constants.HF_HUB_OFFLINE else error from None
        except EntryNotFoundError:
            return None

    try:
        found = call(f"{kind} {repo}@{revision}", request)
    except NotOnHub:
        raise
    except UserError as error:
        raise HubUnreachable(str(error)) from None
    if found is None or not _is_manifest(Path(found)):
        return None
    return read_manifest(Path(found).parent)


def _is_manifest(path: Path) -> bool:
    """Whether a manifest.json means to be one of this project's; other software writes files of that name too."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return is_manifest(value)


def _root(text: str, store: Store) -> tuple[_Wanted, Manifest]:
    """The revision a REF names, with its manifest."""
    ref = parse_ref(text)
    found = open_here(text, store)
    if found is None:
        return _root_on_hub(ref)
    if found.manifest is None:
        raise UserError(f"{text}: no {FILE_NAME} in it, so nothing is known of where it came from")
    return _Wanted(found.manifest.kind, found.repo, found.revision), found.manifest


def _root_on_hub(ref: Ref) -> tuple[_Wanted, Manifest]:
    """A REF that the store does not hold: a dataset or a model on the Hub, at the commit it stands for now."""
    missing: list[NotOnHub] = []
    for kind in KINDS:
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
