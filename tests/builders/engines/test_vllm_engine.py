"""The vLLM engine, real vLLM on the CPU, against the transformers engine on the same tiny model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from families import make_family
from tiny_models import CORPUS

from builders.core.query_parser import list_pattern, read_queries
from builders.engines import Batch, Completion, Engine, Message, More, SamplingSettings, load_engine
from builders.engines.kept_models import close_kept
from builders.engines.vllm_engine import CPU_ENVIRONMENT, ENVIRONMENT, import_vllm, lora_rank
from scorers.context import stretch
from scorers.errors import UserError
from scorers.extraction import PLAN_PATTERN, extract_plan

pytestmark = pytest.mark.slow

GREEDY = SamplingSettings(24, temperature=0.0)
SAMPLED = SamplingSettings(60)
PENALISED = SamplingSettings(24, temperature=0.0, presence_penalty=1.5)
FIRST = SamplingSettings(24, top_k=1)
STOPPED = SamplingSettings(24, temperature=0.0, stop=("ck", "e "))
NARROW = SamplingSettings(30, temperature=0.7, top_p=0.8)
PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": text}] for text in ("trade " * 9, "a", "harbour", "a", "river trade " * 6, "prices")
]
SEEDS = [2**63 + 5, 1, 2, 3, 4, 2**70]
LONG: list[list[Message]] = [[{"role": "user", "content": "river trade " * 238}]] * 64  # 490 tokens each and more
BEYOND: list[list[Message]] = [
    [{"role": "user", "content": text}] for text in ("river trade " * 350, "the harbour " * 280)
]
STRETCHED: list[list[Message]] = [[{"role": "user", "content": "river trade " * 250}]]


@pytest.fixture(scope="module")
def adapter_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(model_dir, tmp_path_factory.mktemp("adapter"), seed=3)


def make_adapter(model_dir: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter with random weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """Take back what the engine sets for vLLM."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*ENVIRONMENT, *CPU_ENVIRONMENT):
            patch.delenv(name, raising=False)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")  # the user's own choice
        yield


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Engine:
    return load_engine("transformers", str(model_dir), device="cpu")


Steps = dict[str, int]
"""Decoding steps, by what was asked."""


@pytest.fixture(scope="module")
def asked(model_dir: Path, environment: None) -> tuple[dict[str, list[Completion]], Steps]:
    """Everything asked of one loaded engine, which is then closed: vLLM runs one model at a time in a process."""
    engine = load_engine("vllm", str(model_dir), device="cpu", batch_size=8)
    results = {
        "greedy": engine.generate(PROMPTS, SEEDS, GREEDY),
        "sampled": engine.generate(PROMPTS, SEEDS, SAMPLED),
        "again": engine.generate(PROMPTS, SEEDS, SAMPLED),
        "turned": engine.generate(PROMPTS[::-1], SEEDS[::-1], SAMPLED)[::-1],
        "other seeds": engine.generate(PROMPTS, [seed + 1 for seed in SEEDS], SAMPLED),
        "many": engine.generate(PROMPTS * 6, range(36), SAMPLED),
        "narrow": engine.generate(PROMPTS, SEEDS, NARROW),
        "none": engine.generate([], [], SAMPLED),
        "streamed": streamed(engine),
        "penalised": engine.generate(PROMPTS, SEEDS, PENALISED),
        "first": engine.generate(PROMPTS, SEEDS, FIRST),
        "stopped": engine.generate(PROMPTS, SEEDS, STOPPED),
        "long": engine.generate(LONG, range(64), SamplingSettings(4)),
    }
    steps = {
        "one call": count_steps(engine, lambda: engine.generate(PROMPTS * 8, range(48), SAMPLED)),
        "a stream": count_steps(engine, lambda: list(engine.stream(more_of(many_small())))),
        "dropped": count_steps(engine, lambda: next(engine.stream(more_of(many_small())))),
    }
    results["after a dropped stream"] = engine.generate(PROMPTS, SEEDS, SAMPLED)
    with pytest.raises(UserError, match=r"^prompt of row 0: \d+ tokens \+ max_new_tokens 60 exceed the context window"):
        engine.generate(STRETCHED, [1], SAMPLED)
    engine.close()
    return results, steps


@pytest.fixture(scope="module")
def answers(asked: tuple[dict[str, list[Completion]], Steps]) -> dict[str, list[Completion]]:
    return asked[0]


def more_of(batches: list[Batch]) -> More:
    """Hand out batches, each under its number."""
    numbered = iter(enumerate(batches))
    return lambda: next(numbered, None)


def many_small() -> list[Batch]:
    """The 48 prompts of one call in batches of two."""
    return [Batch((PROMPTS * 8)[at : at + 2], range(at, at + 2), SAMPLED) for at in range(0, 48, 2)]


def streamed(engine: Engine) -> list[Completion]:
    """Every prompt in a batch of its own, between an empty batch and one with other settings."""
    own = [Batch([prompt], [seed], SAMPLED) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    found = dict(engine.stream(more_of([*own, Batch([], [], SAMPLED), Batch(PROMPTS, SEEDS, GREEDY)])))
    assert [len(found[number]) for number in range(8)] == [1] * 6 + [0, 6]
    return [found[number][0] for number in range(6)]


def count_steps(engine: Any, work: Callable[[], Any]) -> int:
    """The steps that vLLM makes during some work."""
    inner, step = engine._llm.llm_engine, engine._llm.llm_engine.step
    count = 0

    def counting() -> Any:
        nonlocal count
        count += 1
        return step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inner, "step", counting)
        work()
    return count


def ids_of(completion: Completion) -> list[int]:
    """The generated ids, which this engine always tells, and as many as it counts."""
    assert completion.token_ids is not None and len(completion.token_ids) == completion.num_tokens
    return completion.token_ids


def logprobs_by_forward(reference: Any, prompts: list[list[Message]], completions: list[Completion]) -> list[float]:
    """Log-probabilities of the completions from plain forward passes."""
    import torch

    sums = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = reference.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            scores = reference._model(torch.tensor([ids + ids_of(completion)])).logits[0].double().log_softmax(-1)
        sums.append(float(sum(scores[len(ids) - 1 + i, token] for i, token in enumerate(ids_of(completion)))))
    return sums


def all_ids(completions: list[Completion]) -> list[list[int]]:
    return [ids_of(completion) for completion in completions]


def test_greedy_equals_the_transformers_engine(answers: dict[str, list[Completion]], reference: Engine) -> None:
    expected = reference.generate(PROMPTS, SEEDS, GREEDY)
    assert all_ids(answers["greedy"]) == all_ids(expected)
    for ours, other in zip(answers["greedy"], expected, strict=True):
        assert (ours.text, ours.finish_reason) == (other.text, other.finish_reason)
        assert ours.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize(("name", "settings"), [("penalised", PENALISED), ("first", GREEDY), ("stopped", STOPPED)])
def test_what_shapes_a_draw_equals_the_transformers_engine(
    answers: dict[str, list[Completion]], reference: Engine, name: str, settings: SamplingSettings
) -> None:
    expected = reference.generate(PROMPTS, SEEDS, settings)
    for ours, other in zip(answers[name], expected, strict=True):
        assert (ours.text, ours.finish_reason, ours.token_ids) == (other.text, other.finish_reason, other.token_ids)
        assert ours.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize("name", ["sampled", "narrow"])
def test_logprob_is_raw(answers: dict[str, list[Completion]], reference: Engine, name: str) -> None:
    expected = logprobs_by_forward(reference, PROMPTS, answers[name])
    assert [completion.logprob for completion in answers[name]] == pytest.approx(expected, abs=1e-3)


def test_seeds_reproduce_and_differ(answers: dict[str, list[Completion]]) -> None:
    assert answers["again"] == answers["sampled"]
    assert all_ids(answers["turned"]) == all_ids(answers["sampled"])
    assert all(a != b for a, b in zip(all_ids(answers["other seeds"]), all_ids(answers["sampled"]), strict=True))
    assert ids_of(answers["sampled"][1]) != ids_of(answers["sampled"][3]), "same prompt, different seeds"


def test_finish_reasons_and_every_end_token(answers: dict[str, list[Completion]], reference: Engine) -> None:
    ends = {reference.tokenizer.eos_token_id, *range(300, 306)}
    assert {completion.finish_reason for completion in answers["many"]} == {"stop", "length"}
    for completion in answers["many"]:
        assert (ids_of(completion)[-1] in ends) == (completion.finish_reason == "stop")
        assert not ends & set(ids_of(completion)[:-1])
        assert completion.finish_reason == "stop" or len(ids_of(completion)) == 60
        assert completion.text == reference.tokenizer.decode(ids_of(completion), skip_special_tokens=True)


def test_many_long_prompts_at_once(answers: dict[str, list[Completion]], reference: Engine) -> None:
    """A prompt that vLLM would split over steps ends in an error on a CPU."""
    ids = reference.tokenizer.apply_chat_template(LONG[0], add_generation_prompt=True, return_dict=False)
    assert len(ids) >= 490 and len(answers["long"]) == 64
    expected = logprobs_by_forward(reference, LONG[:8], answers["long"][:8])
    assert [completion.logprob for completion in answers["long"][:8]] == pytest.approx(expected, abs=1e-3)


def test_no_prompts_give_no_completions(answers: dict[str, list[Completion]]) -> None:
    assert answers["none"] == []


def test_adapter_and_template_variables_equal_the_transformers_engine(
    answers: dict[str, list[Completion]], model_dir: Path, adapter_dir: Path
) -> None:
    options: dict[str, Any] = {"adapter": str(adapter_dir), "chat_template_kwargs": {"opening": "So "}}
    engine = load_engine("vllm", str(model_dir), device="cpu", **options)
    adapted = engine.generate(PROMPTS, SEEDS, GREEDY)
    engine.close()
    expected = load_engine("transformers", str(model_dir), **options).generate(PROMPTS, SEEDS, GREEDY)
    assert all_ids(adapted) == all_ids(expected) != all_ids(answers["greedy"])
    assert [a.logprob for a in adapted] == pytest.approx([b.logprob for b in expected], abs=1e-3)


def sharpened(folder: Path) -> Path:
    """A model with larger weights: those of a fresh one hardly attend to anything, whatever the positions."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "method"),
    [("qwen2", "yarn"), ("qwen2", "dynamic"), ("qwen2", "extrapolation"), ("llama", "yarn"), ("mistral", "dynamic")],
)
def test_a_window_above_the_models_equals_the_transformers_engines(
    answers: dict[str, list[Completion]], model_dir: Path, tmp_path: Path, family: str, method: str
) -> None:
    """Prompts of more tokens than the model's own window of 512, and a short one: the same angles for all of them."""
    folder = model_dir if family == "qwen2" else sharpened(make_family(tmp_path, family, [*CORPUS] * 4))
    context: dict[str, Any] = {"context_window": 1100, "context_method": method}
    engine = load_engine("vllm", str(folder), device="cpu", dtype="float32", **context)
    found = engine.generate([*BEYOND, PROMPTS[0]], [1, 2, 3], SAMPLED)
    engine.close()
    reference = load_engine("transformers", str(folder), device="cpu", **context)
    assert engine.context_window == reference.context_window == 1100
    for prompt in BEYOND:
        assert len(reference.tokenizer.apply_chat_template(prompt, return_dict=False)) > 512
    expected = logprobs_by_forward(reference, [*BEYOND, PROMPTS[0]], found)
    assert [completion.logprob for completion in found] == pytest.approx(expected, abs=1e-3)
    if method != "extrapolation":
        plain = load_engine("transformers", str(folder), device="cpu", **context | {"context_method": "extrapolation"})
        other = logprobs_by_forward(plain, BEYOND, found[:2])
        assert all(abs(a - b) > 0.1 for a, b in zip(other, expected[:2], strict=True))
    decoded = reference.generate(BEYOND, [1, 2], SAMPLED)
    expected = logprobs_by_forward(reference, BEYOND, decoded)
    assert [completion.logprob for completion in decoded] == pytest.approx(expected, abs=1e-3)


def test_dynamic_turns_as_vllms_own_does(answers: dict[str, list[Completion]]) -> None:
    """vLLM's class for dynamic NTK, given the whole window, against plain RoPE with the base that is set here."""
    import torch
    from transformers import Qwen2Config
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    config = Qwen2Config(hidden_size=64, num_attention_heads=2, max_position_embeddings=512)
    entries = stretch("m", config, "dynamic", 900, "context").entries["rope_parameters"]
    theirs = {**config.rope_parameters, "rope_type": "dynamic", "factor": 900 / 512, "max_trained_positions": 512}
    with set_current_vllm_config(VllmConfig()):
        ours, vllms = (
            get_rope(32, 900, rope_parameters=parameters, dtype=torch.float32) for parameters in (entries, theirs)
        )
    assert type(vllms).__name__ == "DynamicNTKScalingRotaryEmbedding" and type(ours).__name__ == "RotaryEmbedding"
    # Angles are off by 2⁻²⁴ of them, times 900 positions, and the base by as much in its logarithm.
    assert torch.allclose(ours.cos_sin_cache, vllms.cos_sin_cache, rtol=0, atol=5e-4)
    assert ours.cos_sin_cache.shape == (900, 32)


def test_environment_is_set_but_not_overridden(answers: dict[str, list[Completion]]) -> None:
    import os

    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_build_for_another_device_is_named(answers: dict[str, list[Completion]]) -> None:
    with pytest.raises(
        UserError, match=r"device is cuda, the installed vLLM is built for cpu; install the other build"
    ):
        import_vllm("cuda")


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (64, 64), (512, 512)])
def test_room_for_the_adapter_rank(tmp_path: Path, rank: int, room: int) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": {rank}}}')
    assert lora_rank(str(tmp_path)) == room


def test_adapters_that_vllm_cannot_serve_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1024}')
    with pytest.raises(UserError, match=r"type LORA of rank 1024; the engine vllm takes LORA of rank 1 to 512"):
        lora_rank(str(tmp_path))


def test_a_batch_in_a_stream_has_the_answers_of_a_call(answers: dict[str, list[Completion]]) -> None:
    assert all_ids(answers["streamed"]) == all_ids(answers["sampled"])


def test_small_batches_keep_the_slots_full(asked: tuple[dict[str, list[Completion]], Steps]) -> None:
    steps = asked[1]
    assert steps["a stream"] <= 1.1 * steps["one call"]


def test_a_stream_that_nobody_reads_on_leaves_nothing_behind(
    asked: tuple[dict[str, list[Completion]], Steps],
) -> None:
    answers, steps = asked
    assert steps["dropped"] < steps["a stream"]
    assert all_ids(answers["after a dropped stream"]) == all_ids(answers["sampled"])


def kept_answers(model_dir: Path, adapters: list[Path | None], device: str, **more: Any) -> list[list[Completion]]:
    """Answers of engines that sleep, one after the other; the last adapter's engine is closed for good."""
    found = []
    try:
        for adapter in adapters:
            name = None if adapter is None else str(adapter)
            options: dict[str, Any] = {"adapter": name, "batch_size": 8, "sleep": True, "adapter_rank": 4, **more}
            engine = load_engine("vllm", str(model_dir), device=device, **options)
            found.append(engine.generate(PROMPTS, SEEDS, SAMPLED))
            engine.close()
    finally:
        close_kept()
    return found


def test_adapters_on_a_kept_base_answer_as_on_one_loaded_anew(
    answers: dict[str, list[Completion]],
    model_dir: Path,
    adapter_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same prompts, so that a prefix cached under another adapter would show; and the first adapter again."""
    import vllm

    loaded: list[dict[str, Any]] = []
    load = vllm.LLM

    def counting(**arguments: Any) -> Any:
        loaded.append(arguments)
        return load(**arguments)

    monkeypatch.setattr(vllm, "LLM", counting)
    other = make_adapter(model_dir, tmp_path, seed=4)
    base, first, second, again, bare = kept_answers(model_dir, [None, adapter_dir, other, adapter_dir, None], "cpu")
    assert len(loaded) == 1
    for adapter, found in ((adapter_dir, first), (other, second)):
        engine = load_engine("vllm", str(model_dir), device="cpu", adapter=str(adapter), batch_size=8)
        assert engine.generate(PROMPTS, SEEDS, SAMPLED) == found
        engine.close()
    assert len(loaded) == 3, "what does not sleep is not kept"
    assert base == bare and first == again
    assert all_ids(base) == all_ids(answers["sampled"])
    assert len({str(all_ids(found)) for found in (base, first, second)}) == 3


@pytest.mark.gpu
def test_a_base_that_sleeps_frees_the_gpu_and_wakes_as_it_was(
    model_dir: Path, adapter_dir: Path, tmp_path: Path
) -> None:
    import torch

    def used() -> int:
        free, whole = torch.cuda.mem_get_info()
        return whole - free

    other = make_adapter(model_dir, tmp_path, seed=4)
    options: dict[str, Any] = {"dtype": "bfloat16", "memory_share": 0.5}
    engine = load_engine("vllm", str(model_dir), device="cuda", sleep=True, adapter_rank=4, **options)
    awake = used()
    engine.close()
    assert used() < awake - 0.4 * torch.cuda.mem_get_info()[1], "the KV cache, most of the half, is given back"
    kept = kept_answers(model_dir, [None, adapter_dir, other, adapter_dir], "cuda", **options)
    for adapter, found in ((adapter_dir, kept[1]), (other, kept[2]), (adapter_dir, kept[3])):
        [fresh] = kept_answers(model_dir, [adapter], "cuda", **options)
        assert [c.logprob for c in fresh] == pytest.approx([c.logprob for c in found], rel=0.05)


def test_guided_replies_can_all_be_read_and_others_cannot(environment: None, inclined_dir: Path) -> None:
    """The forms that the stages ask for, from a model without any knowledge of them."""
    engine = load_engine("vllm", str(inclined_dir), device="cpu", batch_size=8)
    plans, lists, free = (
        engine.generate(PROMPTS * 3, range(18), SamplingSettings(300, pattern=pattern))
        for pattern in (PLAN_PATTERN, list_pattern(3), None)
    )
    engine.close()
    assert all(extract_plan(plan.text) is not None for plan in plans)
    assert all(len(read_queries(found.text).queries) == 3 for found in lists)
    assert {found.finish_reason for found in [*plans, *lists]} == {"stop"}
    assert not any(extract_plan(found.text) or read_queries(found.text).queries for found in free)
    assert len({plan.text for plan in plans}) > 12, "the form leaves the words to the draws"
