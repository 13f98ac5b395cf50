"""The generated world: reproducible, varied, disjoint; its measures on hand-written documents."""

import re
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.core.query_parser import read_queries
from builders.grace_kto.messages import ask_for_queries
from scorers.extraction import extract
from training.world.measures import is_well_formed, measures, parse_query
from training.world.texts import World

QUERY = 'Please write a report titled "rural ferry", covering the following sections: 1. delta law 2. silt risks'
PROMPT = partial(ask_for_queries, prompt="generate.tiny")
DOCUMENT = """1. delta law
Some farmers liked the weir near the oak. This is a very important point. Banana is a weir.
2. silt costs
This is a very important point. People today liked the old ferry."""


def test_measures_gold() -> None:
    """5 sentences: 4 fit a template, 1 is a repetition; terms weir, oak, weir, ferry; 1 of 2 headings."""
    assert measures(QUERY, DOCUMENT) == {
        "grammaticality": 4 / 5,
        "duplicate_sentences": 1 / 5,
        "on_topic": 3 / 4,
        "heading_coverage": 1 / 2,
    }


def test_measures_without_anything_to_count() -> None:
    assert measures("Write a poem.", "1. delta law") == {
        "grammaticality": None,
        "duplicate_sentences": None,
        "on_topic": None,
        "heading_coverage": None,
    }


@pytest.mark.parametrize(
    "sentence",
    [
        "People today liked the ferry.",  # a slot is missing
        "People today liked the old ferry",  # no full stop
        "people today liked the old ferry.",  # lower case
        "People today liked the old farmers.",  # a word of another class
        "People today liked the old  ferry.",  # white space
    ],
)
def test_a_spoilt_sentence_is_not_grammatical(sentence: str) -> None:
    assert measures(QUERY, f"1. delta law\n{sentence}")["grammaticality"] == 0.0


@given(st.text(max_size=200), st.text(max_size=200))
def test_measures_are_shares_on_any_text(query: str, document: str) -> None:
    for value in measures(query, document).values():
        assert value is None or 0.0 <= value <= 1.0


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_rows_of_any_seed(seed: int) -> None:
    """Queries are well formed and new, a longer list starts with the shorter one, references keep to the grammar."""
    world = World(seed)
    rows = world.seed_documents(60)
    assert world.seed_documents(20) == rows[:20]
    queries = [row["query"] for row in rows]
    assert len(set(queries)) == 60 and all(is_well_formed(query) for query in queries)
    assert not set(queries) & set(world.heldout_queries(60))
    for row in rows:
        text = extract(row["reference"])
        if text is not None:
            values = measures(row["query"], text.document)
            assert values["grammaticality"] == 1.0 and values["heading_coverage"] == 1.0


def test_seeds_differ_and_held_out_queries_stay_out() -> None:
    world = World(3)
    seeds = {row["query"] for row in world.seed_documents(5_000)}
    assert not seeds & set(world.heldout_queries(500))
    assert len(seeds & {row["query"] for row in World(4).seed_documents(5_000)}) <= 2


def test_references_vary_in_quality() -> None:
    rows = World(0).seed_documents(2_000)
    texts = [(row["query"], extract(row["reference"])) for row in rows]
    matched = [(query, text.document) for query, text in texts if text is not None]
    assert 0.85 < len(matched) / len(rows) < 0.91
    values = [measures(query, document) for query, document in matched]
    on_topic = [value["on_topic"] for value in values if value["on_topic"] is not None]
    assert 0.64 < sum(share == 1.0 for share in on_topic) / len(on_topic) < 0.76
    assert 0.02 < sum(value["duplicate_sentences"] or 0.0 for value in values) / len(values) < 0.2


def test_domain_documents_are_of_the_domain_register() -> None:
    pattern = re.compile(r"\b(variance|density|model|robust|linear|conditions|index|entropy|estimator|yield)\b")
    world = World(0)
    counts = [
        sum(len(pattern.findall(text)) for text in texts)
        for texts in (world.general_documents(200), world.domain_documents(200))
    ]
    assert counts[1] > 4 * counts[0] > 0


def test_query_exercises_are_lists_that_parse() -> None:
    for row in World(0).query_conversations(100, PROMPT):
        prompt, reply = row["prompt"][0]["content"], row["completion"][0]["content"]
        queries = read_queries(reply).queries
        assert queries is not None and f"Write {len(queries)} new" in prompt
        assert all(is_well_formed(query) and query not in prompt for query in queries)
        assert _topics(queries) <= _topics(prompt.splitlines())


def _topics(lines: list[str]) -> set[str]:
    return {request.topic for line in lines if (request := parse_query(line))}


def test_the_prompt_shows_the_examples() -> None:
    assert PROMPT([QUERY] * 5, 2) == "\n".join([QUERY] * 5) + "\nWrite 2 new requests as a Python list."


def test_query_exercises_ask_as_the_pipeline_does() -> None:
    plain = World(0).query_conversations(20, PROMPT)
    other = World(0).query_conversations(20, lambda examples, count: f"{count} like {examples[0]}")
    # The wish is the pipeline's; the examples shown and the new queries are the world's, whatever the wish.
    assert [row["completion"] for row in plain] == [row["completion"] for row in other]
    for mine, theirs in zip(plain, other, strict=True):
        lines = mine["prompt"][0]["content"].splitlines()
        count = lines[-1].removeprefix("Write ").removesuffix(" new requests as a Python list.")
        assert theirs["prompt"] == [{"role": "user", "content": f"{count} like {lines[0]}"}] and len(lines) == 6


def test_copying_exercises_hold_the_headings() -> None:
    for row in World(0).copying_conversations(100):
        request = parse_query(row["prompt"][0]["content"])
        assert request is not None
        assert "\n".join(f"{i}. {h}" for i, h in enumerate(request.headings, 1)) in row["completion"][0]["content"]


def test_relevance_triples_share_headings_but_not_topic() -> None:
    for query, on_topic, off_topic in World(0).relevance_triples(200):
        if on_topic.startswith("1. "):
            assert (
                measures(query, on_topic)["heading_coverage"] == measures(query, off_topic)["heading_coverage"] == 1.0
            )
            assert measures(query, on_topic)["on_topic"] in (1.0, None)
            assert measures(query, off_topic)["on_topic"] in (0.0, None)


@pytest.mark.parametrize("query", ["", QUERY + ".", QUERY.replace("rural", "RURAL"), QUERY.replace("2.", "3.")])
def test_other_texts_are_not_queries(query: str) -> None:
    assert parse_query(query) is None and not is_well_formed(query)


def test_words_out_of_place_are_not_well_formed() -> None:
    assert is_well_formed(QUERY)
    assert not is_well_formed(QUERY.replace("law", "oak")) and not is_well_formed(QUERY.replace("rural", "law"))
