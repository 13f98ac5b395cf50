"""The engine openai against vLLM's own server on the CPU: the same answers as the model in this process."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.engines import Message, SamplingSettings, load_engine
from builders.engines.openai_engine import OpenAIEngine, describe_model
from builders.engines.vllm_engine import CPU_ENVIRONMENT, ENVIRONMENT
from builders.settings.engines import OpenAIEngineSettings

pytestmark = pytest.mark.slow
TEXTS = ("trade " * 9, "a", "harbour", "a", "river trade " * 6, "prices")
PROMPTS: list[list[Message]] = [[{"role": "user", "content": text}] for text in TEXTS]
PATTERN = r'\["[a-z]{2,8}"(, "[a-z]{2,8}")?\]'
SECONDS = 240  # until the server has to answer


@pytest.fixture(scope="module")
def url(model_dir: Path) -> Iterator[str]:
    """The address of a server of the tiny model, which is called writer there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)),
            *("--served-model-name", "writer", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
            *("--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "16", "--generation-config", "vllm"),
        ],
        env={**os.environ, **ENVIRONMENT, **CPU_ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        began = time.monotonic()
        while time.monotonic() < began + SECONDS and server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its engine is a process of its own
        server.wait()


def test_a_real_server_gives_what_the_model_gives(url: str, model_dir: Path) -> None:
    settings = OpenAIEngineSettings(base_url=url, logprobs=True, retries=0)
    record, window = describe_model("writer", settings, "engines.policy")
    assert record.id == "writer" and window == 512
    engine = OpenAIEngine("writer", settings, window, "engines.policy")
    greedy = engine.generate(PROMPTS, range(6), SamplingSettings(24, temperature=0.0))
    group = engine.generate([PROMPTS[0]] * 4, range(4), SamplingSettings(20))
    again = engine.generate([PROMPTS[0]] * 4, range(4), SamplingSettings(20))
    engine.close()
    expected = load_engine("transformers", str(model_dir), device="cpu").generate(
        PROMPTS, range(6), SamplingSettings(24, temperature=0.0)
    )
    for ours, other in zip(greedy, expected, strict=True):
        assert (ours.finish_reason, ours.num_tokens) == (other.finish_reason, other.num_tokens)
        # The server holds back what follows the bytes of a broken character, of which a random model writes many.
        assert ours.text and other.text.startswith(ours.text.rstrip("\ufffd"))
        assert ours.logprob == pytest.approx(other.logprob, abs=1e-3)
    assert len({completion.text for completion in group}) == 4  # the choices of one request differ
    assert [completion.text for completion in again] == [completion.text for completion in group]


def test_a_real_server_holds_replies_to_a_pattern(url: str) -> None:
    settings = OpenAIEngineSettings(base_url=url, retries=0)
    _, window = describe_model("writer", settings, "engines.policy")
    engine = OpenAIEngine("writer", settings, window, "engines.policy")
    free = engine.generate(PROMPTS, range(6), SamplingSettings(40))
    held = engine.generate(PROMPTS, range(6), SamplingSettings(40, pattern=PATTERN))
    engine.close()
    assert not any(re.fullmatch(PATTERN, completion.text) for completion in free)
    assert all(re.fullmatch(PATTERN, completion.text) for completion in held)
    assert {completion.finish_reason for completion in held} == {"stop"}


def test_a_real_server_grades_answers(url: str, tmp_path: Path) -> None:
    """A judge that writes at random: every guided reply is read, and free ones are unscored."""
    import polars as pl

    from scorers.judgement import CRITERIA
    from training.pipelines import build, load_config

    rows = {name: ["a", "b"] for name in ("query_id", "query", "response_id", "response", "document", "policy")}
    (tmp_path / "answers").mkdir()
    pl.DataFrame(rows).write_parquet(tmp_path / "answers" / "rows.parquet")
    for guided, graded in (("true", True), ("false", False)):
        config = load_config(
            "tiny",
            [
                *(
                    "models.judge=writer",
                    f"engines.judge={{kind: openai, base_url: '{url}'}}",
                    "judge.prompt=judge.tiny",
                ),
                *("judge.max_new_tokens=300", f"judge.guided={guided}", "judge.attempts=8", "judge.temperature=1.0"),
            ],
            str(tmp_path / "store"),
        )
        frame = build(config, "evaluations", start=str(tmp_path / "answers"))[-1].revision.scan().collect()
        found = frame.select(*CRITERIA, "judge_score").drop_nulls()
        assert found.height == (2 if graded else 0)
        assert all(1 <= score <= 10 for row in found.select(*CRITERIA).iter_rows() for score in row)
