"""Faults at every step of a push and a pull, and killed pushes: nothing partly visible, nothing wrong accepted.

After each fault the command is run again, and what then stands under the tag has the local digest.
"""

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import PROGRAMS, Forks
from hub_clients import TOKEN, environment
from hub_server import HubServer, Options, RemoteHub, serve_in_process
from huggingface_hub import HfApi, constants
from store_chains import add_dataset, config_for, files_of

from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.store.manifest import Manifest, content_digest, describe_files, read_manifest
from builders.store.ref import Ref
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import page_of

KINDS = (503, 500, 429, 408, 403, 412, "drop", "reset", "lost", "truncate", "corrupt", "corrupt_request", "delay")
PUSH_STEPS = (
    *((route, 1) for route in ("whoami", "create", "validate_yaml", "preupload", "lfs_batch", "lfs_put", "lfs_part")),
    *((route, 1) for route in ("lfs_complete", "commit", "tag", "commits", "refs", "info", "tree")),
    *((route, 2) for route in ("refs", "info", "tree", "lfs_part")),
    *((route, 3) for route in ("refs", "info", "tree")),
)
PULL_STEPS = (
    ("info", 1),
    ("tree", 1),
    ("tree", 2),
    *((f"resolve_{way}", n) for way in ("head", "get") for n in (1, 3)),
)


@pytest.fixture(scope="module")
def revision(tmp_path_factory: pytest.TempPathFactory) -> Revision:
    return add_dataset(Store(tmp_path_factory.mktemp("local") / "store"), "score")


@pytest.fixture(scope="module")
def server(revision: Revision) -> Iterator[HubServer]:
    """One Hub for all faults; one of the two shards is sent in parts, pages hold three rows."""
    smaller = min(path.stat().st_size for path in revision.data_files())
    with HubServer(options=Options(page_size=3, multipart_above=smaller, part_size=6_000)) as hub:
        hub.add_token(TOKEN, "alice")
        yield hub


@pytest.fixture
def hub(server: HubServer) -> Iterator[HubServer]:
    server.faults.clear()
    server.log.clear()
    server.hub.store.repos.clear()
    yield server


def order(hub: HubServer, route: str, kind: str | int, nth: int) -> None:
    hub.faults.add(route, kind, nth=nth, seconds=0.01)


def check_tags(hub: HubServer, local: Revision) -> None:
    """Whatever stands under a tag is whole: card, manifest and exactly the local data."""
    for repo in list(hub.hub.store.repos.values()):
        for tag in repo.tags:
            files = {name: hub.read(repo.id, name, tag) for name in hub.commit(repo.id, tag).files}
            assert local.manifest is not None and files["README.md"].startswith(b"---\n")
            manifest = Manifest.model_validate_json(files["manifest.json"])
            assert (manifest.repo, manifest.digest) == ("alice/demo-scores", local.digest)
            data = {name: content for name, content in files.items() if name.startswith("data/")}
            assert data == {file.path: (local.path / file.path).read_bytes() for file in local.manifest.files}


def attempt_push(local: Revision, store: Store) -> bool:
    try:
        publish(local, config_for(store), page_of)
    except UserError as error:
        assert "\n" not in str(error) and TOKEN not in str(error)
        return False
    return True


def push_under_fault(hub: HubServer, local: Revision, store: Store, *, several: bool = False) -> str:
    """Push under the ordered faults and again without; the digest that then stands under the tag.

    Of several faults the first may leave the others without a turn.
    """
    whole = attempt_push(local, store)
    if hub.faults.pending():
        assert several
    if whole:
        assert hub.repo("alice/demo-scores").tags.keys() >= {"round-001"}
    check_tags(hub, local)
    hub.faults.clear()
    there = publish(local, config_for(store), page_of)
    assert hub.repo("alice/demo-scores").tags["round-001"] == there["revision"]
    check_tags(hub, local)
    return Manifest.model_validate_json(hub.read("alice/demo-scores", "manifest.json", "round-001")).digest


def store_of(local: Revision) -> Store:
    return Store(local.path.parents[2])


def test_every_step_is_reached_by_an_undisturbed_push_and_pull(
    connected: HubServer, revision: Revision, tmp_path: Path
) -> None:
    publish(revision, config_for(store_of(revision)), page_of)
    pushed = {route: connected.log.count(route) for route, _ in (*PUSH_STEPS, *PULL_STEPS)}
    connected.log.clear()
    pull(Ref("alice/demo-scores", "round-001"), Store(tmp_path))
    pulled = {route: connected.log.count(route) for route, _ in PULL_STEPS}
    assert [step for step in PUSH_STEPS if pushed[step[0]] < step[1]] == []
    assert [step for step in PULL_STEPS if pulled[step[0]] < step[1]] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("route", "nth"), PUSH_STEPS, ids=[f"{route}-{nth}" for route, nth in PUSH_STEPS])
def test_push_under_a_fault(connected: HubServer, revision: Revision, route: str, nth: int, kind: str | int) -> None:
    order(connected, route, kind, nth)
    assert push_under_fault(connected, revision, store_of(revision)) == revision.digest


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(95))
def test_push_under_several_faults(connected: HubServer, revision: Revision, seed: int) -> None:
    rng = random.Random(seed)
    for route, nth in rng.sample(PUSH_STEPS, 4):
        order(connected, route, rng.choice(KINDS), nth)
    assert push_under_fault(connected, revision, store_of(revision), several=True) == revision.digest


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("route", "nth"), PULL_STEPS, ids=[f"{route}-{nth}" for route, nth in PULL_STEPS])
def test_pull_under_a_fault(
    connected: HubServer, revision: Revision, tmp_path: Path, route: str, nth: int, kind: str | int
) -> None:
    there = publish(revision, config_for(store_of(revision)), page_of)
    order(connected, route, kind, nth)
    store = Store(tmp_path / "other")
    ref = Ref("alice/demo-scores", "round-001")
    try:
        pulled = pull(ref, store)
    except UserError as error:
        assert "\n" not in str(error) and TOKEN not in str(error)
        assert not list(store.root.rglob("snapshots/*"))
    else:
        assert pulled.revision == there["revision"]
    assert connected.faults.pending() == []
    pulled = pull(ref, store)
    manifest = read_manifest(pulled.path)
    assert manifest is not None and manifest.digest == revision.digest
    assert content_digest(describe_files(pulled.path, pulled.data_files())) == revision.digest
    names = {name for name in connected.commit("alice/demo-scores", "round-001").files if name != ".gitattributes"}
    assert {name: connected.read("alice/demo-scores", name, "round-001") for name in names} == files_of(pulled.path)


# lost answers and killed processes


def test_a_commit_whose_answer_was_lost_is_not_made_twice(connected: HubServer, revision: Revision) -> None:
    order(connected, "commit", "lost", 1)
    publish(revision, config_for(store_of(revision)), page_of)
    titles = [commit.title for commit in connected.repo("alice/demo-scores").history("main")]
    assert titles == ["score round-001", "initial commit"]


def test_a_lost_commit_that_another_built_upon_is_found_below_the_head(
    connected: HubServer, revision: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = HfApi.create_commit

    def lost_and_followed(self: HfApi, *args: Any, **options: Any) -> object:
        monkeypatch.setattr(HfApi, "create_commit", sent)
        first = sent(self, *args, **options)
        self.upload_file(
            path_or_fileobj=b"x", path_in_repo="data/new.parquet", repo_id="alice/demo-scores", repo_type="dataset"
        )
        raise ConnectionError(f"no answer for {first}")

    monkeypatch.setattr(HfApi, "create_commit", lost_and_followed)
    there = publish(revision, config_for(store_of(revision)), page_of)
    history = [commit.oid for commit in connected.repo("alice/demo-scores").history("main")]
    assert len(history) == 3 and history[1] == there["revision"]
    check_tags(connected, revision)


def test_a_hub_that_stays_away_ends_with_one_line(connected: HubServer, revision: Revision) -> None:
    connected.faults.add("commit", 503, times=1000)
    with pytest.raises(UserError, match=r"alice/demo-scores: the Hub is not available \(status 503\); run the command"):
        publish(revision, config_for(store_of(revision)), page_of)
    assert connected.log.count("commit") == 5


# The requests of a push through LFS up to its tag.
KILLED = [
    *((route, 1) for route in ("whoami", "info", "create", "commits", "tree", "preupload", "lfs_batch", "lfs_put")),
    *((route, 2) for route in ("refs", "info", "commits", "tree", "lfs_put")),
    *(("validate_yaml", 1), ("commit", 1), ("info", 3), ("refs", 3), ("tag", 1)),
]
MODULES = ("training.cli", "training.pipelines", "builders.hub.publish")
# Kills the process that it runs in once the ordered fault holds it up.
DIE = """
import os, signal, threading
from hub_server import RemoteHub, wait_struck

def die(hub):
    wait_struck(hub)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=die, args=[RemoteHub(os.environ["HF_ENDPOINT"])], daemon=True).start()
"""


@pytest.fixture(scope="module")
def pusher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RemoteHub, Forks]]:
    """A Hub on which every kill has a namespace, and a process that pushes to it."""
    with serve_in_process() as hub:
        hub.add_token(TOKEN, "alice", orgs=tuple(f"org{number}" for number in range(len(KILLED))))
        with Forks(environment(hub.endpoint, tmp_path_factory.mktemp("home"), xet=False), MODULES) as forks:
            yield hub, forks


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(KILLED)), ids=lambda number: "-".join(map(str, KILLED[number])))
def test_a_killed_push_is_completed_by_the_next(
    pusher: tuple[RemoteHub, Forks], revision: Revision, tmp_path: Path, number: int
) -> None:
    found = push_twice(*pusher, revision, tmp_path, f"org{number}", *KILLED[number])
    assert found == hashes_of(revision)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["xet_shard", "commit"])
def test_a_killed_push_through_xet_is_completed_by_the_next(
    remote: RemoteHub, revision: Revision, tmp_path: Path, route: str
) -> None:
    # A Hub of its own: what one push has sent, Xet does not send again.
    with Forks(environment(remote.endpoint, tmp_path / "home", xet=True), MODULES) as forks:
        assert push_twice(remote, forks, revision, tmp_path, "alice", route, 1) == hashes_of(revision)


def hashes_of(local: Revision) -> dict[str, str]:
    """SHA-256 of a revision's data files, by path."""
    assert local.manifest is not None
    return {file.path: file.sha256 for file in local.manifest.files}


def push_twice(
    hub: RemoteHub, forks: Forks, local: Revision, folder: Path, namespace: str, route: str, nth: int
) -> dict[str, str]:
    """Push, killed at a request; nothing is visible. Push again; the hashes of the data files under the tag."""
    repo = f"{namespace}/demo-scores"
    command = ["push", "local/demo-scores", "--store", str(store_of(local).root), "--config", "tiny", "--json"]
    command += ["--set", f"namespace={namespace}"]
    hub.faults.add(route, "delay", nth=nth, seconds=600)
    killed = forks.run(DIE + PROGRAMS["grace"], command, folder)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    assert not api.repo_exists(repo, repo_type="dataset") or api.list_repo_refs(repo, repo_type="dataset").tags == []
    done = forks.run(PROGRAMS["grace"], command, folder)
    assert done.returncode == 0, done.stderr
    tags = api.list_repo_refs(repo, repo_type="dataset").tags
    rows = api.list_repo_tree(repo, "data", revision=tags[0].target_commit, repo_type="dataset")
    assert [tag.name for tag in tags] == ["round-001"]
    return {row.path: row.lfs.sha256 for row in rows if hasattr(row, "lfs") and row.lfs}


def test_downloads_are_not_resumed_from_a_damaged_file(
    connected: HubServer, revision: Revision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull that was killed leaves files behind; one that was damaged meanwhile is fetched again."""
    publish(revision, config_for(store_of(revision)), page_of)
    store = Store(tmp_path / "other")
    connected.faults.add("resolve_get", 403, path="README.md")
    removed = monkeypatch.setattr("builders.hub.pull.shutil.rmtree", lambda *args, **options: None)
    assert removed is None
    with pytest.raises(UserError, match=r"README\.md: not allowed"):
        pull(Ref("alice/demo-scores", "round-001"), store)
    monkeypatch.undo()
    left = sorted(path for path in store.root.rglob("*.parquet"))
    assert left
    left[0].write_bytes(left[0].read_bytes()[:-1] + b"x")
    monkeypatch.setattr(constants, "ENDPOINT", connected.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", connected.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match=f"{left[0].name} is damaged"):
        pull(Ref("alice/demo-scores", "round-001"), store)
    assert pull(Ref("alice/demo-scores", "round-001"), store).digest == revision.digest
