"""The table of routes: name (used by faults and the log), method, raw path, handler."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from . import repo_routes, transfer_routes
from .http_types import Reply, Request
from .hub import Hub
from .store import HubError

KIND = r"(?P<kind>models|datasets|spaces)"
ID = r"(?P<id>[^/]+/[^/]+)"
API = f"/api/{KIND}/{ID}"
WEB = f"/(?P<kind>datasets/|spaces/|){ID}"
REV, REF, PATH = r"(?P<rev>[^/]+)", r"(?P<ref>[^/]+)", r"(?P<path>.+)"
KINDS = {
    "models": "model",
    "datasets": "dataset",
    "spaces": "space",
    "datasets/": "dataset",
    "spaces/": "space",
    "": "model",
}


@dataclass(frozen=True)
class Route:
    name: str
    method: str
    pattern: re.Pattern[str]
    handler: Callable[[Hub, Request], Reply]


def _route(name: str, method: str, pattern: str, handler: Callable[[Hub, Request], Reply]) -> Route:
    return Route(name, method, re.compile(pattern), handler)


# Paths are matched before they are unquoted: slashes in revisions arrive quoted, and each part is unquoted alone.
ROUTES = (
    _route("whoami", "GET", "/api/whoami-v2", repo_routes.whoami),
    _route("create", "POST", "/api/repos/create", repo_routes.create),
    _route("delete", "DELETE", "/api/repos/delete", repo_routes.delete),
    _route("validate_yaml", "POST", "/api/validate-yaml", repo_routes.validate_yaml),
    _route("list", "GET", f"/api/{KIND}", repo_routes.listing),
    _route("info", "GET", f"{API}(?:/revision/{REV})?", repo_routes.info),
    _route("auth_check", "GET", f"{API}/auth-check", repo_routes.auth_check),
    _route("tree", "GET", f"{API}/tree/{REV}(?:/{PATH})?", repo_routes.tree),
    _route("paths_info", "POST", f"{API}/paths-info/{REV}", repo_routes.paths_info),
    _route("commits", "GET", f"{API}/commits/{REV}", repo_routes.commits),
    _route("refs", "GET", f"{API}/refs", repo_routes.refs),
    _route("branch", "POST", f"{API}/branch/{REF}", repo_routes.branch),
    _route("branch_delete", "DELETE", f"{API}/branch/{REF}", repo_routes.branch_delete),
    _route("tag", "POST", f"{API}/tag/{REV}", repo_routes.tag),
    _route("tag_delete", "DELETE", f"{API}/tag/{REF}", repo_routes.tag_delete),
    _route("preupload", "POST", f"{API}/preupload/{REV}", transfer_routes.preupload),
    _route("commit", "POST", f"{API}/commit/{REV}", transfer_routes.commit),
    _route("xet_token", "GET", f"{API}/xet-(?P<access>read|write)-token/{REV}", transfer_routes.xet_token),
    _route("xet_xorb", "POST", r"/_xet/v1/xorbs/[^/]+/(?P<hash>[0-9a-f]{64})", transfer_routes.xet_xorb),
    _route("xet_shard", "POST", "/_xet/v1/shards", transfer_routes.xet_shard),
    _route("xet_chunk", "GET", r"/_xet/v1/chunks/[^/]+/(?P<hash>[0-9a-f]{64})", transfer_routes.xet_chunk),
    _route("xet_other", "GET", "/_xet/.*", transfer_routes.xet_other),
    _route("xet_other", "POST", "/(?:_xet/.*|v1/telemetry)", transfer_routes.xet_other),
    _route("lfs_batch", "POST", f"{WEB}\\.git/info/lfs/objects/batch", transfer_routes.lfs_batch),
    _route("lfs_put", "PUT", "/_lfs/(?P<oid>[0-9a-f]{64})", transfer_routes.lfs_put),
    _route("lfs_part", "PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", transfer_routes.lfs_part),
    _route("lfs_complete", "POST", "/_lfs/(?P<oid>[0-9a-f]{64})", transfer_routes.lfs_complete),
    _route("resolve_head", "HEAD", f"{WEB}/resolve/{REV}/{PATH}", transfer_routes.resolve),
    _route("resolve_get", "GET", f"{WEB}/resolve/{REV}/{PATH}", transfer_routes.resolve),
)
NAMES = tuple(dict.fromkeys(route.name for route in ROUTES))


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a raw path and the unquoted parts of the path."""
    for route in ROUTES:
        match = route.pattern.fullmatch(path) if route.method == method else None
        if match:
            args = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
            if "kind" in args:
                args["kind"] = KINDS[args["kind"]]
            return route, args
    return None


def unknown(method: str, path: str) -> HubError:
    """What to answer where no route matches; below /api/KIND/ the client expects a missing repo."""
    code = "RepoNotFound" if re.match(f"/api/{KIND}/", path) else None
    return HubError(404, f"No route for {method} {path}", code)
