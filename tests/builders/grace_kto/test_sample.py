"""Sampling with the real engine on a random policy: groups, seeds, log-probabilities, and policies that misbehave."""

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets_factory import add_dataset
from real_configs import config_on
from tiny_models import CHAT_TEMPLATE, make_reciting_lm
from tolerances import log_likelihood

from builders.core.draws import derive_seed, query_id
from builders.core.models import ModelFinder, load_engine_for
from builders.core.prompting import chat
from builders.engines import Completion, Engine, Message, More, SamplingSettings, one_by_one
from builders.grace_kto.columns import GROUPS_COLUMNS, QUERIES_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.inspect.verify import verify
from builders.store.columns import check_frame, frame_of
from builders.store.manifest import Rows
from builders.store.store import Store
from scorers.errors import UserError
from training.pipelines import PIPELINES, build

QUERIES = [f"Write about pier {n}." for n in range(3)]
SMALL = "sample={responses: 3, system_prompt: null, max_new_tokens: 6, shard_queries: 2}"


def add_queries(store: Store, queries: Sequence[str] = QUERIES) -> str:
    rows = [
        {"query_id": query_id(q), "query": q, "language": "en", "round": 1, "example_ids": [], "generator": "m@r"}
        for q in queries
    ]
    made = add_dataset(store, "generate", frame_of(rows, QUERIES_COLUMNS))
    return f"{made.repo}@{made.revision}"


def policy_engine(config: GraceKTOSettings) -> Engine:
    """The engine that the stage uses, loaded once more."""
    return load_engine_for(config.engines.policy, ModelFinder(Store(Path(config.store))).find(config.models.policy))


def changed_policy(source: Path, folder: Path, scale: float) -> Path:
    """A copy of a policy with its last normalisation scaled: 0 makes every logit 0, NaN every logit NaN."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(source, folder)
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.model.norm.weight *= scale
    model.save_pretrained(folder)
    return folder


def test_groups_of_a_random_policy(tmp_path: Path, causal_lm_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = config_on(tmp_path, SMALL, policy=causal_lm_dir)
    store = Store(Path(config.store))
    built = build(config, "sample", start=add_queries(store))
    assert [result.stage for result in built] == ["sample"]
    revision = built[-1].revision
    rows = revision.scan().collect()
    check_frame(rows, GROUPS_COLUMNS, "groups")
    asked = [(query, j) for query in QUERIES for j in range(3)]
    assert rows["query"].to_list() == [query for query, _ in asked]
    assert rows["response_id"].to_list() == [f"{query_id(query)}-{j}" for query, j in asked]
    draws = [derive_seed(0, 1, query_id(query), j) for query, j in asked]
    assert rows["sample_seed"].to_list() == draws and len(set(draws)) == 9
    assert len(revision.data_files()) == 2 and rows["response"].n_unique() > 6

    # The same draws once more give the token ids; a plain forward pass gives their log-probabilities.
    engine = policy_engine(config)
    settings = SamplingSettings(max_new_tokens=6, temperature=1.0, top_p=config.sample.top_p)
    again = engine.generate([chat(query) for query, _ in asked], draws, settings)
    assert [completion.text for completion in again] == rows["response"].to_list()
    model = AutoModelForCausalLM.from_pretrained(causal_lm_dir)
    for (query, _), completion, logprob in zip(asked, again, rows["logprob"], strict=True):
        prompt = engine.tokenizer.apply_chat_template(chat(query), add_generation_prompt=True, return_dict=False)
        assert completion.token_ids is not None
        ids = torch.tensor([prompt + completion.token_ids])
        with torch.inference_mode():
            steps = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = steps.gather(1, ids[0, len(prompt) :, None]).sum().item()
        assert logprob == pytest.approx(expected, abs=log_likelihood(6))

    manifest = revision.manifest
    assert manifest is not None
    assert manifest.rows.read == 3 and manifest.rows.written == 9 and manifest.rows.dropped == {}
    assert manifest.counts["matched"] == 0 and manifest.counts["groups without a matched response"] == 3
    assert manifest.counts["tokens"] == rows["num_tokens"].sum()
    assert not rows["matched"].any() and rows.select("summary", "outline", "document").null_count().row(0) == (9, 9, 9)


def test_the_system_prompt_is_part_of_what_is_answered(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, SMALL, policy=causal_lm_dir)
    start = add_queries(Store(Path(config.store)))
    plain = build(config, "sample", start=start)[-1]
    assert not build(config, "sample", start=start)[-1].built
    changed = config_on(tmp_path, SMALL, "sample.system_prompt=system.zh", policy=causal_lm_dir)
    again = build(changed, "sample", start=start)[-1]
    assert again.reason == "configuration changed: sample.system_prompt"
    both = [result.revision.scan().collect()["logprob"].to_list() for result in (plain, again)]
    assert both[0] != both[1]


def test_a_smaller_batch_on_another_device_makes_nothing_stale(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, SMALL, policy=causal_lm_dir)
    start = add_queries(Store(Path(config.store)))
    first = build(config, "sample", start=start)[-1]
    manifest = first.revision.manifest
    assert first.built and manifest is not None
    assert manifest.execution == {"engines.policy": {"device": "cpu", "batch_size": 256}}
    assert set(manifest.configuration) == {"sample", "engines.policy", "random_seed", "threads"}
    decides = {"kind", "dtype", "context_window", "yarn_factor", "chat_template", "chat_template_kwargs"}
    assert set(manifest.configuration["engines.policy"]) == decides
    overrides = (SMALL, "engines.policy.batch_size=1", "engines.policy.device=auto")
    kept = build(config_on(tmp_path, *overrides, policy=causal_lm_dir), "sample", start=start)[-1]
    assert not kept.built and kept.revision == first.revision
    changed = config_on(tmp_path, *overrides, "engines.policy.context.window=100", policy=causal_lm_dir)
    assert build(changed, "sample", start=start)[-1].reason == "configuration changed: engines.policy.context"


class Server:
    """An engine that tells the texts and how many tokens they have, nothing else."""

    context_window = 4096
    tokenizer: Any = None

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int], settings: SamplingSettings
    ) -> list[Completion]:
        tagged = "<summary>A.</summary><outline>B.</outline><answer>C.</answer>"
        return [Completion(tagged if seed % 2 else "no tags", "stop", 4) for seed in seeds]

    def stream(self, more: More) -> Iterator[tuple[Any, list[Completion]]]:
        return one_by_one(self, more)

    def close(self) -> None:
        """Nothing is held."""


def test_an_engine_without_log_probabilities(
    tmp_path: Path, causal_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.core.stage.load_engine_for", lambda settings, model, rank, setting: Server())
    config = config_on(tmp_path, SMALL, policy=causal_lm_dir)
    # How long a prompt is for such an engine, it alone can say.
    queries = [*QUERIES[:2], f"{QUERIES[2]} " * 1000]
    revision = build(config, "sample", start=add_queries(Store(Path(config.store)), queries))[-1].revision
    rows = revision.scan().collect()
    check_frame(rows, GROUPS_COLUMNS, "groups")
    assert rows["logprob"].to_list() == [None] * 9 and rows["num_tokens"].to_list() == [4] * 9
    odd = rows["sample_seed"] % 2 == 1
    assert 0 < odd.sum() < 9 and rows["matched"].to_list() == odd.to_list()
    assert set(rows.filter(odd)["document"]) == {"C."}
    assert revision.manifest is not None and set(revision.manifest.metrics) == {"num_tokens"}
    assert revision.manifest.counts["tokens"] == 36


PIERS = ("Write about pier 1.", "Write about pier 2.")  # equally many tokens, as a reciting policy needs
TAGGED = "<summary>S.</summary><outline>O.</outline><answer>The harbour grew.</answer>"
THOUGHT = "First <summary> a plan.</think>\n\n"
OPENED = CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")  # the block begins in the prompt


def sampled(tmp_path: Path, policy: Path, *overrides: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """Two responses of a policy to each of two queries, and what the stage counted."""
    config = config_on(tmp_path, SMALL, "sample.max_new_tokens=70", "sample.responses=2", *overrides, policy=policy)
    start = add_queries(Store(Path(config.store)), PIERS)
    revision = build(config, "sample", start=start)[-1].revision
    assert revision.manifest is not None
    return revision.scan().collect(), revision.manifest.counts


@pytest.mark.parametrize(
    ("template", "answer"), [(CHAT_TEMPLATE, "<think>" + THOUGHT + TAGGED), (OPENED, THOUGHT + TAGGED)]
)
def test_a_thinking_block_is_cut_and_counted(tmp_path: Path, template: str, answer: str) -> None:
    policy = make_reciting_lm(tmp_path / "policy", PIERS[0], answer, template)
    rows, counts = sampled(tmp_path, policy)
    check_frame(rows, GROUPS_COLUMNS, "groups")
    assert rows["response"].to_list() == [TAGGED] * 4 and rows["document"].to_list() == ["The harbour grew."] * 4
    # The tokens are those that the policy wrote; their log-probability is not that of the response.
    config = config_on(tmp_path, policy=policy)
    written = len(policy_engine(config).tokenizer(answer)["input_ids"]) + 1
    assert rows["num_tokens"].to_list() == [written] * 4 and rows["finish_reason"].to_list() == ["stop"] * 4
    assert rows["logprob"].to_list() == [None] * 4
    assert counts["thinking cut"] == 4 and "thinking without an end" not in counts and counts["matched"] == 4

    # Cut off inside the block: a response that does not match, whatever it drafts.
    rows, counts = sampled(tmp_path, policy, "sample.max_new_tokens=8")
    assert all(answer.startswith(text) and text for text in rows["response"]) and not rows["matched"].any()
    assert rows["logprob"].null_count() == 0 and rows["finish_reason"].to_list() == ["length"] * 4
    assert counts["thinking without an end"] == 4 and "thinking cut" not in counts

    rows, counts = sampled(tmp_path, policy, "sample.thinking_tags=null")
    assert rows["response"].to_list() == [answer] * 4 and not rows["matched"].any()
    assert rows["logprob"].null_count() == 0 and not any(name.startswith("thinking") for name in counts)


def test_a_draft_inside_a_block_that_never_ends_is_no_response(tmp_path: Path) -> None:
    policy = make_reciting_lm(tmp_path / "policy", PIERS[0], TAGGED, OPENED)
    rows, counts = sampled(tmp_path, policy)
    assert rows["response"].to_list() == [TAGGED] * 4 and not rows["matched"].any()
    assert rows["document"].null_count() == 4 and counts["thinking without an end"] == 4


def test_other_tags_and_a_policy_that_does_not_think(tmp_path: Path) -> None:
    tags = "sample.thinking_tags=['[T]', '[/T]']"
    policy = make_reciting_lm(tmp_path / "policy", PIERS[0], "[T]Plan.[/T]" + TAGGED)
    assert sampled(tmp_path, policy, tags)[1]["thinking cut"] == 4
    assert not sampled(tmp_path, policy)[0]["matched"].any()
    plain = make_reciting_lm(tmp_path / "plain", PIERS[0], TAGGED)
    rows, counts = sampled(tmp_path, plain)
    assert rows["matched"].all() and rows["logprob"].null_count() == 0
    assert not any(name.startswith("thinking") for name in counts)


LONG = "Write about " + "river trade and harbours, " * 100


def test_queries_without_room_for_a_response_are_left_out(
    tmp_path: Path, causal_lm_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One such query ended the stage, with a message that named a row of a shard."""
    config = config_on(tmp_path, SMALL, "sample.shard_queries=1", policy=causal_lm_dir)
    store = Store(Path(config.store))
    # Of somebody else's queries; a shard of their own would have no row.
    queries = [f"{LONG}1.", QUERIES[0], f"{LONG}2.", f"{LONG}3.", *QUERIES[1:]]
    revision = build(config, "sample", start=add_queries(store, queries))[-1].revision
    plain = build(config, "sample", start=add_queries(store))[-1].revision
    assert revision.scan().collect().equals(plain.scan().collect())
    assert len(revision.data_files()) == 3 and verify(revision, PIPELINES) == []
    assert revision.manifest is not None
    assert revision.manifest.rows == Rows(read=6, written=9, dropped={"query over the context window": 3})
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"sample: 3 of 6 queries are left out, the first is query_id {query_id(queries[0])}: they leave no room for "
        "sample.max_new_tokens 6 in the policy's context window of 512 tokens"
    ]


def test_the_system_prompt_takes_room_too(tmp_path: Path, causal_lm_dir: Path) -> None:
    # The first query has 191 tokens, the system prompt 294, the template some ten for each message.
    start = add_queries(Store(Path(config_on(tmp_path, policy=causal_lm_dir).store)), [LONG[:700], QUERIES[0]])
    window = "engines.policy.context.window=450"
    dropped = []
    for system in ("null", "system.en"):
        config = config_on(tmp_path, SMALL, window, f"sample.system_prompt={system}", policy=causal_lm_dir)
        manifest = build(config, "sample", start=start)[-1].revision.manifest
        assert manifest is not None
        dropped.append(manifest.rows.dropped)
    assert dropped == [{}, {"query over the context window": 1}]


def test_no_query_has_room_for_a_response(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, SMALL, "sample.max_new_tokens=500", policy=causal_lm_dir)
    message = (
        r"^local/demo-queries@\w+: none of 3 queries leaves room for sample.max_new_tokens 500 in the policy's context "
        r"window of 512 tokens; lower sample.max_new_tokens, or use shorter queries, a shorter system prompt or a "
        r"policy with a larger window \(engines.policy.context stretches it\)$"
    )
    with pytest.raises(UserError, match=message):
        build(config, "sample", start=add_queries(Store(Path(config.store))))
    assert Store(Path(config.store)).refs("local/tiny-groups") == {}


def test_a_query_that_is_null(tmp_path: Path, causal_lm_dir: Path) -> None:
    row = {"language": "en", "round": 1, "example_ids": ["a"], "generator": "m@r"}
    rows = [row | {"query_id": "a", "query": "Write."}, row | {"query_id": "b", "query": None}]
    pl.DataFrame(rows).write_parquet(tmp_path / "queries.parquet")
    config = config_on(tmp_path, SMALL, policy=causal_lm_dir)
    with pytest.raises(UserError, match=r"queries\.parquet: query is null in query_id b, a value is needed"):
        build(config, "sample", start=str(tmp_path / "queries.parquet"))


def test_a_policy_that_never_ends_its_answer(tmp_path: Path, causal_lm_dir: Path) -> None:
    # All logits are 0, so greedy decoding takes the first token for ever, at log-probability -log(vocabulary).
    policy = changed_policy(causal_lm_dir, tmp_path / "endless", 0.0)
    config = config_on(tmp_path, SMALL, "sample.temperature=0", policy=policy)
    revision = build(config, "sample", start=add_queries(Store(Path(config.store))))[-1].revision
    rows = revision.scan().collect()
    assert rows["finish_reason"].to_list() == ["length"] * 9
    assert rows["num_tokens"].to_list() == [6] * 9
    vocabulary = len(policy_engine(config).tokenizer)
    assert rows["logprob"].to_list() == pytest.approx([-6 * math.log(vocabulary)] * 9, abs=log_likelihood(6))
    assert revision.manifest is not None and revision.manifest.counts["cut at the length limit"] == 9


def test_a_policy_with_nan_logits_names_the_row_and_writes_nothing(tmp_path: Path, causal_lm_dir: Path) -> None:
    policy = changed_policy(causal_lm_dir, tmp_path / "broken", math.nan)
    config = config_on(tmp_path, SMALL, policy=policy)
    store = Store(Path(config.store))
    with pytest.raises(UserError, match=r"row \d+: the model gave NaN or infinite logits; check the checkpoint"):
        build(config, "sample", start=add_queries(store))
    assert store.refs("local/tiny-groups") == {}
    assert not list((store.root / ".work").rglob("*.parquet"))


def test_queries_without_their_columns(tmp_path: Path, causal_lm_dir: Path) -> None:
    pl.DataFrame({"question": ["Write A."]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"none of its columns \(question\) is one that a stage above sample adds"):
        build(config_on(tmp_path, SMALL, policy=causal_lm_dir), "sample", start=str(tmp_path / "other.parquet"))
