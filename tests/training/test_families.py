"""From plain seeds to a policy with other people's models: two rounds with LoRA or QLoRA, per family."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from families import conversations, make_family, write_seeds

from builders.core.runner import StageResult
from builders.grace_kto.messages import ask_for_queries
from training.pipelines import load_config

pytestmark = pytest.mark.slow

# Asked not to think where the template can be; the other families have no such variable.
TEMPLATE_KWARGS: dict[str, dict[str, Any]] = {"qwen3": {"enable_thinking": False}}


def ask(examples: list[str], count: int) -> str:
    return ask_for_queries(examples, count, prompt="generate.tiny")


def make_base(family: str, folder: Path) -> Path:
    """Make a model of the family that was taught to write documents and lists of queries."""
    from builders.settings.sft import SFTSettings
    from training.sft.finetune import run_sft

    rows = conversations(ask)
    texts = [message["content"] for row in rows for part in ("prompt", "completion") for message in row[part]]
    random = make_family(folder / "random", family, texts)
    settings = SFTSettings.model_validate(
        {"steps": 350, "batch_size": 16, "learning_rate": 5e-3, "prompt_loss_weight": 0.1}
    )
    run_sft(
        base=random,
        output=folder / "base",
        conversations=rows,
        settings=settings,
        template_kwargs=TEMPLATE_KWARGS.get(family, {}),
    )
    return folder / "base"


def configuration(family: str, base: Path, bge_m3: Path, folder: Path, method: str) -> Path:
    """A configuration file as a user writes it, for two rounds."""
    seeds = write_seeds(folder / "seeds.jsonl")
    settings = {
        "pipeline": "grace-kto",
        "name": family,
        "threads": 1,
        "models": {"base": str(base), "general": str(base), "domain": str(base), "relevance": str(bge_m3)},
        "engines": {"policy": {"kind": "transformers", "chat_template_kwargs": TEMPLATE_KWARGS.get(family, {})}},
        "seed": {"source": str(seeds), "columns": {"query": "request", "reference": "text"}},
        "generate": {
            "queries": 4, "examples": 2, "per_prompt": 2, "prompt": "generate.tiny", "max_new_tokens": 60,
            "near_duplicate_threshold": None,
        },
        "sample": {"responses": 4, "system_prompt": None, "max_new_tokens": 80},
        "score": {"max_length": 256},
        "sft": {"steps": 20, "batch_size": 8, "learning_rate": 1e-3},
        "train": {
            "method": method, "batch_size": 8, "device_batch_size": 8, "lora_rank": 4, "learning_rate": 1e-3,
        },
        "loop": {"rounds": 2},
        "evaluate": {"source": str(seeds)},
    }  # fmt: skip
    path = folder / "grace.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("family", "method"), [("llama", "lora"), ("qwen3", "qlora"), ("gemma3", "lora"), ("mistral", "qlora")]
)
def test_two_rounds_from_seeds_to_a_policy(family: str, method: str, bge_m3_dir: Path, tmp_path: Path) -> None:
    from training.loop import run_loop

    base = make_base(family, tmp_path)
    path = configuration(family, base, bge_m3_dir, tmp_path, method)
    results = run_loop(load_config(str(path), store=str(tmp_path / "store")))
    assert [(r.stage, r.round) for r in results if r.stage == "policy"] == [("policy", 1), ("policy", 2)]
    weights = [r.revision.scan().collect() for r in results if r.stage == "calibrate"]
    assert [frame.height for frame in weights] == [16, 16]
    matched = pl.concat(weights)["matched"]
    assert matched.mean() > 0.5, f"{family}: the policy has not learned the tagged form"  # type: ignore[operator]
    first, second = (r.revision for r in results if r.stage == "policy")
    assert first.digest != second.digest
    # The second round was sampled by the first round's policy, adapter and all.
    assert weights[1]["policy"].unique().to_list() == [str(first)]


def test_vllm_loads_the_base_once_for_all_rounds(
    bge_m3_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts and policies are those of engines loaded anew; training runs beside the kept model."""
    from builders.engines import kept_models
    from builders.engines.vllm_engine import import_vllm
    from training.loop import run_loop

    vllm = import_vllm("cpu")
    loaded: list[dict[str, Any]] = []

    class Counted(vllm.LLM):  # type: ignore[misc, name-defined]
        def __init__(self, **arguments: Any) -> None:
            loaded.append(arguments)
            super().__init__(**arguments)

    monkeypatch.setattr(vllm, "LLM", Counted)
    base = make_base("llama", tmp_path)
    path = configuration("llama", base, bge_m3_dir, tmp_path, "lora")
    options = [
        "engines.policy.kind=vllm", "engines.policy.device=cpu", f"models.policy={base}",
        "evaluate.column=request", "evaluate.split=train", "loop.min_matched=0", "loop.max_cut=1",
    ]  # fmt: skip

    def looped(name: str, *more: str) -> list[StageResult]:
        loaded.clear()
        return run_loop(load_config(str(path), [*options, *more], store=str(tmp_path / name)))

    # What the policies answer to held-out queries counts too.
    kept = looped("kept", "engines.policy.sleep=true", "loop.held_out=2")
    assert [(arguments["enable_lora"], arguments["max_lora_rank"]) for arguments in loaded] == [(True, 8)]
    assert kept_models._kept is None, "the end of the loop frees it"
    anew = looped("anew", "loop.held_out=0")
    assert len(loaded) == 2, "in every round"
    # A row names the revision of its policy, which is that of its settings too.
    for stage in ("generate", "sample"):
        found, expected = (
            [r.revision.scan().drop("generator", "policy", strict=False).collect() for r in run if r.stage == stage]
            for run in (kept, anew)
        )
        assert all(one.equals(other) for one, other in zip(found, expected, strict=True))
    weights, expected_weights = (
        [(r.revision.path / "adapter_model.safetensors").read_bytes() for r in run if r.stage == "policy"]
        for run in (kept, anew)
    )
    assert weights == expected_weights and len(set(weights)) == 2
