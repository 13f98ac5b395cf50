"""Graded answers and choices on the Hub: read back, traced to the policy that wrote them."""

import json
import shutil
from pathlib import Path

import pytest
from chat_server import Answer, Body, ChatServer, choices, running
from datasets_factory import add_model
from hub_server import HubServer
from real_configs import config_on

from builders.hub.publish import push
from builders.inspect.lineage import lineage
from builders.inspect.verify import verify
from builders.store.store import Store
from training.pipelines import PIPELINES, evaluate_policies, page_of

SCORES = {"content": 7, "tone": 8, "ideas": 5, "structure": 6, "persuasiveness": 4, "better": "tie"}


def judge(body: Body) -> Answer:
    return 200, choices(json.dumps({"analysis": "Dry.", **SCORES}))


@pytest.mark.slow
def test_published_grades_are_traced_to_their_policy(
    connected: HubServer, tmp_path: Path, causal_lm_dir: Path, bge_m3_dir: Path
) -> None:
    with running(ChatServer(judge)) as server:
        config = config_on(
            tmp_path, "sample.max_new_tokens=5", "score.max_length=256", "models.judge=writer",
            f"engines.judge={{kind: openai, base_url: '{server.url}'}}", "namespace=alice",
            policy=causal_lm_dir, relevance=bge_m3_dir,
        )  # fmt: skip
        store = Store(Path(config.store))
        held = [add_model(store, f"local/tiny-{name}", folder=causal_lm_dir, round_=1) for name in ("policy", "other")]
        for setting, last in (("judge", "evaluations"), ("pairwise", "comparisons")):
            evaluate = config.evaluate.model_copy(update={setting: True})
            own = config.model_copy(update={"evaluate": evaluate})
            names = [revision.repo for revision in held]
            public = evaluate_policies(own, names, tmp_path / "out").public
            found = public["policies"][0] if setting == "judge" else public["pairs"][0]
            pushed = push(found["dataset"], own, page_of)
            assert pushed["repo"].startswith("alice/tiny-tiny-policy") and pushed["repo"].endswith(f"-{last}")
            nodes = lineage(f"{pushed['repo']}@{pushed['revision']}", Store(tmp_path / "empty"))
            assert {last, "answers", "policy"} <= {node.stage for node in nodes}
            policies = [node for node in nodes if node.stage == "policy"]
            assert {node.repo for node in policies} <= {"alice/tiny-policy", "alice/tiny-other"}
            shutil.rmtree(tmp_path / "empty", ignore_errors=True)
            repo, _, commit = found["dataset"].partition("@")
            revision = store.find(repo, commit, "dataset")
            assert revision is not None and verify(revision, PIPELINES) == []
