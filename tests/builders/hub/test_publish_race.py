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

from builders.store.ref import round_tag
from builders.store.revision import Revision
from builders.store.store import Store

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
    # A round that came after a newer one stands beside `main`, which shows the newest.
    assert remote.log.count("commit") - sum(entry.status == 412 for entry in remote.log.of("commit")) == 2 * ROUNDS
    assert data_on_hub(api, "main") == data_of(made[2 * ROUNDS])
    titles = [commit.title for commit in api.list_repo_commits("alice/demo-queries", repo_type="dataset")][:-1]
    assert titles == sorted(set(titles), reverse=True)
    branches = api.list_repo_refs("alice/demo-queries", repo_type="dataset").branches
    assert [branch.name for branch in branches] == ["main"]


def data_on_hub(api: HfApi, commit: str) -> dict[str, str]:
    rows = api.list_repo_tree("alice/demo-queries", "data", revision=commit, repo_type="dataset")
    return {row.path: row.lfs.sha256 for row in rows if hasattr(row, "lfs") and row.lfs}


def data_of(revision: Revision) -> dict[str, str]:
    assert revision.manifest is not None
    return {file.path: file.sha256 for file in revision.manifest.files}


SAME = """
import json
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store_chains import config_for
from builders.hub.publish import publish
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import page_of
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for round_ in range(1, 7):
    revision = store.find("local/demo-queries", f"round-{round_:03d}")
    try:
        print(json.dumps(publish(revision, config_for(store), page_of)["revision"]), flush=True)
    except UserError as error:
        print(json.dumps(str(error)), flush=True)
"""


@pytest.mark.slow
def test_of_two_contents_for_a_round_one_is_published_and_the_other_leaves_nothing(
    remote: RemoteHub, tmp_path: Path
) -> None:
    made = {}
    for text in ("a report", "a poem"):
        store = Store(tmp_path / text)
        made[text] = [add_dataset(store, "generate", round_=r, text=f"Write {text}.") for r in range(1, 7)]
    remote.faults.add("commit", "delay", times=1000, seconds=0.05)
    support = str(Path(__file__).parents[2] / "support")
    running = {
        text: subprocess.Popen(
            [sys.executable, "-c", SAME, str(tmp_path / text), support],
            env=environment(remote.endpoint, tmp_path / f"home of {text}", xet=False),
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for text in made
    }  # fmt: skip
    for process in running.values():
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running.values():
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = {text: [json.loads(x) for x in p.communicate(timeout=240)[0].splitlines()] for text, p in running.items()}
    api = HfApi(endpoint=remote.endpoint, token=TOKEN)
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs("alice/demo-queries", repo_type="dataset").tags}
    for round_ in range(1, 7):
        (winner,) = [text for text in made if len(said[text][round_ - 1]) == 40]
        (other,) = made.keys() - {winner}
        assert said[winner][round_ - 1] == tags[round_tag(round_)]
        assert data_on_hub(api, tags[round_tag(round_)]) == data_of(made[winner][round_ - 1])
        assert f"tag {round_tag(round_)} on" in said[other][round_ - 1]
    commits = [commit.commit_id for commit in api.list_repo_commits("alice/demo-queries", repo_type="dataset")]
    assert set(commits[:-1]) <= set(tags.values()) and commits[0] == tags["round-006"]
