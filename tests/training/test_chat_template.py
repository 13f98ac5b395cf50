"""A base model without a chat template, and one that refuses the system role: refused in one line, or given a file."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets_factory import add_dataset
from real_configs import SEEDS, config_on, write_lines
from tiny_models import make_tokenizer

from builders.core.draws import query_id
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of
from builders.store.manifest import Manifest
from builders.store.store import Store
from scorers.errors import UserError
from training.chat import require_end
from training.pipelines import build

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSING = TEMPLATE.replace(
    "{{ m.content }}", "{% if m.role == 'system' %}{{ raise_exception('No system\nrole') }}{% endif %}{{ m.content }}"
)
ENDLESS = TEMPLATE.replace("{{ eos_token }}", "\n")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 whose tokenizer has no chat template, as base models are published."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2") / "bare"
    make_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template is None
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_positions=512, n_layer=2, n_head=2, **ids)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def configured(
    folder: Path, base: Path, *overrides: str, template: str | None = None, bge: Path | None = None
) -> GraceKTOSettings:
    """SFT on six tagged documents, whose model is the first policy."""
    form = "<summary>S {0}.</summary><outline>O {0}</outline><answer>A {0}.</answer>"
    lines = [json.dumps({"query": seed, "reference": form.format(n)}) + "\n" for n, seed in enumerate(SEEDS)]
    source = write_lines(folder / "documents.jsonl", lines)
    if template is not None:
        write_lines(folder / "chat.jinja", [template + "\n"])
        overrides = (*overrides, f"engines.policy.chat_template={folder / 'chat.jinja'}")
    return config_on(
        folder,
        f"seed.source={source}",
        "seed.columns={query: query, reference: reference}",
        "models.policy=sft",
        "sft={steps: 2, batch_size: 6, learning_rate: 1.0e-3}",
        f"models={{base: {base}, policy: sft, general: {base}, domain: {base}, relevance: {bge or 'world:bge-m3'}}}",
        *overrides,
    )


STAGES = ("sft", "generate", "sample", "policy")


def test_a_folder_without_its_vocabulary_is_refused(tmp_path: Path, causal_lm_dir: Path) -> None:
    from builders.engines.loading import load_tokenizer_and_config

    shutil.copytree(causal_lm_dir, tmp_path / "m")
    load_tokenizer_and_config(str(tmp_path / "m"), None)
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"its tokenizer has no vocabulary; give a folder with tokenizer\.json in it"):
        load_tokenizer_and_config(str(tmp_path / "m"), None)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("policy", ["sft", "bare"])
def test_without_a_template_nothing_is_built(tmp_path: Path, bare: Path, stage: str, policy: str) -> None:
    config = configured(tmp_path, bare, f"models.policy={bare if policy == 'bare' else 'sft'}")
    with pytest.raises(UserError) as error:
        build(config, stage)
    assert str(error.value) == (
        f"tokenizer of {bare}: no chat template found; set engines.policy.chat_template=FILE, a Jinja file, or use an "
        "instruction-tuned model"
    )
    assert built(config) == []


@pytest.mark.parametrize("stage", ["sft", "sample", "policy"])
def test_a_template_that_refuses_the_system_prompt(tmp_path: Path, bare: Path, stage: str) -> None:
    config = configured(tmp_path, bare, "sample.system_prompt=system.en", template=REFUSING)
    with pytest.raises(UserError) as error:
        build(config, stage)
    assert str(error.value) == (
        f"system prompt: the chat template of {bare} refuses it (No system role); set sample.system_prompt: null, or "
        "engines.policy.chat_template: FILE, a template with a system role"
    )
    assert built(config) == []


def built(config: GraceKTOSettings) -> Sequence[Path]:
    """Everything in the store that a build would leave."""
    return list(Store(Path(config.store)).root.rglob("manifest.json"))


def test_a_template_without_the_end_of_an_answer(tmp_path: Path, bare: Path) -> None:
    config = configured(tmp_path, bare, template=ENDLESS)
    with pytest.raises(
        UserError, match=r"ends an answer with '', without an end-of-sequence token \(<\|im_end\|>\), so"
    ):
        build(config, "sft")
    assert built(config) == []


def test_the_end_may_be_one_of_the_generation_settings(causal_lm_dir: Path) -> None:
    tokenizer = tokenizer_of(causal_lm_dir)
    tokenizer.eos_token = "<|endoftext|>"
    require_end(tokenizer, [tokenizer.convert_tokens_to_ids("<|im_end|>")], {})
    with pytest.raises(UserError, match="so the policy would never stop"):
        require_end(tokenizer, None, {})


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
def test_from_a_bare_base_model_to_a_trained_policy(tmp_path: Path, bare: Path, bge_m3_dir: Path) -> None:
    """SFT, one round of sampling and scoring, KTO with LoRA: all under the template of the file, which is published."""
    options = (
        "train={method: lora, batch_size: 4, device_batch_size: 4, lora_rank: 2}",
        "sample={responses: 2, max_new_tokens: 60, temperature: 0.5}",
        "sft={steps: 100, batch_size: 6, learning_rate: 5.0e-3}",  # enough to learn the form by heart
        "score.max_length=128",
    )
    config = configured(tmp_path, bare, *options, template=TEMPLATE, bge=bge_m3_dir)
    row = {"language": "en", "round": 1, "example_ids": [], "generator": "m@r"}
    rows = [row | {"query": query, "query_id": query_id(query)} for query in (f"{SEEDS[0]} ", f"{SEEDS[1]} ")]
    queries = add_dataset(Store(Path(config.store)), "generate", frame_of(rows, QUERIES_COLUMNS), repo="mine/queries")
    weights = build(config, "calibrate", start=str(queries))[-1].revision
    policy = build(config, "policy", start=str(weights))[-1].revision
    sft = Store(Path(config.store)).find("local/tiny-sft", "main", "model")
    assert sft is not None
    for revision in (sft, policy):
        assert tokenizer_of(revision.path).chat_template == TEMPLATE
        assert isinstance(revision.manifest, Manifest)
        assert revision.manifest.configuration["engines.policy.chat_template"] == TEMPLATE
    # Its text counts, not the name of its file.
    (tmp_path / "chat.jinja").rename(tmp_path / "other.jinja")
    moved = configured(tmp_path, bare, *options, bge=bge_m3_dir)
    again = type(config).model_validate(
        moved.model_dump() | {"engines": {"policy": moved.engines.policy.model_dump() | {"chat_template": TEMPLATE}}}
    )
    assert not build(again, "sft")[-1].built
