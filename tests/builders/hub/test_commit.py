"""Which commit and which branch a round gets: others who publish it too, older rounds, pushes that were broken off."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from huggingface_hub import HfApi
from store_chains import add_dataset, config_for

from builders.hub.publish import publish
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import page_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def rows_on(hub: HubServer, revision: str) -> dict[str, bytes]:
    files = hub.commit("alice/demo-groups", revision).files
    return {name: hub.read("alice/demo-groups", name, revision) for name in files if name.startswith("data/")}


def rows_of(revision: Revision) -> dict[str, bytes]:
    return {path.relative_to(revision.path).as_posix(): path.read_bytes() for path in revision.data_files()}


def push(revision: Revision, store: Store) -> dict[str, Any]:
    return publish(revision, config_for(store), page_of)


def once(monkeypatch: pytest.MonkeyPatch, name: str, first: Callable[[], object]) -> None:
    """Let somebody else do something just before the first call of a method of the client."""
    real = getattr(HfApi, name)

    def method(self: HfApi, *args: Any, **options: Any) -> object:
        monkeypatch.setattr(HfApi, name, real)
        first()
        return real(self, *args, **options)

    monkeypatch.setattr(HfApi, name, method)


@pytest.mark.parametrize("moment", ["preupload_lfs_files", "create_commit", "list_repo_commits"])
def test_of_two_who_publish_a_round_one_is_refused_and_leaves_nothing(
    connected: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    push(add_dataset(store, "sample", name="other"), store)  # so that the first one's world is not empty
    mine = add_dataset(store, "sample")
    theirs = Store(tmp_path / "theirs")
    other = add_dataset(theirs, "sample", text="Write a poem.")
    once(monkeypatch, moment, lambda: push(other, theirs))
    with pytest.raises(UserError, match=r"demo-groups: tag round-001 .* stands for other data"):
        push(mine, store)
    assert rows_on(connected, "main") == rows_on(connected, "round-001") == rows_of(other)
    assert [c.title for c in connected.repo("alice/demo-groups").history("main")] == [
        "sample round-001",
        "initial commit",
    ]


def test_one_who_has_committed_and_not_yet_tagged_is_waited_for(
    connected: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Store(tmp_path / "theirs")
    other = add_dataset(theirs, "sample", text="Write a poem.")
    mine = add_dataset(store, "sample")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            push(other, theirs)  # finds its own commit and sets the tag

    once(monkeypatch, "create_tag", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        push(other, theirs)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(UserError, match=r"tag round-001 .* stands for other data"):
        push(mine, store)
    assert len(slept) == 2 and rows_on(connected, "main") == rows_on(connected, "round-001") == rows_of(other)


def test_a_push_that_was_broken_off_before_its_tag_holds_nobody_up_for_good(
    connected: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, "create_tag", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        push(add_dataset(store, "sample"), store)
    rebuilt = add_dataset(store, "sample", text="Write a poem.")
    there = push(rebuilt, store)
    assert connected.repo("alice/demo-groups").tags == {"round-001": there["revision"]}
    assert rows_on(connected, "main") == rows_of(rebuilt)


def test_main_shows_the_newest_round_whatever_the_order(connected: HubServer, store: Store) -> None:
    made = {round_: add_dataset(store, "sample", round_=round_) for round_ in (1, 2, 3)}
    there = {round_: push(made[round_], store) for round_ in (2, 1, 3)}
    repo = connected.repo("alice/demo-groups")
    assert repo.tags == {f"round-00{round_}": found["revision"] for round_, found in there.items()}
    for round_, revision in made.items():
        assert rows_on(connected, f"round-00{round_}") == rows_of(revision)
    assert rows_on(connected, "main") == rows_of(made[3])
    titles = [commit.title for commit in repo.history("main")]
    assert titles == ["sample round-003", "sample round-002", "initial commit"]
    assert set(repo.branches) == {"main"}  # the branch of the older round is gone, its commit has the tag
    connected.log.clear()
    assert push(made[1], store) == there[1] | {"uploaded": False} and connected.log.count("commit", "branch") == 0


def test_an_older_round_under_way_goes_beside_a_newer_one_without_a_tag(
    connected: HubServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Store(tmp_path / "theirs")
    newer = add_dataset(theirs, "sample", round_=2)
    older = add_dataset(store, "sample")
    once(monkeypatch, "create_commit", lambda: push(newer, theirs))
    push(older, store)
    assert rows_on(connected, "main") == rows_of(newer) and rows_on(connected, "round-001") == rows_of(older)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lost", "drop", 503])
@pytest.mark.parametrize("route", ["branch", "commit", "tag", "branch_delete"])
def test_an_older_round_under_a_fault(connected: HubServer, store: Store, route: str, fault: str | int) -> None:
    made = {round_: add_dataset(store, "sample", round_=round_) for round_ in (1, 2)}
    push(made[2], store)
    connected.faults.add(route, fault)
    push(made[1], store)
    assert connected.faults.pending() == []
    assert rows_on(connected, "main") == rows_of(made[2]) and rows_on(connected, "round-001") == rows_of(made[1])
    assert set(connected.repo("alice/demo-groups").branches) == {"main"}
