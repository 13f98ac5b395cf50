"""Perplexity against a plain loop over transformers, inside and beyond the window."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_causal_lm, make_tokenizer
from tolerances import perplexity

from scorers.errors import UserError
from scorers.perplexity import HEAD_ROWS, Perplexity, Span, spans

SENTENCE = "The harbour grew within a decade, and trade doubled; prices fell by a third. "
# 1 to about 4,000 tokens; the model's window is 512.
TEXTS = ["ab", SENTENCE, SENTENCE * 3, "国有企业改革", SENTENCE * 20, SENTENCE[::-1] * 40, SENTENCE * 2, SENTENCE * 110]


@pytest.fixture(scope="module")
def scorer(causal_lm_dir: Path) -> Perplexity:
    return Perplexity(causal_lm_dir)


def plain_perplexity(folder: Path, text: str, window: int, prefix: Sequence[int] = ()) -> Any:
    """One text, one window, one token at a time from the whole model's own logits; comparable within rounding.

    Every window begins with `prefix` and holds `window` tokens with it; attention is transformers' plain Python.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    window -= len(prefix)
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    if len(ids) < 2:
        return None
    nll: dict[int, float] = {}
    start = 0
    while len(nll) < len(ids) - 1:
        piece = ids[start : start + window]
        with torch.no_grad():
            logits = model(torch.tensor([[*prefix, *piece]])).logits[0, len(prefix) :]
        log_probs = logits.double().log_softmax(-1)
        for position in range(1, len(piece)):
            nll.setdefault(start + position, -float(log_probs[position - 1, piece[position]]))
        start += window // 2
    return pytest.approx(math.exp(sum(nll.values()) / len(nll)), rel=perplexity(len(nll)))


@pytest.mark.parametrize("window", [None, 64, 33, 2])
def test_equals_a_plain_loop(causal_lm_dir: Path, window: int | None) -> None:
    texts = TEXTS if window is None or window > 2 else TEXTS[:3]
    got = Perplexity(causal_lm_dir, window=window).score(texts)
    assert got == [plain_perplexity(causal_lm_dir, text, window or 512) for text in texts]
    assert len({round(value, 6) for value in got if value is not None}) == len(texts)


def test_some_text_spans_several_windows_and_several_chunks_of_the_head(scorer: Perplexity) -> None:
    lengths = [len(ids) for ids in scorer._tokenizer(TEXTS, add_special_tokens=False)["input_ids"]]
    assert scorer.window == 512
    assert max(lengths) > 2 * scorer.window
    assert any(HEAD_ROWS < length < scorer.window for length in lengths)


def test_uniform_model_has_the_vocabulary_size_as_perplexity(causal_lm_dir: Path) -> None:
    scorer = Perplexity(causal_lm_dir)
    scorer._head.weight.data.zero_()
    assert scorer.score([SENTENCE]) == [pytest.approx(scorer._head.weight.shape[0], rel=perplexity(1))]


def test_texts_too_short_are_not_scored(scorer: Perplexity) -> None:
    assert scorer.score([]) == []
    short, scored, one = scorer.score(["", "ab", "a"])
    assert short is None
    assert one is None
    assert scored is not None


def add_by_itself(folder: Path, single: str) -> None:
    """Let a folder's tokenizer put special tokens around every text, as Llama's and Gemma's do."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    specials = [("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair="$A $B", special_tokens=specials
    )
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("single", "prefix"), [("<|im_start|> $A", [1]), ("<|endoftext|> <|im_start|> $A <|im_end|>", [0, 1])]
)
@pytest.mark.parametrize("window", [None, 33, 5])
def test_what_the_tokenizer_puts_before_a_text_is_read_in_every_window(
    tmp_path: Path, single: str, prefix: list[int], window: int | None
) -> None:
    folder = make_causal_lm(tmp_path)
    texts = TEXTS if window is None or window > 5 else TEXTS[:3]
    without = Perplexity(folder, window=window).score(texts)
    add_by_itself(folder, single)
    got = Perplexity(folder, window=window).score(texts)
    assert got == [plain_perplexity(folder, text, window or 512, prefix) for text in texts]
    assert got[1] != pytest.approx(without[1], rel=1e-3)


def test_special_tokens_after_a_text_are_not_read(tmp_path: Path) -> None:
    folder = make_causal_lm(tmp_path)
    plain = Perplexity(folder).score(TEXTS)
    add_by_itself(folder, "$A <|im_end|>")
    assert Perplexity(folder).score(TEXTS) == plain


def test_the_window_has_room_for_what_stands_before_a_text(tmp_path: Path) -> None:
    folder = make_causal_lm(tmp_path)
    add_by_itself(folder, "<|im_start|> $A")
    assert Perplexity(folder, window=3).score(["ab"]) == [plain_perplexity(folder, "ab", 3, [1])]
    message = (
        r"score.context.window is 2 tokens, and 1 of them stands before every text of model .*; set it to at least 3"
    )
    with pytest.raises(UserError, match=message):
        Perplexity(folder, window=2)


@given(
    st.lists(st.text(max_size=40) | st.sampled_from(TEXTS[:-1]), min_size=1, max_size=6),
    st.sampled_from([1, 100, 10_000]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_score_does_not_depend_on_the_batch(scorer: Perplexity, texts: list[str], tokens_per_batch: int) -> None:
    alone = [scorer.score([text])[0] for text in texts]
    scorer._batch.size = tokens_per_batch
    together = scorer.score(texts)
    assert [value is None for value in alone] == [value is None for value in together]
    tokens = [len(ids) for ids in scorer._tokenizer(texts, add_special_tokens=False)["input_ids"]]
    for a, b, count in zip(alone, together, tokens, strict=True):
        assert a is None or a == pytest.approx(b, rel=perplexity(count - 1))


def test_gold_spans() -> None:
    assert spans(7, 5, 8) == [Span(7, 0, 1, 5)]
    assert spans(7, 8, 8) == [Span(7, 0, 1, 8)]
    assert spans(7, 13, 8) == [Span(7, 0, 1, 8), Span(7, 4, 8, 12), Span(7, 8, 12, 13)]
    assert spans(0, 4, 2) == [Span(0, 0, 1, 2), Span(0, 1, 2, 3), Span(0, 2, 3, 4)]


@given(st.integers(2, 400), st.integers(2, 60))
def test_each_token_once_with_half_a_window_of_context(length: int, window: int) -> None:
    cut = spans(0, length, window)
    predicted = [token for span in cut for token in range(span.predict_from, span.stop)]
    assert predicted == list(range(1, length))
    for span in cut:
        assert span.stop - span.start <= window
        context = span.predict_from - span.start
        assert context >= window // 2 or span.start == 0


def save_model(kind: str, folder: Path, **changes: object) -> Path:
    import torch
    import transformers

    make_tokenizer(folder)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.5, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        # The weights of `save_model` are large, so that scores reach the cap.
        ("Gemma2", {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 2.0, "sliding_window": 64}),
        ("Llama", {"tie_word_embeddings": False}),
        ("Mistral", {"sliding_window": 32}),
    ],
)
def test_other_architectures(tmp_path: Path, kind: str, changes: dict[str, object]) -> None:
    folder = save_model(kind, tmp_path, **changes)
    got = Perplexity(folder).score(TEXTS[:5])
    assert got == [plain_perplexity(folder, text, 256) for text in TEXTS[:5]]


def test_gpt2(tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    make_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    got = Perplexity(tmp_path).score(TEXTS[:5])
    assert got == [plain_perplexity(tmp_path, text, 128) for text in TEXTS[:5]]


def save_family(kind: str, folder: Path, **changes: object) -> Path:
    """Save a random two-layer model of a family, with its own defaults for everything else."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    make_tokenizer(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=512, hidden_size=32, num_hidden_layers=2, **changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_recurrent_model_needs_a_window(tmp_path: Path) -> None:
    folder = save_family("mamba", tmp_path, state_size=4)
    with pytest.raises(
        UserError, match=r"\(mamba\): its configuration states no max_position_embeddings; set score.context.wi"
    ):
        Perplexity(folder)
    got = Perplexity(folder, window=64).score(TEXTS[:4])
    assert got == [plain_perplexity(folder, text, 64) for text in TEXTS[:4]]


def test_a_model_whose_decoder_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    shape = {"intermediate_size": 48, "intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 2}
    folder = save_family("llama4_text", tmp_path, num_attention_heads=4, num_key_value_heads=2, **shape)
    with pytest.raises(UserError, match=r"has no LM head on a decoder; give a causal language model"):
        Perplexity(folder)


def test_longrope_is_scored_one_text_at_a_time(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 9.0],
        "original_max_position_embeddings": 64, "factor": 4.0,
    }  # fmt: skip
    folder = save_model("Llama", tmp_path, rope_parameters=rope)
    got = Perplexity(folder).score([SENTENCE, SENTENCE * 5])
    assert got == [plain_perplexity(folder, text, 256) for text in (SENTENCE, SENTENCE * 5)]


def test_bfloat16_is_near_float32(causal_lm_dir: Path, scorer: Perplexity) -> None:
    half = Perplexity(causal_lm_dir, dtype="bfloat16").score([SENTENCE * 3])[0]
    assert half == pytest.approx(scorer.score([SENTENCE * 3])[0], rel=0.1)


def test_logits_scaled_after_the_head_are_refused(tmp_path: Path) -> None:
    folder = save_model("Granite", tmp_path, logits_scaling=4.0)
    with pytest.raises(UserError, match=r"GraniteForCausalLM\) changes its logits after the LM head"):
        Perplexity(folder)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertLMHeadModel

    make_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3,
    )  # fmt: skip
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="predicts a token from those after it"):
        Perplexity(tmp_path)


def test_an_infinite_perplexity_is_returned(causal_lm_dir: Path) -> None:
    scorer = Perplexity(causal_lm_dir)
    scorer._head.weight.data.mul_(1e6)
    assert scorer.score([SENTENCE]) == [math.inf]


def test_missing_weights(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = save_model("Llama", tmp_path, tie_word_embeddings=False)
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(UserError, match=r"lacks 1 weights, the first is lm_head\.weight"):
        Perplexity(folder)


@pytest.mark.parametrize(
    ("window", "allowed"), [(1, "at least 2"), (0, "at least 2"), (513, "at most 512, or score.context.method to yarn")]
)
def test_window_out_of_range(causal_lm_dir: Path, window: int, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^score.context.window is {window}[;,] .*set it to {allowed}"):
        Perplexity(causal_lm_dir, window=window)


def test_unknown_dtype(causal_lm_dir: Path) -> None:
    with pytest.raises(UserError, match="dtype is 'float8'; allowed are float32, bfloat16, float16"):
        Perplexity(causal_lm_dir, dtype="float8")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"perplexity model .* cannot be loaded") as caught:
        Perplexity(tmp_path)
    assert "\n" not in str(caught.value)


def test_path_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"perplexity model '\./nowhere/model' is no folder here and no Hub id"):
        Perplexity("./nowhere/model")


def test_nothing_is_printed(causal_lm_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Perplexity(causal_lm_dir).score(TEXTS)
    assert capfd.readouterr() == ("", "")
