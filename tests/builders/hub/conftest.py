"""A Hub, a client and a repository for the tests of this folder."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hub_clients import TOKEN
from hub_server import HubServer, Options, RemoteHub, serve_in_process
from huggingface_hub import HfApi, constants


@pytest.fixture
def lfs_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upload through LFS in this process; Xet is tried in processes of its own, where the environment decides."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub with small limits: pages of two rows, LFS above 10 000 bytes, parts of 10 000 bytes above 40 000."""
    options = Options(page_size=2, lfs_above=10_000, multipart_above=40_000, part_size=10_000)
    with HubServer(options=options) as server:
        server.add_token(TOKEN, "alice", orgs=("acme",))
        server.add_token("hf_bob", "bob")
        server.add_token("hf_reader", "alice", role="read")
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def repo(api: HfApi) -> str:
    api.create_repo("alice/data", repo_type="dataset")
    return "alice/data"


@pytest.fixture
def remote() -> Iterator[RemoteHub]:
    with serve_in_process() as server:
        server.add_token(TOKEN, "alice")
        yield server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends with the test what it began, such as other people's processes."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def progress(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The lines of progress; a command that ran in this process before has sent them to stderr alone."""
    monkeypatch.setattr(logging.getLogger("builders"), "propagate", True)
    caplog.set_level(logging.INFO, logger="builders")
    return caplog


@pytest.fixture
def connected(hub: HubServer, lfs_uploads: None, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The Hub as this process's own, with alice's token; nobody waits before trying again."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return hub
