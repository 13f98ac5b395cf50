"""Routes that read and manage repositories: accounts, info, trees, commits, branches, tags, cards."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlencode

from .card import card_data, card_tags, problems
from .gitobjects import Entry
from .http_types import Reply, Request, json_reply
from .hub import Hub
from .store import Commit, HubError, Repo

Row = TypeVar("Row")


def whoami(hub: Hub, request: Request) -> Reply:
    account = request.account
    if account is None:
        raise HubError(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in account.orgs]
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
    return json_reply({"type": "user", "name": account.user, "fullname": account.user, "orgs": orgs, "auth": auth})


def _target(request: Request) -> tuple[str, str]:
    """(kind, id) of the JSON body of create and delete."""
    body = request.json()
    if request.account is None:
        raise HubError(401, "Invalid username or password.")
    namespace = body.get("organization") or request.account.user
    return str(body.get("type") or "model"), f"{namespace}/{body.get('name')}"


def create(hub: Hub, request: Request) -> Reply:
    kind, repo_id = _target(request)
    body = request.json()
    private = body.get("visibility") == "private" or body.get("private") is True
    try:
        repo = hub.store.create(kind, repo_id, private, request.account)
    except HubError as error:
        if error.status != 409:
            raise
        # the client reads the address of the existing repo from the refusal
        existing = hub.store.writable(kind, repo_id, request.account)
        return json_reply({"error": error.message, "url": hub.repo_url(existing)}, 409)
    return json_reply({"url": hub.repo_url(repo), "name": repo.id, "private": repo.private})


def delete(hub: Hub, request: Request) -> Reply:
    hub.store.delete(*_target(request), request.account)
    return json_reply({})


def listing(hub: Hub, request: Request) -> Reply:
    """Repos of one kind the account may see, optionally of one author; not paged."""
    kind, author = request.args["kind"], request.first("author")
    spaces = request.account.namespaces if request.account else ()
    with hub.store.lock:
        repos = [repo for (of, _), repo in sorted(hub.store.repos.items()) if of == kind]
    seen = [repo for repo in repos if not repo.private or repo.namespace in spaces]
    return json_reply([{"id": repo.id, "private": repo.private} for repo in seen if author in ("", repo.namespace)])


def auth_check(hub: Hub, request: Request) -> Reply:
    hub.readable(request)
    return json_reply({})


def info(hub: Hub, request: Request) -> Reply:
    repo = hub.readable(request)
    commit = repo.resolve(request.args.get("rev", "main"))
    full = _info(hub, repo, commit, blobs=request.first("blobs").lower() in ("true", "1"))
    wanted = request.query.get("expand")
    if wanted:
        full = {key: full[key] for key in ("id", *wanted) if key in full}
    return json_reply(full)


def _info(hub: Hub, repo: Repo, commit: Commit, blobs: bool) -> dict[str, object]:
    card = commit.files.get("README.md")
    data = card_data(hub.store.read(card).decode(errors="replace")) if card else None
    return {
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card_tags(data or {}),
        "createdAt": repo.history("main")[-1].date,
        "lastModified": commit.date,
        "cardData": data,
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.files.items())],
    }


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, object]:
    row: dict[str, object] = {"rfilename": path}
    if blobs:
        row |= {"size": entry.size, "blobId": entry.blob_id}
        lfs = entry.lfs()
        if lfs:
            row["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return row


def _row(repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, object]:
    """A file or folder as tree and paths-info give it."""
    entry = commit.files.get(path)
    if entry is None:
        row: dict[str, object] = {"type": "directory", "oid": commit.folders[path], "size": 0, "path": path}
    else:
        row = {"type": "file", "oid": entry.blob_id, "size": entry.size, "path": path}
        lfs = entry.lfs()
        row |= {"lfs": lfs} if lfs else {}
    if expand:
        changed = _last_change(repo, commit, path)
        row["lastCommit"] = {"id": changed.oid, "title": changed.title, "date": changed.date}
    return row


def _last_change(repo: Repo, commit: Commit, path: str) -> Commit:
    found = commit
    for older in repo.history(commit.oid)[1:]:
        same = older.files.get(path) == commit.files.get(path) and older.folders.get(path) == commit.folders.get(path)
        if not same:
            break
        found = older
    return found


def _flag(values: list[str]) -> bool:
    return values[0].lower() in ("true", "1")


def tree(hub: Hub, request: Request) -> Reply:
    repo = hub.readable(request)
    commit = repo.resolve(request.args["rev"])
    folder = request.args.get("path", "").strip("/")
    if folder not in commit.folders:
        raise HubError(404, f"{folder} does not exist on {request.args['rev']}", "EntryNotFound")
    prefix = f"{folder}/" if folder else ""
    paths = sorted(path for path in (*commit.files, *commit.folders) if path and path.startswith(prefix))
    if not _flag(request.query.get("recursive", ["false"])):
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    expand = _flag(request.query.get("expand", ["false"]))
    page, headers = _page(hub, request, paths)
    return json_reply([_row(repo, commit, path, expand) for path in page], headers=headers)


def _page(hub: Hub, request: Request, rows: list[Row]) -> tuple[list[Row], dict[str, str]]:
    """One page of a listing and the Link header to the next."""
    size = min(int(request.first("limit", str(hub.options.page_size))), hub.options.page_size)
    start = int(request.first("cursor", "0"))
    if start + size >= len(rows):
        return rows[start:], {}
    query = {key: values for key, values in request.query.items() if key != "cursor"} | {"cursor": [str(start + size)]}
    link = f"{hub.endpoint}{request.path}?{urlencode(query, doseq=True)}"
    return rows[start : start + size], {"Link": f'<{link}>; rel="next"'}


def paths_info(hub: Hub, request: Request) -> Reply:
    repo = hub.readable(request)
    commit = repo.resolve(request.args["rev"])
    form = request.form()
    paths = [path.strip("/") for path in form.get("paths", [])]
    expand = _flag(form.get("expand", ["false"]))
    known = [path for path in paths if path in commit.files or (path and path in commit.folders)]
    return json_reply([_row(repo, commit, path, expand) for path in known])


def commits(hub: Hub, request: Request) -> Reply:
    repo = hub.readable(request)
    page, headers = _page(hub, request, repo.history(request.args["rev"]))
    rows = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in page
    ]
    return json_reply(rows, headers=headers)


def refs(hub: Hub, request: Request) -> Reply:
    repo = hub.readable(request)
    with repo.lock:
        branches = {name: oid for name, oid in repo.branches.items() if not name.startswith("refs/pr/")}
        pulls = {name: oid for name, oid in repo.branches.items() if name.startswith("refs/pr/")}
        tags = dict(repo.tags)
    reply = {"branches": _refs(branches, "refs/heads/"), "tags": _refs(tags, "refs/tags/"), "converts": []}
    if request.first("include_prs") in ("1", "true"):
        reply["pullRequests"] = _refs(pulls, "")
    return json_reply(reply)


def _refs(refs: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in sorted(refs.items())]


def branch(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    start = repo.resolve(str(request.json().get("startingPoint") or "main"))
    repo.add_ref(repo.branches, request.args["ref"], start.oid)
    return json_reply({})


def branch_delete(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    if request.args["ref"] == "main":
        raise HubError(403, "The default branch cannot be deleted")
    repo.delete_ref(repo.branches, request.args["ref"])
    return json_reply({})


def tag(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    body = request.json()
    target, name = repo.resolve(request.args["rev"]), str(body.get("tag"))
    repo.add_ref(repo.tags, name, target.oid)
    repo.tag_messages[name] = str(body.get("message") or "")
    return json_reply({})


def tag_delete(hub: Hub, request: Request) -> Reply:
    repo = hub.writable(request)
    repo.delete_ref(repo.tags, request.args["ref"])
    return json_reply({})


def validate_yaml(hub: Hub, request: Request) -> Reply:
    errors, warnings = problems(str(request.json().get("content", "")))
    reply = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return json_reply(reply, 400 if errors else 200)
