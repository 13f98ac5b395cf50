"""Two processes that publish different rounds to one repository at the same moment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_clients import TOKEN, environment
from hub_server import RemoteHub
from huggingface_hub import HfApi
from store_chains import add_dataset

from builders.store.store import Revision, Store, round_tag

ROUNDS = 20
PUBLISH = """
import json
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from store_chains import config_for
from builders.hub.publish import publish
from builders.store.store import Store
from training.pipelines import page_of
store, first = Store(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for round_ in range(first, 2 * int(sys.argv[3]) + 1, 2):
    revision = store.find("local/demo-queries", f"round-{round_:03d}")
    print(json.dumps(publish(revision, config_for(store), page_of)["revision"]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "default"])
def test_no_update_is_lost(remote: RemoteHub, tmp_path: Path, xet: bool) -> None:
    store = Store(tmp_path / "store")
    made = {round_: add_dataset(store, "generate", round_=round_) for round_ in range(1, 2 * ROUNDS + 1)}
    remote.faults.add("commit", "delay", times=1000, seconds=0.02)  # so that both often stand on one head
    support = str(Path(__file__).parents[2] / "support")
    running = []
    for first in (1, 2):
        command = [sys.executable, "-c", PUBLISH, str(store.root), str(first), str(ROUNDS), support]
        variables = environment(remote.endpoint, tmp_path / f"home-{first}", xet)
        running.append(
            subprocess.Popen(command, env=variables, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    reported = [[json.loads(line) for line in process.communicate(timeout=240)[0].splitlines()] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    api = HfApi(endpoint=remote.endpoint, token=TOKEN)
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs("alice/demo-queries", repo_type="dataset").tags}
    assert tags == {round_tag(r): reported[(r - 1) % 2][(r - 1) // 2] for r in made}
    for round_, revision in made.items():
        assert data_on_hub(api, tags[round_tag(round_)]) == data_of(revision)
    commits = api.list_repo_commits("alice/demo-queries", repo_type="dataset")
    assert len(commits) == 2 * ROUNDS + 1 and len({commit.title for commit in commits}) == 2 * ROUNDS + 1
    assert any(entry.status == 412 for entry in remote.log.of("commit"))


def data_on_hub(api: HfApi, commit: str) -> dict[str, str]:
    rows = api.list_repo_tree("alice/demo-queries", "data", revision=commit, repo_type="dataset")
    return {row.path: row.lfs.sha256 for row in rows if hasattr(row, "lfs") and row.lfs}


def data_of(revision: Revision) -> dict[str, str]:
    assert revision.manifest is not None
    return {file.path: file.sha256 for file in revision.manifest.files}
