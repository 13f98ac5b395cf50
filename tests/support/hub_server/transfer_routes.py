"""Routes that move content: preupload, LFS, Xet, commit, resolve."""

import base64
import binascii
import json
import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import quote

from .gitobjects import Entry, lfs_entry
from .http_types import Reply, Request, json_reply
from .hub import Hub, Upload
from .store import LFS_SUFFIXES, Commit, HubError, Repo, edit
from .xet import XetError, dedup_shard, hash_hex, read_chunks, read_shard, rebuild

SHA256 = re.compile(r"[0-9a-f]{64}")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
Change = Callable[[dict[str, Entry]], None]


def preupload(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    commit = repo.resolve(repo.branch(request.args["rev"]))
    listed = request.json().get("files")
    if not isinstance(listed, list) or len(listed) > 256:
        raise HubError(400, "files must be a list of at most 256")
    return json_reply({"files": [_mode(hub, commit, file) for file in listed], "commitOid": commit.oid})


def _mode(hub: Hub, commit: Commit, file: dict[str, object]) -> dict[str, object]:
    path, size = str(file["path"]), int(str(file["size"]))
    binary = b"\0" in base64.b64decode(str(file.get("sample", "")))
    lfs = path.endswith(LFS_SUFFIXES) or binary or size > hub.options.lfs_above
    known = commit.files.get(path)
    mode = "lfs" if lfs else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known.etag if known else None}


def lfs_batch(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    objects = request.json().get("objects")
    if not isinstance(objects, list):
        raise HubError(400, "objects must be a list")
    rows = [_batch_row(hub, repo, str(item["oid"]), int(item["size"])) for item in objects]
    many = any(int(item["size"]) > hub.options.multipart_above for item in objects)
    return json_reply(
        {"transfer": "multipart" if many else "basic", "objects": rows},
        headers={"Content-Type": "application/vnd.git-lfs+json"},
    )


def _batch_row(hub: Hub, repo: Repo, oid: str, size: int) -> dict[str, object]:
    row: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
    if not SHA256.fullmatch(oid):
        row["error"] = {"code": 422, "message": "the object id is not a sha256"}
    elif oid not in repo.objects:
        row["actions"] = {"upload": _upload_action(hub, Upload(repo, oid, size))}
    return row


def _upload_action(hub: Hub, upload: Upload) -> dict[str, object]:
    key = secrets.token_hex(16)
    with hub.lock:
        hub.uploads[key] = upload
    href = f"{hub.endpoint}/_lfs/{upload.sha256}"
    if upload.size <= hub.options.multipart_above:
        return {"href": f"{href}?upload={key}", "header": {}}
    part = hub.options.part_size
    header = {f"{n:05d}": f"{href}/{n}?upload={key}" for n in range(1, -(-upload.size // part) + 1)}
    return {"href": f"{href}?upload={key}", "header": {"chunk_size": str(part), **header}}


def _pending(hub: Hub, request: Request) -> tuple[str, Upload]:
    key = request.first("upload")
    upload = hub.uploads.get(key)
    if upload is None or upload.sha256 != request.args["oid"]:
        raise HubError(403, "The upload address is not valid")
    return key, upload


def _keep(hub: Hub, upload: Upload, content: bytes) -> None:
    if len(content) != upload.size:
        raise HubError(400, f"The content has {len(content)} bytes, announced were {upload.size}")
    hub.store.put_object(upload.repo, upload.sha256, content)


def lfs_put(hub: Hub, request: Request) -> Reply:
    _, upload = _pending(hub, request)
    request.content_bytes = len(request.body)
    _keep(hub, upload, request.body)
    return Reply(headers={"ETag": f'"{upload.sha256}"'})


def lfs_part(hub: Hub, request: Request) -> Reply:
    key, _ = _pending(hub, request)
    request.content_bytes = len(request.body)
    number = int(request.args["part"])
    hub.store.put("parts", f"{key}-{number}", request.body)
    return Reply(headers={"ETag": f'"{key[:8]}-{number}"'})


def lfs_complete(hub: Hub, request: Request) -> Reply:
    key, upload = _pending(hub, request)
    parts = request.json().get("parts")
    if not isinstance(parts, list):
        raise HubError(400, "parts must be a list")
    names = [f"{key}-{int(part['partNumber'])}" for part in parts]
    if not all(hub.store.has("parts", name) for name in names):
        raise HubError(400, "A part was not uploaded")
    _keep(hub, upload, b"".join(hub.store.get("parts", name) for name in names))
    return json_reply({"success": True})


def xet_token(hub: Hub, request: Request) -> Reply:
    if not hub.options.xet:
        raise HubError(404, "Xet is not enabled on this Hub")
    repo = hub.writable(request) if request.args["access"] == "write" else hub.readable(request)
    token, expires = f"xet-{secrets.token_hex(16)}", int(time.time()) + 3600
    with hub.lock:
        hub.xet_tokens[token] = repo
    cas = f"{hub.endpoint}/_xet"
    headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return json_reply({"accessToken": token, "exp": expires, "casUrl": cas}, headers=headers)


def _xet_repo(hub: Hub, request: Request) -> Repo:
    repo = hub.xet_tokens.get((request.headers.get("Authorization") or "").removeprefix("Bearer "))
    if repo is None:
        raise HubError(401, "The Xet token is not valid")
    return repo


def xet_xorb(hub: Hub, request: Request) -> Reply:
    _xet_repo(hub, request)
    request.content_bytes = len(request.body)
    name = request.args["hash"]
    try:
        read_chunks(request.body)
    except XetError as error:
        raise HubError(400, str(error)) from error
    # A xorb is believed once a file was rebuilt from it; until then a second upload replaces one that arrived damaged.
    proven = name in hub.xet_proven
    if not proven:
        hub.store.put("xorbs", name, request.body)
    return json_reply({"was_inserted": not proven})


def xet_shard(hub: Hub, request: Request) -> Reply:
    """Rebuild every file of the shard, so that it can be committed and downloaded by its sha256; all or none."""
    repo = _xet_repo(hub, request)
    xorbs: set[str] = set()
    try:
        files, blocks = read_shard(request.body)
        xorbs = {segment.xorb for file in files for segment in file.segments}
        wanted = [file for file in files if file.sha256 is None or file.sha256 not in repo.objects]
        rebuilt = [rebuild(file, lambda name: hub.store.get("xorbs", name)) for file in wanted]
    except (XetError, FileNotFoundError) as error:
        with hub.lock:
            hub.xet_proven -= xorbs  # the next upload replaces them
        raise HubError(400, f"The shard cannot be used: {error}") from error
    for sha256, content in rebuilt:
        hub.store.put_object(repo, sha256, content)
    with hub.lock:
        hub.xet_proven |= xorbs
        # later uploads may build only upon xorbs known to be right
        usable = {chunk: block for chunk, block in blocks.items() if hash_hex(block[:32]) in hub.xet_proven}
        hub.xet_chunks.update(usable)
    return json_reply({"result": 1})


def xet_chunk(hub: Hub, request: Request) -> Reply:
    """Global deduplication: which known xorb holds this chunk."""
    _xet_repo(hub, request)
    block = hub.xet_chunks.get(request.args["hash"])
    if block is None:
        raise HubError(404, "The chunk is not known")
    return Reply(body=dedup_shard(block), headers={"Content-Type": "application/octet-stream"})


def xet_other(hub: Hub, request: Request) -> Reply:
    """No upload grants, version 2 shards or telemetry: the client goes on without them."""
    raise HubError(404, "Not found")


def commit(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    header, changes = _parse_commit(hub, repo, request)
    title, message = str(header.get("summary") or ""), str(header.get("description") or "")
    parent = str(header["parentCommit"]) if header.get("parentCommit") else None
    author = request.account.user if request.account else ""
    with hub.store.head(repo, request.args["rev"], parent) as head:
        files = edit(head.files, changes)
        branch = repo.branch(request.args["rev"])
        pull = None
        if request.first("create_pr") == "1":
            pull = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
            branch = f"refs/pr/{pull}"
            repo.branches[branch] = head.oid
        made = repo.add_commit(branch, files, title, message, author)
    url = hub.repo_url(repo)
    reply = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}", "hookOutput": ""}
    return json_reply(reply | ({"pullRequestUrl": f"{url}/discussions/{pull}"} if pull else {}))


def _parse_commit(hub: Hub, repo: Repo, request: Request) -> tuple[dict[str, object], list[Change]]:
    """The header and the changes of an NDJSON body; contents are stored, the tree is not touched yet."""
    header: dict[str, object] = {}
    changes: list[Change] = []
    try:
        for line in request.body.splitlines():
            item = json.loads(line)
            if item["key"] == "header":
                header = item["value"]
            else:
                changes.append(_change(hub, repo, request, item["key"], item["value"]))
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(400, f"The commit is malformed: {error}") from error
    if not header.get("summary"):
        raise HubError(400, "The commit has no summary")
    return header, changes


def _change(hub: Hub, repo: Repo, request: Request, key: str, value: dict[str, str]) -> Change:
    path = value["path"]
    if not path or any(part in ("", ".", "..", ".git") for part in path.rstrip("/").split("/")):
        raise HubError(400, f"Invalid path: {path}")
    if key == "file":
        entry = hub.store.put_blob(_content(value))
        request.content_bytes += entry.size
        return lambda files: _place(files, path, entry)
    if key == "lfsFile":
        oid = value["oid"]
        if oid not in repo.objects:
            raise HubError(400, f"LFS pointer of {path} points to a file that does not exist")
        large = lfs_entry(oid, len(hub.store.get("lfs", oid)))
        return lambda files: _place(files, path, large)
    if key == "deletedFile":
        return lambda files: _remove(files, path, [path])
    if key == "deletedFolder":
        folder = path.rstrip("/") + "/"
        return lambda files: _remove(files, path, [name for name in files if name.startswith(folder)])
    raise HubError(400, f"Unknown operation: {key}")


def _content(value: dict[str, str]) -> bytes:
    if value.get("encoding") != "base64":
        return value["content"].encode()
    try:
        return base64.b64decode(value["content"], validate=True)
    except binascii.Error as error:
        raise HubError(400, f"The content of {value['path']} is not base64") from error


def _place(files: dict[str, Entry], path: str, entry: Entry) -> None:
    parents = path.split("/")[:-1]
    if any("/".join(parents[: i + 1]) in files for i in range(len(parents))) or any(
        f.startswith(f"{path}/") for f in files
    ):
        raise HubError(400, f"{path} is both a file and a folder")
    files[path] = entry


def _remove(files: dict[str, Entry], path: str, names: list[str]) -> None:
    if not names or any(name not in files for name in names):
        raise HubError(404, f"A file or folder named {path} does not exist", "EntryNotFound")
    for name in names:
        del files[name]


def resolve(hub: Hub, request: Request) -> Reply:
    repo = hub.readable(request)
    commit, path = repo.resolve(request.args["rev"]), request.args["path"]
    account = request.account
    if repo.gated and (account is None or repo.namespace not in account.namespaces):
        raise HubError(403, f"Access to {repo.kind} {repo.id} is restricted", "GatedRepo")
    entry = commit.files.get(path)
    if entry is None:
        raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    headers = {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{entry.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
    }
    if entry.sha256:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    content = hub.store.read(entry)
    if request.method == "HEAD":
        return Reply(200, content, headers)
    return _ranged(content, request.headers.get("Range"), headers)


def _ranged(content: bytes, asked: str | None, headers: dict[str, str]) -> Reply:
    """The whole content, or the one byte range asked for (206), or 416."""
    found = RANGE.fullmatch(asked.strip()) if asked else None
    if found is None or found.groups() == ("", ""):
        return Reply(200, content, headers)
    size = len(content)
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start >= size or end < start:
        raise HubError(416, "The requested range is not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return Reply(206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{size}"})
