"""The test Hub against the real clients: huggingface_hub, hf_xet and datasets must take it for the Hub."""

import hashlib
import json
import threading
from pathlib import Path

import httpx2
import pytest
from hub_clients import BIG, TOKEN, fetch, head, push
from hub_server import HubServer
from hub_server.gitobjects import commit_id, regular_entry, tree_ids
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.usefixtures("lfs_uploads")

# object ids


def test_ids_equal_those_of_git() -> None:
    files = {"a/b/x.txt": regular_entry(b"hello\n"), "a.d/y": regular_entry(b"y"), "a-z": regular_entry(b"")}
    assert files["a-z"].blob_id == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    trees = tree_ids(files)
    assert trees["a"] == "89af6c91ef71caf173ae361787b90db078b80bcf"
    assert trees[""] == "e120ee8db070ee2d8646bc8275aae414fc45237a"
    commit = commit_id(trees[""], [], "alice", 1_700_000_000, "first\n")
    assert commit == "44217f86eeaf37f6766b608e8e98be516fbe325c"


# the round trip


def test_commit_tag_download(hub: HubServer, api: HfApi, repo: str, tmp_path: Path) -> None:
    first = head(api, repo)
    files = {"README.md": b"---\nlicense: mit\n---\n# Data\n", "train/a.bin": BIG, "dir \u00fc/n #1%.txt": b"text"}
    second = push(api, repo, files, parent=first)
    api.create_tag(repo, tag="round-001", repo_type="dataset", tag_message="digest")
    api.create_branch(repo, branch="feat/a b".replace(" ", "-"), repo_type="dataset")
    third = push(api, repo, {"README.md": b"# Later\n"}, branch="feat/a-b")
    for path, content in files.items():
        for revision in (None, "main", "round-001", second):
            assert fetch(api, repo, path, tmp_path / str(revision), revision) == content
    assert fetch(api, repo, "README.md", tmp_path, "feat/a-b") == b"# Later\n"
    assert head(api, repo, "round-001") == second and head(api, repo, "feat/a-b") == third
    assert [row.commit_id for row in api.list_repo_commits(repo, repo_type="dataset", revision=third)] == [
        third,
        second,
        first,
    ]
    info = api.dataset_info(repo, files_metadata=True)
    assert info.tags == ["license:mit"] and info.siblings is not None
    sizes = {row.rfilename: (row.size, row.lfs.sha256 if row.lfs else None) for row in info.siblings}
    assert sizes["train/a.bin"] == (len(BIG), hashlib.sha256(BIG).hexdigest())
    assert sizes["dir \u00fc/n #1%.txt"] == (4, None)
    assert hub.read(repo, "train/a.bin", "round-001") == BIG


def test_tree_is_paged_and_paths_info_leaves_out_what_is_missing(hub: HubServer, api: HfApi, repo: str) -> None:
    push(api, repo, {f"d/{name}/x.txt": b"x" for name in "abcde"})
    rows = list(api.list_repo_tree(repo, recursive=True, repo_type="dataset"))
    folders = ["d", *(f"d/{name}" for name in "abcde")]
    assert sorted(row.path for row in rows) == sorted(
        [".gitattributes", *folders, *(f"{f}/x.txt" for f in folders[1:])]
    )
    assert hub.log.count("tree") == 6  # twelve rows, two a page
    assert [row.path for row in api.list_repo_tree(repo, "d/b", repo_type="dataset")] == ["d/b/x.txt"]
    found = api.get_paths_info(repo, ["d/a/x.txt", "none", "d"], expand=True, repo_type="dataset")
    assert [(row.path, row.last_commit.title if row.last_commit else None) for row in found] == [
        ("d/a/x.txt", "push"),
        ("d", "push"),
    ]


def test_lfs_by_size_and_in_parts(hub: HubServer, api: HfApi, repo: str) -> None:
    push(api, repo, {"small.json": b"{}", "large.json": b"1" * 10_001, "parts.bin": BIG * 2})
    assert hub.commit(repo).files["small.json"].sha256 is None
    assert hub.commit(repo).files["large.json"].sha256 == hashlib.sha256(b"1" * 10_001).hexdigest()
    assert hub.log.count("lfs_put") == 1 and hub.log.count("lfs_part") == 6 and hub.log.count("lfs_complete") == 1
    assert hub.log.uploaded("lfs_*") == 10_001 + 60_000 and hub.log.uploaded("commit") == 2
    assert hub.read(repo, "parts.bin") == BIG * 2


def test_unchanged_content_is_neither_uploaded_nor_committed(hub: HubServer, api: HfApi, repo: str) -> None:
    before = push(api, repo, {"a.bin": BIG, "b.txt": b"b"})
    hub.log.clear()
    assert push(api, repo, {"a.bin": BIG, "b.txt": b"b"}) == before
    assert hub.log.uploaded() == 0 and hub.log.count("lfs_put", "commit") == 0
    push(api, repo, {"copy.bin": BIG})  # another path: a commit, but no second upload
    assert hub.log.count("lfs_put") == 0 and hub.log.count("commit") == 1


def test_snapshot_download_of_a_tag(api: HfApi, repo: str, tmp_path: Path) -> None:
    push(api, repo, {"a/b.txt": b"b", "c.bin": BIG})
    api.create_tag(repo, tag="v1", repo_type="dataset")
    push(api, repo, {"c.bin": BIG[::-1]})
    folder = Path(api.snapshot_download(repo, repo_type="dataset", revision="v1", cache_dir=tmp_path))
    assert (folder / "a/b.txt").read_bytes() == b"b" and (folder / "c.bin").read_bytes() == BIG


def test_deletes_files_and_folders(hub: HubServer, api: HfApi, repo: str) -> None:
    push(api, repo, {"a/1.txt": b"1", "a/2.txt": b"2", "b.txt": b"b"})
    operations = (CommitOperationDelete("a/", is_folder=True), CommitOperationAdd("c.txt", b"c"))
    api.create_commit(repo, operations, commit_message="swap", repo_type="dataset")
    assert sorted(hub.commit(repo).files) == [".gitattributes", "b.txt", "c.txt"]
    with pytest.raises(EntryNotFoundError):
        api.delete_file("none.txt", repo, repo_type="dataset")


def test_pull_request_is_a_revision_of_its_own(api: HfApi, repo: str, tmp_path: Path) -> None:
    before = head(api, repo)
    made = api.create_commit(
        repo, [CommitOperationAdd("p.txt", b"p")], commit_message="try", repo_type="dataset", create_pr=True
    )
    assert made.pr_num == 1 and head(api, repo) == before
    assert fetch(api, repo, "p.txt", tmp_path, "refs/pr/1") == b"p"


# what must be refused


def test_stale_parent_commit_is_412(hub: HubServer, api: HfApi, repo: str) -> None:
    first = head(api, repo)
    second = push(api, repo, {"a.txt": b"a"}, parent=first)
    with pytest.raises(HfHubHTTPError) as caught:
        push(api, repo, {"b.txt": b"b"}, parent=first)
    assert caught.value.response.status_code == 412 and head(api, repo) == second
    assert "b.txt" not in hub.commit(repo).files


def test_tags_are_never_overwritten(api: HfApi, repo: str) -> None:
    first = head(api, repo)
    api.create_tag(repo, tag="v1", repo_type="dataset")
    push(api, repo, {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_tag(repo, tag="v1", repo_type="dataset")
    assert caught.value.response.status_code == 409
    api.create_tag(repo, tag="v1", repo_type="dataset", exist_ok=True)
    assert head(api, repo, "v1") == first
    api.delete_tag(repo, tag="v1", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(repo, tag="v2", revision="v1", repo_type="dataset")


def test_commits_go_to_branches_only(api: HfApi, repo: str) -> None:
    api.create_tag(repo, tag="v1", repo_type="dataset")
    for revision, error in (("v1", HfHubHTTPError), (head(api, repo), HfHubHTTPError), ("none", RevisionNotFoundError)):
        with pytest.raises(error):
            push(api, repo, {"a.txt": b"a"}, branch=revision)


def test_an_lfs_file_that_was_not_uploaded_is_not_committed(hub: HubServer, api: HfApi, repo: str) -> None:
    before = head(api, repo)
    value = {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 3}
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": "lfsFile", "value": value}]
    body = "\n".join(json.dumps(line) for line in lines)
    url = f"{hub.endpoint}/api/datasets/{repo}/commit/main"
    reply = httpx2.post(url, content=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert reply.status_code == 400 and head(api, repo) == before


def test_private_repos_exist_for_their_owner_only(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("acme/hidden", repo_type="dataset", private=True)
    push(api, "acme/hidden", {"a.txt": b"a"})
    assert fetch(api, "acme/hidden", "a.txt", tmp_path / "alice") == b"a"
    for token in ("hf_bob", False):
        other = HfApi(endpoint=hub.endpoint, token=token)
        with pytest.raises(RepositoryNotFoundError):
            other.dataset_info("acme/hidden")
        with pytest.raises(RepositoryNotFoundError):
            other.hf_hub_download("acme/hidden", "a.txt", repo_type="dataset", cache_dir=tmp_path / "other")
    assert [row.id for row in HfApi(endpoint=hub.endpoint, token=False).list_datasets(author="acme")] == []


def test_rights(hub: HubServer, api: HfApi, repo: str, tmp_path: Path) -> None:
    push(api, repo, {"a.txt": b"a"})
    assert fetch(HfApi(endpoint=hub.endpoint, token=False), repo, "a.txt", tmp_path) == b"a"
    for token in ("hf_reader", "hf_bob"):
        with pytest.raises(HfHubHTTPError) as caught:
            push(HfApi(endpoint=hub.endpoint, token=token), repo, {"b.txt": b"b"})
        assert caught.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=hub.endpoint, token="hf_reader").create_repo("alice/other")
    assert caught.value.response.status_code == 403
    with pytest.raises(RepositoryNotFoundError):
        push(HfApi(endpoint=hub.endpoint, token=False), repo, {"b.txt": b"b"})
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=hub.endpoint, token="hf_nobody").dataset_info(repo)
    assert caught.value.response.status_code == 401 and not isinstance(caught.value, RepositoryNotFoundError)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.endpoint, token="hf_nobody").whoami()
    assert HfApi(endpoint=hub.endpoint, token="hf_reader").whoami()["auth"]["accessToken"]["role"] == "read"


def test_what_is_missing_has_the_clients_own_errors(hub: HubServer, api: HfApi, repo: str, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("alice/none")
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(repo, revision="none")
    with pytest.raises(EntryNotFoundError):
        fetch(api, repo, "none.txt", tmp_path)
    assert not api.file_exists(repo, "none.txt", repo_type="dataset")
    hub.gate(repo)
    with pytest.raises(GatedRepoError):
        fetch(HfApi(endpoint=hub.endpoint, token="hf_bob"), repo, ".gitattributes", tmp_path)


def test_create_twice_and_delete(api: HfApi, repo: str) -> None:
    assert api.create_repo(repo, repo_type="dataset", exist_ok=True).repo_id == repo
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(repo, repo_type="dataset")
    assert caught.value.response.status_code == 409
    api.create_repo(repo, repo_type="model")  # another kind, another repo
    api.delete_repo(repo, repo_type="dataset")
    assert not api.repo_exists(repo, repo_type="dataset") and api.repo_exists(repo)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ("license: [", "flow"),
        ("license: mit\nlicense: mit", "duplicated mapping key"),
        ("tags: one", "must be an array"),
        ("size_categories: [n<2K]", "n<2K"),
        ("configs: [{data_files: x}]", "config_name"),
    ],
)
def test_bad_cards_are_refused_before_the_commit(
    hub: HubServer, api: HfApi, repo: str, head: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        api.create_commit(
            repo,
            [CommitOperationAdd("README.md", f"---\n{head}\n---\n".encode())],
            commit_message="card",
            repo_type="dataset",
        )
    assert hub.log.count("commit") == 0


# ranges


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [("bytes=0-9", 206, 0, 10), ("bytes=10-", 206, 10, None), ("bytes=-5", 206, -5, None), ("items=1", 200, 0, None)],
)
def test_ranges(hub: HubServer, api: HfApi, repo: str, asked: str, status: int, start: int, end: int | None) -> None:
    oid = push(api, repo, {"a.bin": BIG})
    reply = httpx2.get(f"{hub.endpoint}/datasets/{repo}/resolve/main/a.bin", headers={"Range": asked})
    assert (reply.status_code, reply.content) == (status, BIG[start:end])
    assert reply.headers["X-Repo-Commit"] == oid and reply.headers["X-Linked-Size"] == str(len(BIG))


def test_a_range_past_the_end_is_416(hub: HubServer, api: HfApi, repo: str) -> None:
    push(api, repo, {"a.bin": BIG})
    url = f"{hub.endpoint}/datasets/{repo}/resolve/main/a.bin"
    reply = httpx2.get(url, headers={"Range": f"bytes={len(BIG)}-"})
    assert reply.status_code == 416 and reply.headers["Content-Range"] == f"bytes */{len(BIG)}"


# several writers


def test_concurrent_commits_lose_nothing(hub: HubServer, api: HfApi, repo: str) -> None:
    def write(number: int) -> None:
        for step in range(5):
            while True:
                try:
                    push(api, repo, {f"{number}-{step}.txt": b"x"}, parent=head(api, repo))
                    break
                except HfHubHTTPError as error:
                    if error.response.status_code != 412:
                        raise

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.commit(repo).files) == 1 + 20 and len(hub.repo(repo).history("main")) == 1 + 20
