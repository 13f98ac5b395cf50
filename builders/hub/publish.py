"""Publishing a revision of the store on the Hub, after the revisions it was made from.

The published revision differs from the local one in its manifest and card alone, which name repositories and commits of
the Hub. The data files, and so the content digest, are the same bytes. The store keeps a note beside a revision of
where it was published; the note is only a hint, and the Hub is asked every time.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from builders.cards.card import Page
from builders.cards.render import languages_of, render_card
from builders.hub.client import NotOnHub, call, client, endpoint
from builders.hub.commit import Content, Release, find_release, release_commit
from builders.hub.listing import read_listing
from builders.hub.refs import open_here
from builders.settings.base import Settings
from builders.store.check import require_whole
from builders.store.files import write_text
from builders.store.manifest import FIGURE, FILE_NAME, Kind, Manifest, Model, Parent, portable
from builders.store.store import Revision, Store, is_commit, round_tag
from scorers.errors import UserError


@dataclass(frozen=True)
class Publication:
    """Where a revision is on the Hub.

    Attributes:
        repo: the repository.
        revision: the 40-hex commit.
        tag: the tag of the round.
        kind: `dataset` or `model`.
        uploaded: whether this call made the commit.
    """

    repo: str
    revision: str
    tag: str
    kind: Kind
    uploaded: bool = False

    def report(self) -> dict[str, Any]:
        """Return the public JSON form."""
        prefix = "datasets/" if self.kind == "dataset" else ""
        return {
            "repo": self.repo,
            "revision": self.revision,
            "tag": self.tag,
            "url": f"{endpoint()}/{prefix}{self.repo}/tree/{self.revision}",
            "uploaded": self.uploaded,
        }


PageOf = Callable[[Manifest], Page]
"""What the card of a manifest shows beyond it: the pipeline that made the revision says so."""


def publish(
    revision: Revision,
    config: Settings,
    page_of: PageOf,
    *,
    private: bool = False,
    parents: bool = True,
    with_optimizer: bool = False,
) -> dict[str, Any]:
    """Publish a revision under the tag of its round; content that is there already is not sent again.

    Args:
        revision: a revision of the store.
        config: names the store, the namespace and the licence.
        page_of: returns what the card shows beyond a manifest.
        private: create repositories private, as the setting `publish.private` does.
        parents: also publish parents that only the store has; False refuses and names them.
        with_optimizer: also send the training state of every model that this call publishes.

    Returns:
        `repo`, `revision` (40-hex commit), `tag`, `url`, and `uploaded`: whether a commit was made by this call.

    Raises:
        UserError: for no token or missing rights, a parent that is neither in the store nor on the Hub, a tag that
            stands for other data, a Hub that does not answer, or a training state that the revision lacks or that was
            left out when it was published.
    """
    if get_token() is None:
        raise UserError("publishing needs a token with write rights: run `hf auth login`, or set HF_TOKEN")
    publisher = _Publisher(
        Store(Path(config.store)),
        config.namespace or _own_name(),
        config.publish.license,
        page_of,
        private=private or config.publish.private,
        parents=parents,
        with_optimizer=with_optimizer,
    )
    if with_optimizer:
        _require_state(revision)
    there = publisher.publish(revision)
    if with_optimizer:
        _require_state_on_hub(revision, there)
    return there.report()


def push(
    text: str,
    config: Settings,
    page_of: PageOf,
    *,
    private: bool = False,
    parents: bool = True,
    with_optimizer: bool = False,
) -> dict[str, Any]:
    """Publish the revision that a REF names in the store, or at a path; see `publish`.

    Raises:
        UserError: as `publish`, and where the store does not hold the revision.
    """
    store = Store(Path(config.store))
    found = open_here(text, store)
    if found is None:
        raise UserError(
            f"{text}: not in the store {store.root}; `grace status` shows what is, `grace pull` brings more"
        )
    return publish(found, config, page_of, private=private, parents=parents, with_optimizer=with_optimizer)


def _require_state(revision: Revision) -> None:
    """Check that a model has the training state that is to be published; its datasets' policies may lack theirs."""
    manifest = _manifest_of(revision)
    if manifest.kind == "model" and not manifest.training_state:
        raise UserError(
            f"{revision}: carries no training state, which --with-optimizer publishes; leave the option out, or train "
            "the model anew: `train --force`"
        )


def _require_state_on_hub(revision: Revision, there: Publication) -> None:
    """Check that the training state stands under the tag, where the revision may have been published without it."""
    state = {file.path for file in _manifest_of(revision).training_state or ()}
    if state and not state <= read_listing(there.repo, there.revision, there.kind).keys():
        raise UserError(
            f"{there.repo}: {there.tag} was published without the optimizer, and tags never move; "
            "publish under another name: or namespace:"
        )


def _own_name() -> str:
    """Return the user name of the token."""
    name = call("the token's user", lambda: str(client().whoami()["name"]))
    return name


@dataclass
class _Publisher:
    """One call of `publish`.

    Attributes:
        store: the local store.
        namespace: user or organisation on the Hub.
        license: licence id for the cards.
        page_of: returns what the card shows beyond a manifest.
        private: whether new repositories are private.
        parents: whether parents that only the store has are published too.
        with_optimizer: whether models take their training state with them.
        done: publications so far, by local `repo@revision`.
    """

    store: Store
    namespace: str
    license: str
    page_of: PageOf
    private: bool
    parents: bool
    with_optimizer: bool = False
    done: dict[str, Publication] = field(default_factory=dict)

    def publish(self, revision: Revision) -> Publication:
        """Publish a revision, and before it all ancestors that the Hub lacks.

        The ancestors are walked with a list, since many rounds are deeper than Python's stack.
        """
        # A stack: the revision that is worked on comes from its end.
        waiting = [revision]
        opened: set[str] = set()
        while waiting:
            current = waiting.pop()
            name = str(current)
            if name in self.done:
                continue
            # First visit: look it up on the Hub; if it is missing, put its parents before it. Second visit: publish it.
            there = self._release(current) if name in opened else self.find(current)
            if there is None:
                opened.add(name)
                waiting += [current, *reversed(self._before(current))]
                continue
            self.done[name] = there
            self._remember(current, there)
        return self.done[str(revision)]

    def _before(self, revision: Revision) -> list[Revision]:
        """Check that a revision can be published, and return the parents that may have to be published before it.

        Raises:
            UserError: for a damaged file, a parent that is neither in the store nor on the Hub, and, without `parents`,
                for parents that are not published.
        """
        manifest = _manifest_of(revision)
        require_whole(manifest, revision.path, str(revision))
        base = self._local_base(manifest)
        local = [] if base is None else [base]
        for parent in manifest.parents:
            if (found := self._local_parent(parent)) is None:
                _require_on_hub(parent, str(revision))
            # A model that fills two roles is listed once.
            elif found not in local:
                local.append(found)
        if self.parents:
            return local
        missing = [str(found) for found in local if self.find(found) is None]
        if missing:
            raise UserError(
                f"{self._plain(revision)}: not published, since --no-parents was given and these parents are only in "
                f"the store: {', '.join(missing)}; publish them first, or leave --no-parents out"
            )
        return []

    def find(self, revision: Revision) -> Publication | None:
        """Return where the Hub has a revision under its tag; None where it has not."""
        plain = self._plain(revision)
        commit = find_release(plain)
        return None if commit is None else Publication(plain.repo, commit, plain.tag, plain.kind)

    def _plain(self, revision: Revision, side: dict[str, Content] | None = None) -> Release:
        """Return the release of a revision; without `side`, of its data files alone."""
        manifest = _manifest_of(revision)
        tag = round_tag(manifest.round)
        return Release(
            repo=f"{self.namespace}/{manifest.repo.rpartition('/')[2]}",
            kind=manifest.kind,
            tag=tag,
            title=f"{manifest.stage} {tag}",
            digest=manifest.digest,
            data={file.path: file for file in manifest.files},
            folder=revision.path,
            side=side or {},
        )

    def _release(self, revision: Revision) -> Publication:
        """Publish a revision whose parents are on the Hub."""
        manifest = self._published_manifest(revision)
        release = self._plain(revision, self._side_files(revision, manifest))
        commit, sent = release_commit(release, private=self.private)
        return Publication(release.repo, commit, release.tag, release.kind, uploaded=sent)

    def _side_files(self, revision: Revision, manifest: Manifest) -> dict[str, Content]:
        """Return the published manifest and card, and the figure that the card shows, by path."""
        languages = languages_of(_manifest_of(revision), revision.path, self.store)
        page = self.page_of(manifest)
        card = render_card(manifest, revision.path, page, published=True, license=self.license, languages=languages)
        side: dict[str, Content] = {FILE_NAME: manifest.to_json().encode(), "README.md": card.encode()}
        if (revision.path / FIGURE).is_file():
            side[FIGURE] = revision.path / FIGURE
        return side | {file.path: revision.path / file.path for file in manifest.training_state or ()}

    def _published_manifest(self, revision: Revision) -> Manifest:
        """Return the manifest with the repositories and commits of the Hub, and without local folders."""
        manifest = _manifest_of(revision)
        target = self._plain(revision)
        parents = [self._published_parent(parent) for parent in manifest.parents]
        # A model that a stage made is among the parents too; both get the same new name.
        renamed = {
            Model(id=before.repo, revision=before.revision): Model(id=after.repo, revision=after.revision)
            for before, after in zip(manifest.parents, parents, strict=True)
        }
        if (base := self._local_base(manifest)) is not None:
            there = self.publish(base)
            renamed[manifest.models["base"]] = Model(id=there.repo, revision=there.revision)
        changes = {
            "repo": target.repo,
            "parents": parents,
            "models": {
                role: renamed.get(model) or self._published_model(model) for role, model in manifest.models.items()
            },
            "configuration": portable(manifest.configuration),
            "execution": portable(manifest.execution),
            "training_state": manifest.training_state if self.with_optimizer else None,
        }
        return manifest.model_copy(update=changes)

    def _local_parent(self, parent: Parent) -> Revision | None:
        """Return a parent that was built here; None for one from the Hub, or one that the store lacks."""
        if "/" not in parent.repo:
            return None
        found = self.store.find(parent.repo, parent.revision, parent.kind)
        return found if found is not None and found.made_here else None

    def _published_parent(self, parent: Parent) -> Parent:
        """Return a parent under its repository and commit on the Hub."""
        local = self._local_parent(parent)
        if local is None:
            return parent
        there = self.publish(local)
        return parent.model_copy(update={"repo": there.repo, "revision": there.revision})

    def _local_base(self, manifest: Manifest) -> Revision | None:
        """Return the model that a model was trained from, where it was built here.

        An adapter is of no use without it.
        """
        base = manifest.models.get("base") if manifest.kind == "model" else None
        if base is None or not _has_repo(base):
            return None
        found = self.store.find(base.id, base.revision, "model")
        return found if found is not None and found.made_here else None

    def _published_model(self, model: Model) -> Model:
        """Return a model under its name on the Hub if it was published, else under its own."""
        if not _has_repo(model):
            return model
        known = self._remembered(model)
        if known is None:
            return model
        try:
            # The note is a hint: the repository may have been deleted since.
            read_listing(known.repo, known.revision, "model")
        except NotOnHub:
            return model
        return Model(id=known.repo, revision=known.revision)

    def _note(self, repo: str, revision: str, kind: Kind) -> Path:
        """Return the path of the note that says where a revision was published."""
        return self.store.repo_path(repo, kind) / "published" / f"{revision}.json"

    def _remembered(self, model: Model) -> Publication | None:
        """Return where a model was published on this endpoint, by its note; None without one."""
        path = self._note(model.id, model.revision, "model")
        known = _read_note(path).get(endpoint())
        return None if known is None else Publication(known["repo"], known["revision"], known["tag"], "model")

    def _remember(self, revision: Revision, there: Publication) -> None:
        """Note where a revision of the store was published, by endpoint."""
        # What came from the Hub or lies at a path needs no note.
        if not revision.made_here or self.store.find(revision.repo, revision.revision, there.kind) is None:
            return
        path = self._note(revision.repo, revision.revision, there.kind)
        path.parent.mkdir(exist_ok=True)
        entry = {"repo": there.repo, "revision": there.revision, "tag": there.tag}
        notes = _read_note(path)
        if notes.get(endpoint()) != entry:
            write_text(path, json.dumps({**notes, endpoint(): entry}, sort_keys=True, indent=1) + "\n")


def _read_note(path: Path) -> dict[str, dict[str, str]]:
    """Return the publications of one revision by endpoint; empty without a note or for a damaged one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    whole = isinstance(value, dict) and all(
        isinstance(entry, dict) and {"repo", "revision", "tag"} <= entry.keys() for entry in value.values()
    )
    return value if whole else {}


def _require_on_hub(parent: Parent, child: str) -> None:
    """Check that a parent which the store lacks can be looked up on the Hub.

    Raises:
        UserError: for a parent with a local name or revision; `NotOnHub` where the Hub does not have it.
    """
    if "/" not in parent.repo or parent.repo.startswith("local/") or not is_commit(parent.revision):
        raise UserError(
            f"{child}: its parent {parent.repo}@{parent.revision} is neither on the Hub nor in the store, so its "
            f"origin cannot be shown; build it from a {parent.kind} that is"
        )
    read_listing(parent.repo, parent.revision, parent.kind)


def _has_repo(model: Model) -> bool:
    """Whether a model is named by a repository and a commit; a folder is not."""
    return model.id.count("/") == 1 and is_commit(model.revision)


def _manifest_of(revision: Revision) -> Manifest:
    """Return a revision's manifest.

    Raises:
        UserError: for data that this project did not make.
    """
    if revision.manifest is None:
        raise UserError(f"{revision}: has no manifest; only what this project made can be published")
    return revision.manifest
