"""Data from a policy that a server runs: what is written of it, what stays fresh, and what cannot be had."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import Answer, Body, ChatServer, choices, running
from real_configs import SEEDS, config_on

from builders.grace_kto.settings import GraceKTOSettings
from scorers.errors import UserError
from training.pipelines import build, evaluate_policies

TAGGED = "<summary>A pier.</summary><outline>One.</outline><answer>Text number {} of the pier.</answer>"


def answer(body: Body) -> Answer:
    """A list of new queries to a prompt that shows seeds, else tagged texts."""
    asked = body["messages"][-1]["content"]
    if SEEDS[0] in asked or SEEDS[1] in asked or SEEDS[2] in asked:
        return 200, choices(str([f"Please write a letter about pier {body['seed'] % 1000} and {n}." for n in range(4)]))
    return 200, choices(*(TAGGED.format(n) for n in range(body.get("n", 1))))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running(ChatServer(answer)) as made:
        yield made


def config_for(server: ChatServer, folder: Path, base: Path, *overrides: str) -> GraceKTOSettings:
    return config_on(
        folder,
        f"models.base={base}",
        "models.policy=writer",
        f"engines.policy={{kind: openai, base_url: {server.url}, key_variable: OUR_KEY, retries: 0}}",
        "generate={queries: 4, prompt: generate.en, near_duplicate_threshold: null, shard_queries: 1}",
        "sample={responses: 3, shard_queries: 1}",
        *overrides,
    )


def test_queries_and_responses_from_a_server(
    server: ChatServer, tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", "sk-secret")
    config = config_for(server, tmp_path, causal_lm_dir)
    groups = build(config, "sample")[-1].revision
    rows = groups.scan().collect()
    assert rows.height == 12 and rows["matched"].all() and rows["logprob"].null_count() == 12
    (policy,) = rows["policy"].unique()
    assert policy.startswith("writer@served-") and set(server.keys) == {"Bearer sk-secret"}
    # Three responses to a query are one request.
    assert sorted(body.get("n", 1) for body in server.asked)[-4:] == [3] * 4
    written = [file.read_text() for file in groups.path.glob("*") if file.suffix in (".md", ".json")]
    assert len(written) == 2
    for text in written:
        assert "writer" in text and "127.0.0.1" not in text and "sk-secret" not in text and "OUR_KEY" not in text
    # Another address of the same model is no other policy; another model under the name is.
    asked = len(server.asked)
    assert not build(config_for(server, tmp_path, causal_lm_dir, "engines.policy.concurrency=3"), "sample")[-1].built
    assert len(server.asked) == asked and server.models is not None
    server.models[0]["root"] = "newer"
    assert {made.stage: made.reason for made in build(config, "sample")}["generate"] == "model changed: policy"


def test_a_served_policy_cannot_be_trained(server: ChatServer, tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_for(server, tmp_path, causal_lm_dir)
    message = "training the policy needs the model itself, and engines.policy.kind is openai, a server; set"
    with pytest.raises(UserError, match=message):
        build(config, "policy")
    assert server.asked == []  # told before anything is asked


def test_a_served_policy_is_not_evaluated(server: ChatServer, tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_for(server, tmp_path, causal_lm_dir)
    with pytest.raises(UserError, match=r"evaluate needs the model itself, and engines\.policy\.kind is openai"):
        evaluate_policies(config, [], tmp_path / "out")
    assert server.asked == [] and not (tmp_path / "out").exists()


def test_what_needs_files_names_the_server(server: ChatServer, tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_for(server, tmp_path, causal_lm_dir, "models.general=writer")
    message = r"models.general needs the files of model writer, which a server runs \(engines.policy.kind is openai\)"
    with pytest.raises(UserError, match=message):
        build(config, "score")
    assert server.asked == [] and not list((tmp_path / "store").glob("models--*"))  # told before anything is made


def test_a_model_that_the_server_lacks_is_told_before_anything_is_built(
    server: ChatServer, tmp_path: Path, causal_lm_dir: Path
) -> None:
    config = config_for(server, tmp_path, causal_lm_dir, "models.policy=writr")
    with pytest.raises(UserError, match=r"the server has no model writr, did you mean writer\?"):
        build(config, "sample")
    assert not list((tmp_path / "store").glob("datasets--*"))
