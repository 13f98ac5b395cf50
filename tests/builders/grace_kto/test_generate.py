"""Query generation: what is dropped and why, that neither order nor interruption decides it, and useless replies."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from datasets_factory import add_dataset, add_model
from real_configs import SEEDS, config_on
from scripted_engine import context_of

from builders.core.asking import answered
from builders.core.draws import query_id
from builders.core.query_parser import Parsed, list_pattern
from builders.core.stage import Asks, At, Context, Shard, row_shards
from builders.core.work import build_shards
from builders.engines import Message
from builders.engines.prompts import encode_prompts
from builders.grace_kto import generate
from builders.grace_kto.columns import QUERIES_COLUMNS
from builders.grace_kto.settings import GraceKTOSettings
from builders.store.columns import check_frame, frame_of
from builders.store.revision import Revision
from builders.store.shards import shard_counts
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import build, plan


def made(context: Context[GraceKTOSettings]) -> tuple[pl.DataFrame, Counter[str]]:
    """All rows of the stage, and the sum of its shards' counts."""
    paths = build_shards(GRACE_KTO.stage("generate"), context)
    return pl.concat(pl.read_parquet(path) for path in paths), sum((Counter(shard_counts(p)) for p in paths), Counter())


def test_every_drop_is_counted_by_its_reason(tmp_path: Path, causal_lm_dir: Path) -> None:
    replies = [
        "I cannot do that.",
        repr(["  ", SEEDS[0], f" {SEEDS[1]}\n", "x" * 41, "Write A."]),
        repr(["Write A.", " Write A. ", "Write B.", "Write C.", "Write D."]),
    ]
    few = ("generate.queries=2", "generate.max_query_chars=40")
    context, engine = context_of(tmp_path, causal_lm_dir, replies, *few)
    rows, counts = made(context)
    assert rows["query"].to_list() == ["Write A.", "Write B."]
    # One prompt could do, then as many again, then a tenth more than what is missing takes at the yield so far.
    assert engine.calls == [1, 1, 2]
    assert counts == {
        "read": 4,
        "dropped.reply without a list": 2,
        "dropped.blank": 1,
        "dropped.shown in the prompt": 2,
        "dropped.duplicate": 2,
        "dropped.over-long": 1,
        "dropped.surplus": 2,
    }
    check_frame(rows, QUERIES_COLUMNS, "queries")
    row = rows.row(0, named=True)
    assert row["query_id"] == query_id("Write A.") and row["round"] == 1 and row["language"] == "en"
    assert row["generator"].startswith(f"{causal_lm_dir.name}@")
    # The row names the seeds that its prompt showed, five of six, each once.
    shown = {query_id(seed) for seed in SEEDS if seed in engine.asked[1][0]}
    assert len(row["example_ids"]) == 5 and set(row["example_ids"]) == shown


def test_prompts_and_seeds_depend_on_round_and_number_alone(tmp_path: Path, causal_lm_dir: Path) -> None:
    def asked(spec: tuple[int, int], round_: int = 1) -> list[tuple[str, int]]:
        context, engine = context_of(tmp_path, causal_lm_dir, ["['a']"])
        context.round = round_
        assert isinstance(generate.ASK.build, Asks)
        list(answered(generate.ASK.build, context, [Shard(0, spec)]))
        return engine.asked

    assert asked((0, 3)) == asked((0, 3)) == asked((0, 1)) + asked((1, 2))
    assert len({seed for round_ in (1, 2) for _, seed in asked((0, 3), round_)}) == 6


def test_duplicates_of_earlier_rounds(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, policy=causal_lm_dir)
    row = {"language": "en", "round": 1, "example_ids": [], "generator": "m@r"}
    old = frame_of([row | {"query": "Old.", "query_id": query_id("Old.")}], QUERIES_COLUMNS)
    store = Store(Path(config.store))
    add_dataset(store, "generate", old, repo="local/tiny-queries")
    policy = add_model(store, "local/tiny-policy", round_=1)
    replies = [repr(["Old.", "New."]), repr(["Newer.", "New.", "Surplus."])]
    context, _ = context_of(tmp_path, causal_lm_dir, replies, "generate.queries=2", "generate.per_prompt=1", round_=2)
    rows, counts = made(context)
    assert rows["query"].to_list() == ["New.", "Newer."]
    assert counts == {"read": 2, "dropped.duplicate": 2, "dropped.surplus": 1}
    assert set(rows["round"]) == {2} and set(rows["generator"]) == {str(policy)}


LONG = "Please write a detailed report for the harbour board on the state of the northern quay and its cranes"


def test_near_duplicates_of_seeds_earlier_rounds_and_one_another(tmp_path: Path, causal_lm_dir: Path) -> None:
    old = f"{LONG} after the storm."
    row = {"language": "en", "round": 1, "example_ids": [], "generator": "m@r"}
    store = Store(Path(config_on(tmp_path, policy=causal_lm_dir).store))
    rows = frame_of([row | {"query": old, "query_id": query_id(old)}], QUERIES_COLUMNS)
    add_dataset(store, "generate", rows, repo="local/tiny-queries")
    add_model(store, "local/tiny-policy", round_=1)
    chinese = "请为港务局撰写一份关于北码头及其起重机现状的详细报告,并提出三年内的维修计划和预算"
    replies = [
        repr([f"{SEEDS[2][:-1]}!", f"{LONG}, after the storm!", f"{chinese}。", f"{chinese}!"]),
        repr(["Write a speech.", "Write a plan."]),
    ]
    # A language of which nothing is told by its script: the replies are in two.
    near = ("generate.queries=3", "generate.near_duplicate_threshold=0.8", "seed.language=mul")
    context, _ = context_of(tmp_path, causal_lm_dir, replies, *near, round_=2)
    found, counts = made(context)
    assert found["query"].to_list() == [f"{chinese}。", "Write a speech.", "Write a plan."]
    assert counts == {"read": 2, "dropped.near-duplicate": 3}
    off = replace(
        context, config=config_on(tmp_path, "generate.queries=3", policy=causal_lm_dir), work=tmp_path / "off"
    )
    assert "dropped.near-duplicate" not in made(off)[1]


def test_a_prompt_that_does_not_fit_the_window_shows_fewer_examples(tmp_path: Path, causal_lm_dir: Path) -> None:
    """One long seed among five made the stage fail: "prompt of row …: … tokens … exceed the context window"."""
    from transformers import AutoTokenizer

    source = tmp_path / "seeds.jsonl"
    long = "Please write a report on " + "harbours and quays and " * 40
    source.write_text("".join(json.dumps({"query": query}) + "\n" for query in (*SEEDS, long, f"{long} too")))
    replies = lambda seed: f"['Write {seed}.']"  # noqa: E731
    context, engine = context_of(tmp_path, causal_lm_dir, replies, "generate.queries=40", "generate.per_prompt=1")
    engine.tokenizer, engine.context_window = AutoTokenizer.from_pretrained(causal_lm_dir), 600
    rows, counts = made(context)
    tokens = [
        len(encode_prompts(engine.tokenizer, [[message(text)]], [0], 0, 10**6, {})[0]) for text, _ in engine.asked
    ]
    assert max(tokens) <= 600 - context.config.generate.max_new_tokens
    assert counts["read"] == rows.height == 40 and 0 < counts["examples left out"] <= 80
    sizes = rows["example_ids"].list.len()
    assert sizes.min() in (3, 4) and sizes.max() == 5 and 200 - int(sizes.sum()) == counts["examples left out"]
    assert not {query_id(long), query_id(f"{long} too")} & set(rows["example_ids"].explode())
    # Where nothing fits, that is said.
    little = ("generate.queries=40", "generate.per_prompt=1", "sample.max_new_tokens=8")
    context, engine = context_of(tmp_path, causal_lm_dir, replies, *little)
    engine.tokenizer, engine.context_window = AutoTokenizer.from_pretrained(causal_lm_dir), 161
    assert context.config.generate.max_new_tokens == 160
    with pytest.raises(UserError, match=r"no prompt fits .* \(40 were tried\); lower generate.max_new_tokens"):
        made(context)


def test_queries_that_sample_could_not_answer_are_dropped(tmp_path: Path, causal_lm_dir: Path) -> None:
    """They went into the data set and ended `sample`."""
    from transformers import AutoTokenizer

    replies = [repr(["Write A.", "Write about " + "harbours and quays " * 20, "Write B."])]
    two = ("generate.queries=2", "sample.max_new_tokens=400")
    context, engine = context_of(tmp_path, causal_lm_dir, replies, *two)
    engine.tokenizer, engine.context_window = AutoTokenizer.from_pretrained(causal_lm_dir), 500
    rows, counts = made(context)
    assert rows["query"].to_list() == ["Write A.", "Write B."]
    assert counts == {"read": 1, "dropped.query over the context window": 1}
    # A system prompt takes of the same room, here all of it: that is told before the policy is asked.
    context, engine = context_of(tmp_path, causal_lm_dir, replies, *two, "sample.system_prompt=system")
    engine.tokenizer, engine.context_window = AutoTokenizer.from_pretrained(causal_lm_dir), 500
    with pytest.raises(UserError, match=r"^query generation: no query, however short, leaves room for sample\.max_new"):
        made(context)
    assert engine.asked == []


def test_the_way_out_where_queries_leave_no_room() -> None:
    counts = {"read": 9, "dropped.query over the context window": 5}
    assert generate.exhausted(1, 4, counts) == (
        "query generation: 1 of 4 queries after 9 prompts (dropped: 5 query over the context window); "
        "raise generate.max_attempts or generate.max_new_tokens, lower sample.max_new_tokens, "
        "or look at the policy's replies"
    )


def test_a_query_in_another_language_than_the_seeds_is_dropped() -> None:
    counts: Counter[str] = Counter()
    read = Parsed(["请写一份报告。", "Write a report."], 0, 0)
    assert generate.usable(read, 100, "en", counts) == ["Write a report."]
    assert generate.usable(read, 100, "zh-CN", counts) == ["请写一份报告。"]
    assert generate.usable(read, 100, "fr", counts) == read.queries and counts["dropped.other language"] == 2


def message(text: str) -> Message:
    return {"role": "user", "content": text}


def test_a_million_queries_make_some_thousand_shards(tmp_path: Path, causal_lm_dir: Path) -> None:
    """What decides the number of shards is the number of rows; it was refused from 320,000 queries on."""
    config: GraceKTOSettings = config_on(tmp_path, "generate.shard_queries=null", policy=causal_lm_dir)
    for rows, size in ((250, 32), (64_000, 32), (1_000_000, 500), (3_000_001, 1501)):
        shards = row_shards(rows, config.generate.shard_queries, generate.QUERIES_PER_SHARD)
        assert shards[0].spec == (0, min(rows, size)) and len(shards) <= 2000
        assert sum(shard.spec[1] for shard in shards) == rows
    assert len(row_shards(9, 2, 32)) == 5


def test_a_round_reads_the_queries_of_every_round_before(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(tmp_path, policy=causal_lm_dir)
    assert generate.earlier_rounds(config, 1) == {}
    assert generate.earlier_rounds(config, 3) == {
        "queries round-001": At("generate", 1),
        "queries round-002": At("generate", 2),
    }
    # What is missing of them is built first, the policies that write them too.
    steps = [(step.stage, step.round) for step in plan(config, "generate", round_=3) if step.action == "build"]
    assert steps[-1] == ("generate", 3)
    wanted = [("generate", 1), ("policy", 1), ("generate", 2), ("policy", 2)]
    assert [step for step in steps if step in wanted] == wanted
    assert not Path(config.store).exists()


def test_spent_attempts_say_what_was_dropped(tmp_path: Path, causal_lm_dir: Path) -> None:
    replies = ["['Write A.', '']", "nothing"]
    context, engine = context_of(tmp_path, causal_lm_dir, replies, "generate.max_attempts=3", "generate.per_prompt=1")
    with pytest.raises(UserError) as error:
        generate.plan(context)
    assert len(engine.asked) == 12
    assert str(error.value) == (
        "query generation: 1 of 4 queries after 12 prompts (dropped: 6 blank, 5 duplicate, 6 reply without a list); "
        "raise generate.max_attempts or generate.max_new_tokens, or look at the policy's replies: the first one that "
        'no query was read from is "nothing"; all are in '
        f"{next(tmp_path.glob('parts-*'))}/unread-00000.jsonl and 1 more beside it"
    )
    kept = [json.loads(line) for line in next(tmp_path.glob("parts-*/unread-00000.jsonl")).read_text().splitlines()]
    assert [(row["reply"], row["finish_reason"]) for row in kept] == [("nothing", "stop")] * 2
    assert kept[0]["prompt"] in {text for text, _ in engine.asked}


def test_an_unread_reply_is_quoted_on_one_line_and_kept_as_it_is(tmp_path: Path, causal_lm_dir: Path) -> None:
    reply = 'I will "think".\n\x1b[31m\u202eFirst \ud800 内卷' + "!" * 300
    context, engine = context_of(tmp_path, causal_lm_dir, [reply], "generate.max_attempts=1")
    with pytest.raises(UserError) as error:
        generate.plan(context)
    message = str(error.value)
    assert (
        r': the first one that no query was read from is "I will \"think\".\n\x1b[31m\u202eFirst \ud800 内卷!!!'
        in message
    )
    assert "\n" not in message and '!!!…"; all are in ' in message and len(message) < 500 + len(str(tmp_path))
    lines = (generate.parts_of(context).work / "unread-00000.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["reply"] for line in lines] == [reply] * len(engine.asked)


def test_hostile_replies_become_plain_text(tmp_path: Path, causal_lm_dir: Path) -> None:
    hostile = "{{ 7 * 7 }} </answer> ../../etc \0 \x1b[31m"
    replies = [repr([hostile]), '["half \\ud800 a character"]']
    context, _ = context_of(tmp_path, causal_lm_dir, replies, "generate.queries=2", "generate.per_prompt=1")
    assert made(context)[0]["query"].to_list() == [hostile, "half \ufffd a character"]


def test_shards_cover_k(tmp_path: Path, causal_lm_dir: Path) -> None:
    context, _ = context_of(tmp_path, causal_lm_dir, lambda seed: f"['{seed}', '{seed} more']", "generate.queries=5")
    shards = generate.plan(context)
    part = str(generate.parts_of(context).work / "shard-00000.parquet")
    assert [(s.index, s.spec) for s in shards] == [
        (0, ([(part, [0, 1])], {"read": 3, "dropped.surplus": 1})),
        (1, ([(part, [2, 3])], {})),
        (2, ([(part, [4])], {})),
    ]


def assert_nothing_written(config: GraceKTOSettings) -> Revision:
    store = Store(Path(config.store))
    repo = GRACE_KTO.repo(GRACE_KTO.stage("generate"), config)
    assert store.refs(repo) == {} and not list(store.root.glob(f"datasets--{repo.replace('/', '--')}/**/*.parquet"))
    found = store.find(GRACE_KTO.repo(GRACE_KTO.stage("seed"), config), "main")
    assert found is not None
    return found


def test_a_round_whose_queries_all_fail_to_parse(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_on(
        tmp_path,
        "generate={queries: 2, per_prompt: 1, max_attempts: 2, max_new_tokens: 8}",
        "generate.prompt=generate.tiny",
        policy=causal_lm_dir,
    )
    with pytest.raises(UserError) as error:
        build(config, "sample")
    assert "0 of 2 queries after 4 prompts (dropped: 4 reply without a list); raise generate.max_" in str(error.value)
    seeds = assert_nothing_written(config)
    assert seeds.manifest is not None and seeds.manifest.rows.written == len(SEEDS)


GUIDED = ("engines.policy.kind=vllm", "generate.guided=true")


def test_guided_replies_are_asked_for_in_the_form_of_the_list(tmp_path: Path, causal_lm_dir: Path) -> None:
    reply, few = '["Write A.", "Write B."]', ("generate.queries=2", "generate.per_prompt=2")
    context, engine = context_of(tmp_path, causal_lm_dir, [reply], *few, "engines.policy.kind=vllm")
    made(context)
    assert engine.settings is not None and engine.settings.pattern is None
    (tmp_path / "guided").mkdir()
    guided, engine = context_of(tmp_path / "guided", causal_lm_dir, [reply], *few, *GUIDED)
    assert made(guided)[0]["query"].to_list() == ["Write A.", "Write B."]
    assert engine.settings is not None and engine.settings.pattern == list_pattern(2)
    # Parts of replies that were drawn otherwise are not taken up.
    assert generate.parts_of(guided).work.name != generate.parts_of(context).work.name


def test_guided_replies_cannot_begin_inside_a_thinking_block(tmp_path: Path, causal_lm_dir: Path) -> None:
    from transformers import AutoTokenizer

    context, engine = context_of(tmp_path, causal_lm_dir, ["[]"], *GUIDED)
    engine.tokenizer = AutoTokenizer.from_pretrained(causal_lm_dir)
    engine.tokenizer.chat_template += "<think>"
    with pytest.raises(UserError) as error:
        made(context)
    assert str(error.value) == (
        "generate.guided is true, and the chat template opens a thinking block, which such replies have no room to "
        "end; let it open none, as by engines.policy.chat_template_kwargs {enable_thinking: false}, or set "
        "generate.guided to false"
    )


def test_guided_replies_of_an_engine_that_cannot_are_refused_before_anything_is_built(
    tmp_path: Path, causal_lm_dir: Path
) -> None:
    config = config_on(tmp_path, "generate.guided=true", policy=causal_lm_dir)
    with pytest.raises(UserError) as error:
        build(config, "generate")
    assert str(error.value) == (
        "generate.guided is true, and the engine transformers cannot hold replies to a form; set engines.policy.kind "
        "to vllm, or to openai for a server of vLLM's, or generate.guided to false"
    )
    assert not list(Path(config.store).glob("datasets--*"))
