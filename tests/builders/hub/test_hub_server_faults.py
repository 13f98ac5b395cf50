"""Each kind of fault the test Hub can be told to make, as the real client meets it."""

import hashlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from hub_clients import BIG, TOKEN, fetch, head, push
from hub_server import HubServer
from hub_server.faults import FaultPlan
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

pytestmark = pytest.mark.usefixtures("lfs_uploads")


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 403, 412])
def test_fault_status(hub: HubServer, api: HfApi, repo: str, status: int) -> None:
    hub.faults.add("info", status, retry_after=7)
    with pytest.raises(HfHubHTTPError) as caught:
        head(api, repo)
    assert caught.value.response.status_code == status and caught.value.response.headers["Retry-After"] == "7"
    assert hub.log.of("info")[0].fault == f"status {status}"
    head(api, repo)
    assert hub.faults.pending() == []


def test_fault_status_on_an_upload_is_retried_by_the_client(hub: HubServer, api: HfApi, repo: str) -> None:
    hub.faults.add("lfs_put", 503)
    push(api, repo, {"a.bin": BIG})
    assert [row.status for row in hub.log.of("lfs_put")] == [503, 200] and hub.read(repo, "a.bin") == BIG


def test_fault_on_the_nth_occurrence_of_a_path(hub: HubServer, api: HfApi, repo: str, tmp_path: Path) -> None:
    push(api, repo, {"a.bin": BIG, "b.bin": BIG[::-1]})
    hub.faults.add("resolve_*", "corrupt", nth=2, path="b.bin")  # the first is the HEAD
    assert fetch(api, repo, "a.bin", tmp_path) == BIG and fetch(api, repo, "b.bin", tmp_path) != BIG[::-1]


def test_fault_drop_leaves_the_request_unhandled(hub: HubServer, api: HfApi, repo: str) -> None:
    before = head(api, repo)
    hub.faults.add("commit", "drop")
    with pytest.raises(httpx2.TransportError):
        push(api, repo, {"a.bin": BIG})
    assert head(api, repo) == before and hub.log.of("commit")[0].status is None


def test_fault_lost_handles_the_request(hub: HubServer, api: HfApi, repo: str) -> None:
    before = head(api, repo)
    hub.faults.add("commit", "lost")
    with pytest.raises(httpx2.TransportError):
        push(api, repo, {"a.bin": BIG})
    assert head(api, repo) != before and hub.read(repo, "a.bin") == BIG
    assert (hub.log.of("commit")[0].status, hub.log.of("commit")[0].fault) == (200, "lost")


def test_fault_reset_during_an_upload(hub: HubServer, api: HfApi, repo: str) -> None:
    hub.faults.add("lfs_put", "reset")
    push(api, repo, {"a.bin": BIG})
    assert [row.fault for row in hub.log.of("lfs_put")] == ["reset", None] and hub.read(repo, "a.bin") == BIG


@pytest.mark.slow
def test_fault_truncate(hub: HubServer, api: HfApi, repo: str, tmp_path: Path) -> None:
    push(api, repo, {"a.bin": BIG})
    hub.faults.add("resolve_get", "truncate", times=9)
    with pytest.raises((OSError, httpx2.TransportError)):
        fetch(api, repo, "a.bin", tmp_path)
    assert hub.log.of("resolve_get")[0].bytes_out == len(BIG) // 2
    hub.faults.clear()
    assert fetch(api, repo, "a.bin", tmp_path) == BIG


def test_fault_corrupt_flips_one_bit_unnoticed(hub: HubServer, api: HfApi, repo: str, tmp_path: Path) -> None:
    push(api, repo, {"a.bin": BIG})
    hub.faults.add("resolve_get", "corrupt")
    found = fetch(api, repo, "a.bin", tmp_path)
    assert sum((a ^ b).bit_count() for a, b in zip(found, BIG, strict=True)) == 1


def test_fault_corrupt_request_is_found_by_the_sha256(hub: HubServer, api: HfApi, repo: str) -> None:
    before = head(api, repo)
    hub.faults.add("lfs_put", "corrupt_request")
    with pytest.raises(RuntimeError, match=r"a\.bin"):
        push(api, repo, {"a.bin": BIG})
    assert hub.log.of("lfs_put")[0].status == 400 and head(api, repo) == before


def test_fault_delay(hub: HubServer, api: HfApi, repo: str) -> None:
    hub.faults.add("info", "delay", seconds=0.05)
    head(api, repo)
    assert (hub.log.of("info")[0].fault, hub.log.of("info")[0].status) == ("delay", 200)


def test_unknown_fault_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="explode"):
        FaultPlan().add("info", "explode")


def test_half_an_upload_is_kept_nowhere(hub: HubServer, api: HfApi, repo: str) -> None:
    sha256 = hashlib.sha256(BIG).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": sha256, "size": len(BIG)}]}
    url = f"{hub.endpoint}/datasets/{repo}.git/info/lfs/objects/batch"
    reply = httpx2.post(url, json=batch, headers={"Authorization": f"Bearer {TOKEN}"})
    target = urlsplit(reply.json()["objects"][0]["actions"]["upload"]["href"])
    with socket.create_connection((target.hostname, target.port)) as raw:
        request = f"PUT {target.path}?{target.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BIG)}\r\n\r\n"
        raw.sendall(request.encode() + BIG[:100])
    wrong = httpx2.put(target.geturl(), content=BIG[:-1])
    assert wrong.status_code == 400 and not hub.hub.store.has("lfs", sha256)
    assert httpx2.put(target.geturl(), content=BIG).status_code == 200


def test_log_holds_no_token(hub: HubServer, api: HfApi, repo: str) -> None:
    push(api, repo, {"a.bin": BIG})
    assert TOKEN not in httpx2.get(f"{hub.endpoint}/_admin/log").text
    assert hub.log.of("commit")[0].user == "alice" and hub.log.of("commit")[0].repo == "dataset:alice/data"


def test_a_request_that_lacks_a_field_is_400(hub: HubServer, repo: str) -> None:
    url = f"{hub.endpoint}/api/datasets/{repo}/preupload/main"
    reply = httpx2.post(url, json={"files": [{"size": 1}]}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert reply.status_code == 400 and "path" in reply.json()["error"]
