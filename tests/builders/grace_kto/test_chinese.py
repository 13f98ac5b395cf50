"""A Chinese seed file from end to end, and Chinese beside English: no text is lost or changed, tokens are counted."""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from card_snapshots import fences, front_matter
from datasets_factory import add_dataset
from real_configs import config_on
from tiny_models import make_causal_lm

from builders.core.draws import query_id
from builders.engines import Completion, FinishReason, Message, More, SamplingSettings, one_by_one
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.messages import prompt_text
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import frame_of
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.extraction import extract
from training.pipelines import build

SEED_FILE = Path(__file__).parent / "seeds.zh.jsonl"
SEEDS: list[dict[str, str]] = [json.loads(line) for line in SEED_FILE.read_text(encoding="utf-8").splitlines()]
#: Replies to the prompt that asks for queries, and the queries in them; the last one is cut at the length limit.
LISTS = (
    "好的，以下是三条要求：\n"
    "［“撰写长江航道整治方案，附“十四五”投资表。”，“起草档案数字化管理办法”、「写一份夜间经济调研报告」］",
    '```python\nqueries.extend(["拟写"双减"政策落实情况通报"，'
    "'撰写《河长制》述职报告：\\n一、履职情况\\n二、存在问题', \"撰写一份未写",
)
ENGLISH_LIST = '["first request", "Write about locks.", "Write about weirs."]'
QUERIES = {
    "撰写长江航道整治方案，附“十四五”投资表。",
    "起草档案数字化管理办法",
    "写一份夜间经济调研报告",
    '拟写"双减"政策落实情况通报',
    "撰写《河长制》述职报告：\n一、履职情况\n二、存在问题",
}
SMALL = (
    "generate={queries: 5, shard_queries: 5, per_prompt: 3, prompt: generate.zh}",
    "sample={responses: 4, shard_queries: 5, max_new_tokens: 300, system_prompt: system.zh}",
    "score.context.window=64",  # tokens; most documents have more
    "score.max_length=128",
)


@dataclass
class Writer:
    """An engine whose texts are given, then encoded, cut and decoded as a model's are.

    A random model writes neither lists nor tags.
    """

    tokenizer: Any
    context_window: int = 4096
    asked: list[Sequence[Message]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        return one_by_one(self, more)

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        completions = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            question = prompt[-1]["content"]
            if "Python 列表" in question:
                text = LISTS[len(self.asked) % 2]
            else:
                text = ENGLISH_LIST if "Python list" in question else answer_to(question, seed)
            self.asked.append(prompt)
            self.written.append(text)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            kept = ids[: settings.max_new_tokens]
            decoded = self.tokenizer.decode(kept, skip_special_tokens=True)
            finish: FinishReason = "stop" if len(kept) == len(ids) else "length"
            completions.append(Completion(decoded, finish, len(kept), kept, -1.5 * len(kept)))
        return completions

    def close(self) -> None:
        """Nothing is held."""


def answer_to(question: str, seed: int) -> str:
    """A response in one of four ways: short, repetitive, too long, and with full-width brackets around its tags."""
    kind = seed % 4
    body = "　　一、总体情况\n　　今年以来，各项工作稳步推进，成效明显。"
    if kind == 1:
        body += "加强领导，落实责任。" * 8
    elif kind == 2:
        body += "".join(f"第{n}条 各单位应当按时报送材料。" for n in range(60))
    else:
        body += f"二、围绕“{question}”第{seed % 97}次会议作了部署。"
    text = f"<summary>{question}</summary>\n<outline>一、总体情况</outline>\n　<answer>{body}</answer>"
    return text.replace("<", "＜").replace(">", "＞") if kind == 3 else text


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer was trained on the seeds."""
    corpus = [text for seed in SEEDS for text in (seed["query"], seed["reference"])]
    return make_causal_lm(tmp_path_factory.mktemp("zh") / "zh-lm", corpus=corpus)


@pytest.fixture
def writer(policy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """The engine of every stage."""
    from transformers import AutoTokenizer

    made = Writer(AutoTokenizer.from_pretrained(policy_dir))
    monkeypatch.setattr("builders.core.stage.load_engine_for", lambda settings, model, rank, setting: made)
    return made


def config_for(folder: Path, policy: Path, domain: Path, relevance: Path, *overrides: str) -> GraceKTOSettings:
    columns = "seed.columns={query: query, reference: reference, language: language}"
    given = (f"seed.source={SEED_FILE}", columns, *SMALL, *overrides)
    return config_on(folder, *given, policy=policy, domain=domain, relevance=relevance)


def built(config: GraceKTOSettings, **given: Any) -> dict[str, Revision]:
    """All revisions up to the weights; a character without a glyph in a figure is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        return {result.stage: result.revision for result in build(config, "calibrate", **given)}


def test_the_seed_file_is_in_the_tagged_form() -> None:
    assert len(SEEDS) >= 12 and len({seed["query"] for seed in SEEDS}) == len(SEEDS)
    assert all(extract(seed["reference"]) is not None for seed in SEEDS)


@pytest.mark.slow
def test_chinese_from_the_seeds_to_the_weights(
    tmp_path: Path, policy_dir: Path, causal_lm_dir: Path, bge_m3_dir: Path, writer: Writer
) -> None:
    made = built(config_for(tmp_path, policy_dir, causal_lm_dir, bge_m3_dir))
    rows = {stage: revision.scan().collect() for stage, revision in made.items()}

    assert rows["seed"].select("query", "reference", "language").to_dicts() == SEEDS
    queries = rows["generate"]
    assert set(queries["query"]) == QUERIES and queries.height == 5
    assert queries["query_id"].to_list() == [query_id(query) for query in queries["query"]]
    assert set(queries["language"]) == {"zh"}
    # The prompt shows seeds as they are, in the prompt file's own language.
    asked = writer.asked[0][-1]["content"]
    assert asked.startswith("以下是用户提出的5条长篇文稿写作要求。")
    assert sum(seed["query"] in asked for seed in SEEDS) == 5

    check_groups(rows["sample"], writer)
    check_scores(rows["score"], made["score"], writer.tokenizer, bge_m3_dir)
    weights = rows["calibrate"]
    system = {"role": "system", "content": prompt_text("system.zh")}
    for row in weights.iter_rows(named=True):
        assert row["prompt"] == [system, {"role": "user", "content": row["query"]}]
        assert row["completion"] == [{"role": "assistant", "content": row["response"]}]
    assert weights.filter("matched")["reward"].null_count() == 0 and weights["label"].any()

    for stage, revision in made.items():
        text = (revision.path / "README.md").read_text(encoding="utf-8")
        assert front_matter(text)["language"] == ["zh"]
        shown = json.loads(fences(text, "json")[0])["query"]
        assert shown in set(rows[stage]["query"]) and "\\u" not in fences(text, "json")[0]
    assert prompt_text("generate.zh") in (made["generate"].path / "README.md").read_text(encoding="utf-8")
    assert (made["calibrate"].path / "figure-weights.png").read_bytes().startswith(b"\x89PNG")


def check_groups(groups: pl.DataFrame, writer: Writer) -> None:
    """Whole responses are the texts that were written; matched ones are taken apart and nothing in them changed."""
    whole = groups.filter(pl.col("finish_reason") == "stop")
    cut = groups.filter(pl.col("finish_reason") == "length")
    assert 0 < cut.height < groups.height == 20 and not cut["matched"].any()
    assert set(whole["response"]) <= set(writer.written)
    # A cut may fall inside a character's bytes; what stands before it is as it was written.
    for response in cut["response"]:
        assert any(text.startswith(response.rstrip("\ufffd")) for text in writer.written)
    for row in whole.iter_rows(named=True):
        assert row["matched"] is not row["response"].startswith("＜")
        if row["matched"]:
            assert row["summary"] == row["query"] and row["outline"] == "一、总体情况"
            assert f"<answer>　　{row['document']}</answer>" in row["response"]
    assert whole["matched"].any() and not whole["matched"].all()


def check_scores(scores: pl.DataFrame, revision: Revision, tokenizer: Any, relevance: Path) -> None:
    """Length, n-grams, windows and limits are tokens', which blanks between words have no part in."""
    from transformers import AutoTokenizer

    matched = scores.filter("matched")
    texts: set[str] = set()
    for row in matched.iter_rows(named=True):
        ids = tokenizer(row["document"], add_special_tokens=False)["input_ids"]
        grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
        assert row["length"] == len(ids) != len(row["document"])
        assert row["diversity"] == pytest.approx(100 * len(set(grams)) / len(grams))
        # A sentence said eight times shows, though there is no blank in it.
        assert (row["diversity"] < 80) is ("加强领导" in row["document"])
        assert row["length"] > 64 or "加强领导" not in row["document"]
        assert math.isfinite(row["ppl_general"]) and math.isfinite(row["relevance_document"])
        texts |= {row["query"], row["summary"], row["document"]}
    bge = AutoTokenizer.from_pretrained(relevance)
    long = [text for text in texts if len(bge(text)["input_ids"]) > 128]
    assert long and min(map(len, long)) < 128  # shorter than the limit in characters
    assert revision.manifest is not None and revision.manifest.counts["texts cut for relevance"] == len(long)
    assert scores.filter(~pl.col("matched"))["length"].null_count() == scores.height - matched.height > 0


@pytest.mark.slow
def test_chinese_and_english_in_one_dataset_stay_apart(
    tmp_path: Path, policy_dir: Path, causal_lm_dir: Path, bge_m3_dir: Path, writer: Writer
) -> None:
    config = config_for(tmp_path, policy_dir, causal_lm_dir, bge_m3_dir, "sample.system_prompt=system")
    asked = {"写一份夜间经济调研报告": "zh", "Write a report on the night economy.": "en"}
    common = {"round": 1, "example_ids": [], "generator": "m@r"}
    frame = [{"query_id": query_id(q), "query": q, "language": code, **common} for q, code in asked.items()]
    start = add_dataset(Store(Path(config.store)), "generate", frame_of(frame, QUERIES_COLUMNS))
    made = built(config, start=f"{start.repo}@{start.revision}")

    seen = {prompt[-1]["content"]: prompt[0]["content"] for prompt in writer.asked}
    assert seen == {query: prompt_text(f"system.{code}") for query, code in asked.items()}
    # Training gets the messages that were answered, though the rows carry no language.
    weights = made["calibrate"].scan().collect()
    assert "language" not in weights.columns
    assert {row["query"]: row["prompt"][0]["content"] for row in weights.iter_rows(named=True)} == seen
    for revision in made.values():
        assert revision.manifest is not None
        assert set(revision.manifest.prompts) == {"system.en", "system.zh"}
        assert front_matter((revision.path / "README.md").read_text(encoding="utf-8"))["language"] == ["en", "zh"]
    recipe = fences((made["calibrate"].path / "README.md").read_text(encoding="utf-8"), "yaml")[0]
    assert "system_prompt: system\n" in recipe


def test_prompts_for_queries_speak_the_language_of_their_examples(
    tmp_path: Path, policy_dir: Path, causal_lm_dir: Path, bge_m3_dir: Path, writer: Writer
) -> None:
    english = [f"Please write a report on harbour {n}." for n in range(6)]
    rows = [*SEEDS[:6], *({"query": query, "reference": "", "language": "en"} for query in english)]
    source = tmp_path / "mixed.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = config_for(
        tmp_path,
        policy_dir,
        causal_lm_dir,
        bge_m3_dir,
        f"seed.source={source}",
        "generate={queries: 5, per_prompt: 1, prompt: generate, max_attempts: 100}",
    )
    revision = build(config, "generate")[-1].revision
    found = revision.scan().collect()
    assert set(found["language"]) == {"zh", "en"}
    for row in found.iter_rows(named=True):
        assert (row["query"] in QUERIES) is (row["language"] == "zh")
    seeds = {query_id(row["query"]): row["language"] for row in rows}
    for row in found.iter_rows(named=True):
        assert {seeds[identity] for identity in row["example_ids"]} == {row["language"]}
    for prompt in writer.asked:
        text = prompt[-1]["content"]
        chinese = text.startswith("以下是")
        shown = [row for row in rows if row["query"] in text]
        assert len(shown) == 5 and {row["language"] == "zh" for row in shown} == {chinese}
    manifest = revision.manifest
    assert manifest is not None and set(manifest.prompts) == {"generate.en", "generate.zh", "system.zh"}
    assert manifest.rows.dropped["shown in the prompt"] >= 1
