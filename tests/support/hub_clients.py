"""Operations on a test Hub through the real huggingface_hub client, in this process or in a separate one."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

TOKEN = "hf_alice_secret"  # the token of alice in every test Hub
BIG = random.Random(0).randbytes(30_000)


def push(api: HfApi, repo: str, files: dict[str, bytes], parent: str | None = None, branch: str = "main") -> str:
    """One commit with these files; its 40-hex id."""
    adds = [CommitOperationAdd(path, io.BytesIO(content)) for path, content in files.items()]
    made = api.create_commit(
        repo, adds, commit_message="push", repo_type="dataset", parent_commit=parent, revision=branch
    )
    return str(made.oid)


def fetch(api: HfApi, repo: str, path: str, cache: Path, revision: str | None = None) -> bytes:
    found = api.hf_hub_download(repo, path, repo_type="dataset", revision=revision, cache_dir=cache)
    return Path(found).read_bytes()


def head(api: HfApi, repo: str, revision: str | None = None) -> str:
    return str(api.dataset_info(repo, revision=revision).sha)


def environment(endpoint: str, home: Path, xet: bool, token: str = TOKEN) -> dict[str, str]:
    """The variables of a client process; nothing of this process's Hub settings is left."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    fixed = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": token, "NO_PROXY": "127.0.0.1"}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return kept | fixed | quiet | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})


def client(code: str, variables: dict[str, str], *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
