"""Faults that last: a command ends within a minute, in a few lines, and shows no signed address."""

import logging
import sys
import time
from pathlib import Path

import httpx2
import pytest
from datasets_factory import add_dataset, scores_frame
from hub_clients import TOKEN
from hub_server import HubServer, Options
from store_chains import config_for

from builders.hub import session
from builders.hub.publish import publish
from builders.hub.pull import pull
from builders.settings.base import identities
from builders.store.ref import Ref
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import page_of

PUSH_ROUTES = ("whoami", "tree", "preupload", "lfs_batch", "lfs_put", "lfs_part", "lfs_complete", "commit", "tag")
# The Hub has the file by then, although nobody waited for its answer.
LATE = [("lfs_put", "delay"), ("lfs_complete", "delay")]


class Clock:
    """The time that would have passed: the real one, what was slept, and every limit on silence that was reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.skipped = 0.0
        real, add = time.monotonic, session.FAILURES.add
        silence = session.LONGEST_SILENCE, session.COMMIT_SILENCE

        def failed(*keys: str, began: float, reason: str) -> None:
            if reason.endswith("Timeout"):
                self.sleep(silence["/commit/" in keys[0]])
            add(*keys, began=began, reason=reason)

        monkeypatch.setattr(time, "monotonic", lambda: real() + self.skipped)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(session, "LONGEST_SILENCE", 0.2)
        monkeypatch.setattr(session, "COMMIT_SILENCE", 0.2)
        monkeypatch.setattr(session.FAILURES, "add", failed)
        self.began = time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.skipped += seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@pytest.fixture
def clock(connected: HubServer, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Progress and the library's log lines go to stderr as they do in a command."""
    handler = logging.StreamHandler(sys.stderr)
    for name in ("builders", "huggingface_hub"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("builders"), "level", logging.INFO)
    return Clock(monkeypatch)


def scores(store: Store, shards: int = 1) -> Revision:
    """A dataset of one row per shard; with one shard no thread waits beside another, and the clock counts each once."""
    settings = identities(config_for(store), GRACE_KTO.stage("score").sections)
    frame = scores_frame([[40 + row] for row in range(shards)])
    return add_dataset(store, "score", frame, shards=[1] * shards, configuration=settings)


def require_short(clock: Clock, printed: str, error: UserError) -> None:
    text = printed + str(error)
    assert clock.seconds <= 60
    assert len(text.splitlines()) <= 20, text
    assert "upload=" not in text and "_lfs/" not in text and TOKEN not in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [503, "drop", "delay"])
@pytest.mark.parametrize("route", PUSH_ROUTES)
def test_a_push_ends_within_a_minute(
    connected: HubServer, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], route: str, kind: str | int
) -> None:
    store = Store(tmp_path / "store")
    connected.hub.options = Options(
        multipart_above=4_000 if route in ("lfs_part", "lfs_complete") else 40_000, part_size=2_000
    )
    revision = scores(store)
    connected.faults.add(route, kind, times=10_000, seconds=0.5)
    try:
        publish(revision, config_for(store), page_of)
    except UserError as error:
        require_short(clock, capsys.readouterr().err, error)
        assert connected.log.count(route) <= 40
    else:
        assert (route, kind) in LATE


@pytest.mark.parametrize("kind", [503, "delay", "truncate"])
@pytest.mark.parametrize("route", ["tree", "resolve_get"])
def test_a_pull_ends_within_a_minute(
    connected: HubServer, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], route: str, kind: str | int
) -> None:
    store = Store(tmp_path / "store")
    publish(scores(store), config_for(store), page_of)
    capsys.readouterr()
    connected.faults.add(route, kind, times=10_000, seconds=0.5)
    with pytest.raises(UserError) as caught:
        pull(Ref("alice/demo-scores", "round-001"), Store(tmp_path / "other"))
    require_short(clock, capsys.readouterr().err, caught.value)


def test_many_files_that_cannot_be_sent_end_together(
    connected: HubServer, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The uploads of five threads do not wait one after the other."""
    store = Store(tmp_path / "store")
    revision = scores(store, 30)
    connected.faults.add("lfs_put", 503, times=10_000)
    with pytest.raises(UserError, match=r"the Hub is not available \(status 503\)") as caught:
        publish(revision, config_for(store), page_of)
    require_short(clock, capsys.readouterr().err, caught.value)


def test_a_fault_that_passes_is_outlasted(connected: HubServer, clock: Clock, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    connected.faults.add("lfs_put", 503, times=4)
    assert publish(scores(store), config_for(store), page_of)["uploaded"]


def test_only_a_request_that_keeps_failing_is_given_up(connected: HubServer, clock: Clock) -> None:
    failures = session._Failures()

    def fail(*keys: str) -> None:
        failures.add(*keys, began=time.monotonic(), reason="status 503")

    for _ in range(4):
        fail("PUT a", "PUT")
        clock.sleep(8)
    fail("PUT a", "PUT")
    for refused in ("PUT a", "PUT"):
        with pytest.raises(session.GaveUp, match="status 503"):
            failures.check("PUT b", refused)
    failures.check("PUT b")
    failures.remove("PUT")  # another upload has succeeded
    failures.check("PUT b", "PUT")
    clock.sleep(session.STALE)
    failures.check("PUT a")  # nobody has tried it again: what is tried now is another matter
    fail("PUT a")
    clock.sleep(session.PATIENCE + 1)
    failures.check("PUT a")


@pytest.mark.parametrize(("status", "most"), [(503, 60), (429, 500)])
def test_a_hub_in_trouble_cannot_ask_for_hours(
    connected: HubServer, clock: Clock, tmp_path: Path, status: int, most: int
) -> None:
    """A limit of requests may: the Hub counts them in windows of five minutes."""
    store = Store(tmp_path / "store")
    connected.faults.add("preupload", status, times=1 if status == 429 else 10_000, retry_after=280)
    try:
        publish(scores(store), config_for(store), page_of)
    except UserError:
        assert status == 503
    assert (280 if status == 429 else 10) <= clock.seconds <= most


def test_a_client_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import _http

    def own() -> httpx2.Client:
        return httpx2.Client()

    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", own)
    session.bound_session()
    assert _http._GLOBAL_CLIENT_FACTORY is own
