"""The generated world's models on disk: exact tokenizers and reproducible training."""

import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.grace_kto.messages import ask_for_queries
from training.world.models import WINDOW, train_base, train_domain, train_general
from training.world.texts import World

PROMPT = partial(ask_for_queries, prompt="generate.tiny")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "base"
    folder.mkdir()
    train_base(folder, seed=3, prompt=PROMPT, steps=2)
    return folder


@pytest.mark.parametrize("seed", [0, 7])
def test_every_word_is_one_token(base: Path, seed: int) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for row in World(seed).seed_documents(300):
        text = row["query"] + "\n" + row["reference"].split(">")[1].split("<")[0]
        assert len(tokenizer(text)["input_ids"]) == len(split(text))
        assert tokenizer.decode(tokenizer(row["reference"])["input_ids"]) == row["reference"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_round_trips(base: Path, text: str) -> None:
    """Up to the NFC normalisation that Qwen2's tokenizer does."""
    import unicodedata

    from transformers import AutoTokenizer

    if not hasattr(test_any_text_round_trips, "tokenizer"):
        test_any_text_round_trips.tokenizer = AutoTokenizer.from_pretrained(base)  # type: ignore[attr-defined]
    tokenizer = test_any_text_round_trips.tokenizer  # type: ignore[attr-defined]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == unicodedata.normalize("NFC", text)


def test_auto_tokenizer_reads_the_same_ids(base: Path) -> None:
    """`AutoTokenizer` rebuilds a Qwen2 folder's tokenizer from vocabulary and merges; the ids must not change."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    saved = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    for row in [*World(1).query_conversations(20, PROMPT), *World(1).copying_conversations(20)]:
        for message in row["prompt"] + row["completion"]:
            assert tokenizer(message["content"])["input_ids"] == saved.encode(message["content"]).ids


def test_chat_template_and_special_tokens(base: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(base)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "A"}], add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nA<|im_end|><|im_start|>assistant\n"
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == ("<|im_end|>", "<|endoftext|>", "left")
    assert GenerationConfig.from_pretrained(base).eos_token_id == tokenizer.eos_token_id
    assert json.loads((base / "config.json").read_text())["max_position_embeddings"] == WINDOW


def test_training_is_bit_reproducible(base: Path, tmp_path: Path) -> None:
    """The same seed gives the same bytes, whatever the state of torch's global generator; another seed does not."""
    import torch

    torch.manual_seed(99)
    train_base(tmp_path, seed=3, prompt=PROMPT, steps=2)
    assert (tmp_path / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert torch.initial_seed() == 99
    train_base(tmp_path, seed=4, prompt=PROMPT, steps=2)
    assert (tmp_path / "model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()


def test_the_domain_model_goes_on_from_the_general_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    general = train_general(tmp_path / "general", 5, PROMPT, steps=1)
    domain = train_domain(tmp_path / "domain", tmp_path / "general", 5, PROMPT, steps=1)
    assert domain["parameters"] == general["parameters"] and domain["loss"] != general["loss"]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("general", "domain"))
    # One step moves a weight by no more than about the learning rate, which a fresh start would not do.
    moves = [(after[name] - before[name]).abs().max().item() for name in before]
    assert 0 < max(moves) < 0.01
    texts = ["tokenizer.json", "chat_template.jinja"]
    assert all((tmp_path / "general" / t).read_bytes() == (tmp_path / "domain" / t).read_bytes() for t in texts)


def test_auc_gold() -> None:
    """Wins 3 of 4 pairs, one tie: (2 + 0.5 + 1) / 4."""
    from training.world.relevance import _auc

    assert _auc([3.0, 1.0], [0.0, 1.0]) == (2 + 1 + 0.5) / 4


@pytest.mark.slow
def test_similarities_equal_flagembedding(tmp_path: Path) -> None:
    """What is trained is what FlagEmbedding computes from the saved folder."""
    import torch
    from FlagEmbedding import BGEM3FlagModel
    from transformers import AutoTokenizer

    from training.world.relevance import Relevance, similarities, train_relevance

    train_relevance(tmp_path, 2, PROMPT, steps=2)
    model = Relevance(AutoTokenizer.from_pretrained(tmp_path), 0)
    model.encoder = type(model.encoder).from_pretrained(tmp_path).eval()
    model.colbert.load_state_dict(torch.load(tmp_path / "colbert_linear.pt", weights_only=True))
    model.sparse.load_state_dict(torch.load(tmp_path / "sparse_linear.pt", weights_only=True))
    query, text, _ = World(2).relevance_triples(1)[0]
    with torch.no_grad():
        ours = similarities(model.encode([query]), model.encode([text]))
    theirs = BGEM3FlagModel(str(tmp_path), use_fp16=False, devices="cpu").compute_score([(query, text)])
    for name, other in (("dense", "dense"), ("lexical", "sparse"), ("multivector", "colbert")):
        assert ours[name].item() == pytest.approx(theirs[other][0], abs=1e-5)
