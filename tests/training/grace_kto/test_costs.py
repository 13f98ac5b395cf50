"""`grace plan` on the presets, from hand-computed numbers, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from builders.core.costs import CostPlan
from builders.settings.load import preset_names
from scorers.errors import UserError
from training.cli import app
from training.pipelines import load_config, plan_costs

GIB = 2**30
VLLM_SCORES = ("score.engine=vllm",)


def planned(preset: str, folder: Path, *overrides: str) -> CostPlan:
    return plan_costs(load_config(preset, overrides, str(folder / "store")))


def value(plan: CostPlan, section: str, part: str) -> float:
    [found] = [cost.value for cost in plan.costs if (cost.section, cost.part) == (section, part)]
    return found


@pytest.mark.parametrize("preset", [name for name in preset_names() if load_config(name).pipeline == "grace-kto"])
def test_every_preset_has_a_plan(preset: str, tmp_path: Path) -> None:
    plan = planned(preset, tmp_path)
    sections = {cost.section for cost in plan.costs}
    assert {"memory: train", "memory: sampling", "memory: score", "tokens", "disk", "hours"} <= sections
    assert all(cost.value > 0 and cost.formula for cost in plan.costs)
    assert value(plan, "hours", "all") == pytest.approx(
        sum(c.value for c in plan.costs if c.section == "hours" and c.part not in ("all", "GPU-hours"))
    )
    assert not (tmp_path / "store").exists()


def test_the_papers_node_by_hand(tmp_path: Path) -> None:
    plan = planned("paper-72b", tmp_path)
    total, linear = 72_706_203_648, 80 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 29568)
    nf4 = 0.5 + 1 / 64 + 4 / (64 * 256)
    assert value(plan, "memory: train", "frozen weights") == pytest.approx(linear * nf4 + (total - linear) * 2)
    adapter = 80 * 64 * (2 * 2 * 8192 + 2 * (8192 + 1024) + 3 * (8192 + 29568))
    assert value(plan, "parameters: Qwen/Qwen2.5-72B-Instruct", "adapter of train") == adapter
    assert value(plan, "memory: sft", "trained weights") == total * 2 / 8
    # 2 (keys, values) × 80 layers × 8 heads × 128 × 2 bytes a token, over all of the window, shared by 8 GPUs.
    [cache] = [c.formula for c in plan.costs if (c.section, c.part) == ("memory: sampling", "KV cache")]
    assert "328 kB" in cache and 2 * 80 * 8 * 128 * 2 == 327_680
    assert value(plan, "tokens", "responses") == 4 * 250 * 8 * 12_288 / 2
    assert value(plan, "hours", "GPU-hours") == pytest.approx(8 * value(plan, "hours", "all"))
    for section in ("train", "sft", "sampling", "score"):
        assert value(plan, f"memory: {section}", "peak") < 78 * GIB


def test_a_smaller_share_of_the_longest_response_takes_fewer_hours(tmp_path: Path) -> None:
    half, tenth = (planned("qwen2.5-7b", tmp_path, f"plan.response_share={share}") for share in (0.5, 0.1))
    assert value(half, "tokens", "responses") == pytest.approx(5 * value(tenth, "tokens", "responses"))
    assert value(half, "hours", "all") > 3 * value(tenth, "hours", "all")
    assert value(half, "memory: train", "peak") == value(tenth, "memory: train", "peak")


def test_a_teacher_by_hand(tmp_path: Path) -> None:
    teacher = ("models.teacher=Qwen/Qwen2.5-7B", "engines.teacher.kind=vllm")
    plain, plan = planned("qwen2.5-7b", tmp_path), planned("qwen2.5-7b", tmp_path, *teacher)
    document = 16_384 / 2
    assert value(plan, "tokens", "documents read by the teacher") == 1000 * (100 + 128 + document)
    assert value(plan, "tokens", "summaries and outlines") == pytest.approx(1000 * 0.2 * document)
    assert value(plan, "memory: format", "weights") == 7_615_616_512 * 2
    assert value(plan, "hours", "all") == pytest.approx(value(plain, "hours", "all") + value(plan, "hours", "format"))
    # A server's model takes nothing here, but its tokens cost.
    served = planned(
        "qwen2.5-7b", tmp_path, "models.teacher=gpt", "engines.teacher={kind: openai, context_window: 9000}"
    )
    assert value(served, "tokens", "summaries and outlines") == value(plan, "tokens", "summaries and outlines")
    assert value(served, "hours", "all") == value(plain, "hours", "all")
    # Nobody reads what a teacher writes where the first policy is a model of the user's.
    unread = planned("qwen2.5-7b", tmp_path, *teacher, "models.policy=Qwen/Qwen2.5-7B")
    assert "memory: format" not in {cost.section for cost in unread.costs}


def test_ratings_by_hand(tmp_path: Path) -> None:
    judge = "engines.judge={kind: vllm, context: {window: 9000}}"
    rated = ("score.rubric=true", "models.criteria=gpt", "engines.criteria={kind: openai, context_window: 9000}", judge)
    plain = planned("qwen2.5-7b", tmp_path)
    plan = planned("qwen2.5-7b", tmp_path, *rated, "models.judge=Qwen/Qwen2.5-7B", "rate.repeats=2")
    queries, responses, document = 4 * 250, 4 * 250 * 8, 16_384 / 2
    assert value(plan, "tokens", "read for criteria") == queries * (250 + 128)
    assert value(plan, "tokens", "criteria written") == queries * 5 * 150
    assert value(plan, "tokens", "read for ratings") == responses * 5 * 2 * (250 + 128 + document + 150)
    assert value(plan, "tokens", "ratings written") == responses * 5 * 2 * 80
    assert value(plan, "memory: rate", "weights") == 7_615_616_512 * 2
    # The criteria come from a server, so that they take no hours here.
    assert value(plan, "hours", "all") == pytest.approx(value(plain, "hours", "all") + value(plan, "hours", "rate"))
    with pytest.raises(UserError, match=r"score.rubric needs models.judge, the model that rates"):
        planned("qwen2.5-7b", tmp_path, *rated)


def test_workers_and_processes_share_the_work_of_their_parts(tmp_path: Path) -> None:
    node = "plan.gpus=4"
    alone, workers, processes = (
        planned("qwen2.5-7b", tmp_path, node, *more) for more in ((), ("executor.workers=4",), ("nproc=4",))
    )
    for stage in ("sample", "score"):
        assert value(workers, "hours", stage) == pytest.approx(value(alone, "hours", stage) / 4, rel=0.01)
        assert value(processes, "hours", stage) == value(alone, "hours", stage)
    assert value(workers, "hours", "train") == value(alone, "hours", "train")
    assert value(processes, "hours", "train") == pytest.approx(value(alone, "hours", "train") / 4, rel=0.02)
    assert "Trainings run in 4 processes (nproc), shards are built by 1 (executor.workers)." in processes.assumptions


def test_perplexity_by_vllm_takes_its_share(tmp_path: Path) -> None:
    # Both shares are held whole; the batch of one model at a time comes on top.
    plain, plan = (planned("qwen2.5-7b", tmp_path, "score.memory_share=0.4", *more) for more in ((), VLLM_SCORES))
    assert value(plan, "memory: score, general", "held") == pytest.approx(0.4 * 78 * GIB)
    relevance = value(plan, "memory: score, relevance", "weights"), value(plan, "memory: score, relevance", "a batch")
    logits = 2 * 4 * 1024 * 152_064
    expected = 2 * 0.4 * 78 * GIB + relevance[0] + max(logits, relevance[1]) + 1.5 * GIB
    assert value(plan, "memory: score", "peak") == pytest.approx(expected)
    assert value(plan, "memory: score", "peak") > value(plain, "memory: score", "peak")


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        (
            "paper-72b",
            ("sample.max_new_tokens=24576",),
            r"train: qlora of Qwen/Qwen2\.5-72B-Instruct needs 9\d\.\d GiB of one h100, which has 78\.0 GiB; with "
            r"train\.method=lora train\.deepspeed=zero3 it needs \d\d\.\d GiB",
        ),
        (
            "qwen2.5-7b",
            ("plan.gpu=a10", "train.gradient_checkpointing=false"),
            r"train\.gradient_checkpointing=true it",
        ),
        ("qwen2.5-7b", ("plan.gpu=rtx-4090", "train.method=full"), r"train\.method=qlora it needs"),
        ("paper-72b", ("plan.gpus=4",), r"is spread over 8 GPUs, and there are 4; set tensor_parallel"),
        ("paper-72b", ("engines.policy.tensor_parallel=1",), r"with engines\.policy\.tensor_parallel=[248] it needs"),
        ("paper-72b", ("nproc=1",), r"with train\.deepspeed=zero2 nproc=2 it needs 7\d\.\d GiB"),
        ("paper-72b", ("nproc=3",), r"sft\.batch_size 8 is not a multiple of .* 3 processes"),
        (
            "qwen2.5-7b",
            ("nproc=2",),
            r"train: qlora .* runs in 2 processes \(nproc\), one on each GPU, and plan\.gpus is 1",
        ),
        (
            "qwen2.5-7b",
            ("models.teacher=Qwen/Qwen2.5-72B-Instruct", "engines.teacher.kind=vllm"),
            r"engines\.teacher: sampling with Qwen/Qwen2\.5-72B-Instruct needs 148\.\d GiB of one h100",
        ),
        (
            "qwen2.5-7b",
            (*VLLM_SCORES, "score.memory_share=0.1"),
            r"weights of models\.general Qwen/Qwen2\.5-7B have 14\.2 GiB, and vLLM's share of one h100 is 7\.8 GiB "
            r"\(score\.memory_share 0\.1\); take score\.memory_share=0\.24",
        ),
        ("qwen2.5-7b", ("plan.gpu=h10",), r"plan\.gpu h10: not in the table of GPUs, did you mean h100\?"),
        ("qwen2.5-7b", ("models.base=alice/none",), r"model alice/none: no config\.json of it is here"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(
    preset: str, overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        planned(preset, tmp_path, *overrides)


def test_the_command_prints_tables_or_json(tmp_path: Path) -> None:
    run = CliRunner()
    args = ["plan", "--config", "qwen2.5-7b", "--gpu", "a100-80gb", "--store", str(tmp_path / "store")]
    done = run.invoke(app, args)
    assert done.exit_code == 0, done.output
    assert "qwen2.5-7b on 1 × a100-80gb" in done.stdout and "memory: train" in done.stdout
    assert re.search(r"the table of known\s+models", done.stdout)
    found: dict[str, Any] = json.loads(run.invoke(app, [*args, "--json"]).stdout.splitlines()[-1])
    assert list(found) == ["name", "machine", "assumptions", "sections"]
    assert found["sections"]["parameters: Qwen/Qwen2.5-7B"]["all"]["value"] == 7_615_616_512
    refused = run.invoke(app, [*args, "--set", "plan.gpu_memory=10"])
    assert (refused.exit_code, refused.stdout) == (2, "") and refused.stderr.count("\n") == 1
