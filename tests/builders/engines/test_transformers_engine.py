"""The transformers engine against transformers' own generate and plain forward passes, and its messages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import log_likelihood

from builders.engines import Completion, Message, SamplingSettings, load_engine
from builders.engines.decoding import decode
from builders.engines.transformers_engine import TransformersEngine
from scorers.errors import UserError

GREEDY = SamplingSettings(24, temperature=0.0)
SAMPLED = SamplingSettings(40)
FAMILIES = ("qwen2", "llama", "mistral", "gemma3_text", "gpt2", "bloom", "opt", "gpt_neox")


def chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


# Lengths differ, some prompts repeat, neighbours differ: joining, sharing and sorting all happen.
PROMPTS = [chat(text) for text in ("trade " * 9, "a", "harbour", "a", "river trade " * 6, "trade " * 9, "b", "prices")]
SEEDS = range(100, 108)


@pytest.fixture(scope="module")
def engine(causal_lm_dir: Path) -> TransformersEngine:
    return TransformersEngine(str(causal_lm_dir), device="cpu")


def with_batch(causal_lm_dir: Path, batch_size: int, **options: Any) -> TransformersEngine:
    return TransformersEngine(str(causal_lm_dir), device="cpu", batch_size=batch_size, **options)


def prompt_ids(engine: TransformersEngine, prompts: Sequence[Sequence[Message]] = PROMPTS) -> list[list[int]]:
    return [engine.tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]


def ids_of(completion: Completion) -> list[int]:
    """The generated ids, which this engine always tells, and as many as it counts."""
    assert completion.token_ids is not None and len(completion.token_ids) == completion.num_tokens
    return completion.token_ids


def greedy_by_generate(model: Any, ids: list[int], count: int, end_ids: list[int]) -> list[int]:
    """transformers' own greedy answer to one unpadded prompt."""
    import torch

    output = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
        max_new_tokens=count, eos_token_id=end_ids or None, pad_token_id=0,
    )  # fmt: skip
    answer: list[int] = output[0, len(ids) :].tolist()
    return answer


def until(answer: list[int], ends: list[int]) -> list[int]:
    """The answer up to and with its first end token."""
    first = next((i for i, token in enumerate(answer) if token in ends), len(answer))
    return answer[: first + 1]


def logprob_by_forward(model: Any, ids: list[int], answer: list[int]) -> float:
    """Sum of the answer's log-probabilities from one plain forward pass."""
    import torch

    with torch.no_grad():
        scores = model(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1)
    return float(sum(scores[len(ids) - 1 + i, token] for i, token in enumerate(answer)))


def tiny_model(family: str) -> Any:
    """A random two-layer model of a family, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped = {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "max_position_embeddings": 128}
    special: dict[str, dict[str, Any]] = {
        "qwen2": grouped,
        "llama": grouped,
        "mistral": {**grouped, "sliding_window": 6},
        "gemma3_text": {**grouped, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
        "gpt2": {"n_positions": 128},
        "opt": {"ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": 32},
        "gpt_neox": {"intermediate_size": 48, "max_position_embeddings": 128},
    }
    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **{**common, **ends, **special.get(family, {}), "initializer_range": 0.3})
    ).eval()
    with torch.no_grad():  # families start at different scales; make every distribution peaked, so that ties are rare
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_generate_in_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders.engines.forward import use_grouped_attention

    monkeypatch.setattr("builders.engines.decoding.FIRST_COLUMNS", 3)
    model = tiny_model(family)
    random = np.random.default_rng(1)
    prompts = [random.integers(3, 90, size).tolist() for size in (9, 2, 17, 5, 1, 12, 5)]
    expected = [greedy_by_generate(model, ids, 20, []) for ids in prompts]
    ends = [expected[0][3], expected[1][8]]  # ids that are known to turn up
    expected = [until(answer, ends) for answer in expected]
    logprobs = [logprob_by_forward(model, ids, answer) for ids, answer in zip(prompts, expected, strict=True)]
    use_grouped_attention(model)
    rows = decode(model, prompts, [0] * 7, SamplingSettings(20, temperature=0.0), ends, batch_size=4)
    assert [row.token_ids for row in rows] == expected
    assert [row.logprob for row in rows] == pytest.approx(logprobs, abs=log_likelihood(20))


def test_greedy_equals_generate_and_keeps_the_order(engine: TransformersEngine) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(engine.tokenizer.name_or_path)
    completions = engine.generate(PROMPTS, SEEDS, GREEDY)
    for completion, ids in zip(completions, prompt_ids(engine), strict=True):
        expected = greedy_by_generate(plain, ids, 24, [engine.tokenizer.eos_token_id])
        assert ids_of(completion) == expected
        assert completion.text == engine.tokenizer.decode(expected, skip_special_tokens=True)


def test_logprob_equals_a_plain_forward_pass(engine: TransformersEngine) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(engine.tokenizer.name_or_path)
    completions = engine.generate(PROMPTS, SEEDS, SamplingSettings(40, temperature=0.8, top_p=0.9))
    for completion, ids in zip(completions, prompt_ids(engine), strict=True):
        expected = logprob_by_forward(plain, ids, ids_of(completion))
        assert completion.logprob == pytest.approx(expected, abs=log_likelihood(40))


def test_the_same_call_twice_is_identical(engine: TransformersEngine) -> None:
    assert engine.generate(PROMPTS, SEEDS, SAMPLED) == engine.generate(PROMPTS, SEEDS, SAMPLED)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_row_does_not_depend_on_its_batch(
    engine: TransformersEngine, causal_lm_dir: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [ids_of(completion) for completion in engine.generate(PROMPTS, SEEDS, SAMPLED)]
    monkeypatch.setattr("builders.engines.decoding.FIRST_COLUMNS", 4)
    other = with_batch(causal_lm_dir, batch_size)
    assert [ids_of(completion) for completion in other.generate(PROMPTS, SEEDS, SAMPLED)] == expected
    turned = other.generate(PROMPTS[::-1], list(SEEDS)[::-1], SAMPLED)
    assert [ids_of(completion) for completion in turned[::-1]] == expected


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    batch_size=st.integers(1, 5),
    first_columns=st.integers(1, 6),
    max_new_tokens=st.integers(1, 30),
)
def test_any_schedule_gives_the_rows_decoded_alone(
    lengths: list[int], batch_size: int, first_columns: int, max_new_tokens: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builders.engines.decoding.FIRST_COLUMNS", first_columns)
        model = SHARED_MODEL.get()
        prompts = [[5 + (i * j) % 60 for j in range(1, size + 1)] for i, size in enumerate(lengths)]
        seeds = list(range(len(prompts)))
        chosen = SamplingSettings(max_new_tokens)
        ends = list(range(20, 28))
        together = decode(model, prompts, seeds, chosen, ends, batch_size)
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            alone = decode(model, [prompt], [seed], chosen, ends, 1)[0]
            assert together[row].token_ids == alone.token_ids
            assert together[row].finish_reason == alone.finish_reason
            assert together[row].logprob == pytest.approx(alone.logprob, abs=log_likelihood(30))


class SharedModel:
    """One tiny model for all examples of a property."""

    model: Any = None

    def get(self) -> Any:
        from builders.engines.forward import use_grouped_attention

        if self.model is None:
            self.model = tiny_model("qwen2")
            use_grouped_attention(self.model)
        return self.model


SHARED_MODEL = SharedModel()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_first_token_frequencies_follow_the_model(engine: TransformersEngine, temperature: float, top_p: float) -> None:
    import torch
    from scipy.stats import chisquare

    count = 2_000
    completions = engine.generate([PROMPTS[0]] * count, range(count), SamplingSettings(1, temperature, top_p))
    with torch.no_grad():
        logits = engine._model(torch.tensor([prompt_ids(engine)[0]])).logits[0, -1]
    exact = torch.softmax(logits.double() / temperature, -1).numpy()
    order = np.argsort(-exact, kind="stable")
    exact[order[np.cumsum(exact[order]) - exact[order] >= top_p]] = 0.0
    exact /= exact.sum()
    seen = np.bincount([ids_of(completion)[0] for completion in completions], minlength=len(exact))
    assert seen[exact == 0].sum() == 0
    common = exact * count >= 10  # cells too small for the test go into one
    observed = np.append(seen[common], seen[~common].sum())
    expected = np.append(exact[common], exact[~common].sum()) * count
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    assert len(expected) > 3
    assert chisquare(observed, expected).pvalue > 1e-3


def test_finish_reasons_and_the_end_token(engine: TransformersEngine) -> None:
    end = engine.tokenizer.eos_token_id
    completions = engine.generate(PROMPTS * 4, range(32), SamplingSettings(60))
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for completion in completions:
        assert (ids_of(completion)[-1] == end) == (completion.finish_reason == "stop")
        assert end not in ids_of(completion)[:-1]
        assert completion.finish_reason == "stop" or len(ids_of(completion)) == 60


def test_a_policy_that_never_ends_runs_to_the_limit() -> None:
    rows = decode(SHARED_MODEL.get(), [[5, 6], [7]], [1, 2], SamplingSettings(30), [], 2)
    assert [(len(row.token_ids), row.finish_reason) for row in rows] == [(30, "length"), (30, "length")]


def test_no_prompts_give_no_completions(engine: TransformersEngine) -> None:
    assert engine.generate([], [], SAMPLED) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_used_and_agrees_roughly(causal_lm_dir: Path, engine: TransformersEngine, dtype: str) -> None:
    half = with_batch(causal_lm_dir, 8, dtype=dtype)
    assert str(half._model.dtype) == f"torch.{dtype}"
    for ours, ids in zip(half.generate(PROMPTS, SEEDS, SAMPLED), prompt_ids(engine), strict=True):
        full = logprob_by_forward(engine._model, ids, ids_of(ours))
        assert ours.logprob == pytest.approx(full, rel=0.02, abs=0.5)


def make_adapter(model_dir: Path, folder: Path) -> Path:
    """Save a LoRA adapter with random weights, large enough to change the answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_dir)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_adapter_equals_peft(causal_lm_dir: Path, engine: TransformersEngine, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(causal_lm_dir, tmp_path / "adapter")
    adapted = with_batch(causal_lm_dir, 8, adapter=str(adapter)).generate(PROMPTS, SEEDS, GREEDY)
    attached = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(causal_lm_dir), adapter)
    assert adapted != engine.generate(PROMPTS, SEEDS, GREEDY)
    for completion, ids in zip(adapted, prompt_ids(engine), strict=True):
        expected = logprob_by_forward(attached, ids, ids_of(completion))
        assert completion.logprob == pytest.approx(expected, abs=log_likelihood(24))


def test_adapters_that_do_not_fit_are_named(causal_lm_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(causal_lm_dir, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] * float("nan")}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"^adapter .*: cannot be merged into the model \(.*NaN.*\); give one trained"):
        with_batch(causal_lm_dir, 8, adapter=str(adapter))
    save_file({**weights, name: weights[name][:, :3].contiguous()}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"cannot be merged into the model \(.*size mismatch.*\); give one trained"):
        with_batch(causal_lm_dir, 8, adapter=str(adapter))


def test_yarn_stretches_the_window_and_keeps_theta(causal_lm_dir: Path) -> None:
    stretched = with_batch(causal_lm_dir, 8, context_window=1024, context_method="yarn")
    rope = stretched._model.config.rope_parameters
    original = TransformersEngine(str(causal_lm_dir))._model.config.rope_parameters
    assert stretched.context_window == 1024
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 2.0, 512)
    assert rope["rope_theta"] == original["rope_theta"]
    long = chat("river trade " * 250)
    completion = stretched.generate([long], [1], SamplingSettings(200))[0]
    ids = prompt_ids(stretched, [long])[0]
    assert len(ids) + 200 > 512
    expected = logprob_by_forward(stretched._model, ids, ids_of(completion))
    assert completion.logprob == pytest.approx(expected, abs=log_likelihood(200))


def test_prompt_without_room_names_row_and_window(engine: TransformersEngine) -> None:
    with pytest.raises(UserError) as caught:
        engine.generate([*PROMPTS, chat("x " * 600)], range(9), SamplingSettings(100))
    message = str(caught.value)
    assert message.startswith("prompt of row 8: ")
    assert "tokens + max_new_tokens 100 exceed the context window of 512; shorten the prompt" in message
    assert "\n" not in message


def test_not_finite_logits_name_the_row(causal_lm_dir: Path) -> None:
    import torch

    broken = with_batch(causal_lm_dir, 8)
    special = broken.tokenizer("Q", add_special_tokens=False)["input_ids"][0]
    embedding = broken._model.get_input_embeddings()
    output = torch.nn.Linear(embedding.weight.shape[1], embedding.weight.shape[0], bias=False)
    output.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    broken._model.lm_head = output
    with torch.no_grad():
        embedding.weight[special] = float("nan")  # only a prompt with this token sees it
    with pytest.raises(UserError, match=r"^row 2: the model gave NaN or infinite logits; check the checkpoint"):
        broken.generate([chat("a"), chat("b"), chat("Q"), chat("c")], range(4), SAMPLED)


def test_context_window_option(causal_lm_dir: Path) -> None:
    assert with_batch(causal_lm_dir, 8, context_window=100).context_window == 100
    with pytest.raises(
        UserError, match=r"context.window is 600, and the rope settings of model .* allow 512 tokens; set"
    ):
        with_batch(causal_lm_dir, 8, context_window=600)


def test_seeds_and_prompts_must_pair(engine: TransformersEngine) -> None:
    with pytest.raises(ValueError, match="8 prompts and 2 seeds"):
        engine.generate(PROMPTS, [1, 2], SAMPLED)


def test_missing_chat_template_is_named(causal_lm_dir: Path) -> None:
    bare = with_batch(causal_lm_dir, 8)
    bare.tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"no chat template found; set engines\.policy\.chat_template=FILE"):
        bare.generate(PROMPTS, SEEDS, SAMPLED)


def test_prompt_that_the_template_refuses_is_named(causal_lm_dir: Path) -> None:
    strict = with_batch(causal_lm_dir, 8)
    strict.tokenizer.chat_template = "{{ raise_exception('no system role here') }}"
    with pytest.raises(
        UserError, match=r"^prompt of row 0: the chat template of .* refuses it \(no system role here\)"
    ):
        strict.generate(PROMPTS, SEEDS, SAMPLED)


def test_missing_model_and_adapter_are_named(causal_lm_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model .*nowhere: cannot be loaded \(.*\); give a model folder"):
        load_engine("transformers", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^adapter .*: no adapter_config.json found"):
        load_engine("transformers", str(causal_lm_dir), adapter=str(tmp_path))


def test_a_stop_text_ends_a_completion_and_stays_in_it(engine: TransformersEngine) -> None:
    plain = engine.generate(PROMPTS, SEEDS, SAMPLED)
    # Three characters from the middle of what is written without it.
    text = max((completion.text for completion in plain), key=len)
    stop = text[len(text) // 2 :][:3]
    ended = engine.generate(PROMPTS, SEEDS, replace(SAMPLED, stop=("never there", stop)))
    assert any(stop in completion.text for completion in plain)
    for before, after in zip(plain, ended, strict=True):
        if stop in before.text:
            assert after.text == before.text[: before.text.index(stop) + 3] and after.finish_reason == "stop"
            assert ids_of(after) == ids_of(before)[: after.num_tokens]
        else:
            assert (after.token_ids, after.finish_reason) == (before.token_ids, before.finish_reason)


def test_a_penalty_keeps_greedy_rows_from_repeating(causal_lm_dir: Path, engine: TransformersEngine) -> None:
    """With the largest penalty a token comes again only where its logit leads by more than 2."""
    greedy = SamplingSettings(40, temperature=0.0)
    plain = [ids_of(completion) for completion in engine.generate(PROMPTS, SEEDS, greedy)]
    spread = [
        ids_of(completion) for completion in engine.generate(PROMPTS, SEEDS, replace(greedy, presence_penalty=2.0))
    ]
    assert sum(len(set(ids)) for ids in spread) > sum(len(set(ids)) for ids in plain)
    # Rows that move into other places take what they have along.
    narrow = with_batch(causal_lm_dir, 3)
    assert [ids_of(c) for c in narrow.generate(PROMPTS, SEEDS, replace(greedy, presence_penalty=2.0))] == spread


def test_the_most_probable_token_alone_is_greedy(engine: TransformersEngine) -> None:
    greedy = engine.generate(PROMPTS, SEEDS, SamplingSettings(20, temperature=0.0))
    first = engine.generate(PROMPTS, SEEDS, SamplingSettings(20, top_k=1))
    assert [ids_of(completion) for completion in first] == [ids_of(completion) for completion in greedy]


def test_a_full_gpu_halves_the_batch_once(
    causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from builders.engines import decoding

    sizes = []

    class Small(decoding.Decoder):
        def run(self) -> list[decoding.Decoded]:
            sizes.append(self.count)
            if self.count > 4:
                raise torch.OutOfMemoryError
            return super().run()

    monkeypatch.setattr(decoding, "Decoder", Small)
    engine = with_batch(causal_lm_dir, 8)
    completions = engine.generate(PROMPTS, SEEDS, SAMPLED)
    assert sizes == [8, 4] and "engines.policy.batch_size 8: once more with 4" in caplog.text
    assert completions == with_batch(causal_lm_dir, 4).generate(PROMPTS, SEEDS, SAMPLED)
