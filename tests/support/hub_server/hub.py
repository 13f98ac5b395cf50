"""What all routes share: the store, the sizes at which uploads change form, and addresses."""

import threading
from dataclasses import dataclass, field

from .http_types import Request
from .store import Repo, Store

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass(frozen=True)
class Options:
    """Sizes, in bytes unless said otherwise; small values let small tests reach every path."""

    page_size: int = 1000  # rows of a tree or commit listing
    lfs_above: int = 10 * 2**20  # text files larger than this are stored as LFS
    multipart_above: int = 64 * 2**20  # LFS contents larger than this are sent in parts
    part_size: int = 16 * 2**20
    xet: bool = True  # False: 404 for Xet tokens, so that uploads with hf_xet fail


@dataclass(frozen=True)
class Upload:
    """A pending LFS upload, addressed by an unguessable id because the client sends it without its token."""

    repo: Repo
    sha256: str
    size: int


@dataclass
class Hub:
    """One running Hub; `endpoint` is set when its port is known."""

    store: Store
    options: Options = Options()
    endpoint: str = ""
    uploads: dict[str, Upload] = field(default_factory=dict)
    xet_tokens: dict[str, Repo] = field(default_factory=dict)
    xet_proven: set[str] = field(default_factory=set)  # xorbs that gave a file with the right sha256
    xet_chunks: dict[str, bytes] = field(default_factory=dict)  # chunk hash -> records of its xorb
    lock: threading.Lock = field(default_factory=threading.Lock)

    def repo_url(self, repo: Repo) -> str:
        return f"{self.endpoint}/{PREFIX[repo.kind]}{repo.id}"

    def readable(self, request: Request) -> Repo:
        return self.store.readable(request.args["kind"], request.args["id"], request.account)

    def writable(self, request: Request) -> Repo:
        return self.store.writable(request.args["kind"], request.args["id"], request.account)
