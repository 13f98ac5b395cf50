"""The rule-based teacher: what it is asked by the pipeline's own prompts it answers in a form that the stages read."""

from random import Random

import pytest

from builders.core.prompting import ask_for
from builders.core.query_parser import read_queries
from builders.rubrics import settings as rubrics
from builders.rubrics.ratings import ask_for_rating
from builders.writingbench.messages import guidance, in_language
from builders.writingbench.refine import read_materials
from builders.writingbench.settings import PROMPTS, REQUIREMENTS
from scorers.criteria import read_criteria
from scorers.rating import read_rating
from scorers.replies import json_values
from training.world.measures import parse_query
from training.writingbench.teacher import Manner, author, criteria_for, quality_of, reply

QUIET = Manner(noise=0.0, malformed=0.0)
QUERY = 'Please write a report titled "rural ferry", covering the following sections: 1. delta law 2. silt risks'
GOOD = """1. delta law
The variance of the delta decays under robust samples. A linear model relates the weir to the tide.
2. silt risks
We infer the entropy of the silt from the sparse trial. This survey bounds the yield of the dam."""


def text_of(kind: str, *texts: str, **values: object) -> str:
    folder = rubrics.PROMPTS if kind == "criteria" else PROMPTS
    return ask_for(folder, kind, "en", *texts, **values)[-1]["content"]


def test_it_lists_requests_on_the_topic() -> None:
    prompt = text_of("request", count=6, domain="nature", subdomain="rivers", description=None)
    found = read_queries(reply(prompt, 1, QUIET)).queries
    known = [parse_query(text) for text in found]
    assert len(found) == 6 and {request.topic for request in known if request} == {"rivers"} and all(known)
    assert reply(prompt, 1, QUIET) == reply(prompt, 1, QUIET) != reply(prompt, 2, QUIET)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_it_follows_the_guidance(name: str) -> None:
    wishes = [in_language(guidance()[name], "en")]
    prompt = text_of("refine", QUERY, domain="nature", subdomain="rivers", request=QUERY, guidance=wishes)
    [found] = json_values(reply(prompt, 1, QUIET))
    request, _, wish = found["query"].partition("; ")
    assert request == QUERY and wish and ";" not in wish


def test_it_lists_and_writes_material() -> None:
    asked = f"{QUERY}; write about the weir too"
    listing = text_of("materials", asked, request=asked)
    question = type("Q", (), {"messages": [{"content": listing}]})()
    assert read_materials(question, reply(listing, 1, QUIET)) == ["notes about the report"]
    plain = text_of("materials", QUERY, request=QUERY)
    assert read_materials(type("Q", (), {"messages": [{"content": plain}]})(), reply(plain, 1, QUIET)) == []
    prompt = text_of("material", asked, request=asked, materials=["notes about the report"])
    assert reply(prompt, 1, QUIET).count(".") == 3


def test_its_criteria_follow_from_the_query() -> None:
    found = read_criteria(reply(text_of("criteria", QUERY, query=QUERY), 1, QUIET))
    assert not isinstance(found, str) and [one["name"] for one in found] == criteria_for(QUERY)
    assert "register of science" in criteria_for(f"{QUERY}; write as scientists do")


@pytest.mark.parametrize("prompt", ["rate", "rate.tiny"])
def test_it_rates_by_the_measures(prompt: str) -> None:
    found = read_criteria(reply(text_of("criteria", QUERY, query=QUERY), 1, QUIET))
    assert not isinstance(found, str)
    query = f"{QUERY}; write about 4 sentences"
    scores: dict[str, list[int]] = {}
    for response in (GOOD, "The piano of the village liked the old harp. The piano of the village liked the old harp."):
        for criterion in found:
            asked = ask_for_rating(prompt, query, response, criterion, "en")[-1]["content"]
            rating = read_rating(reply(asked, 1, QUIET))
            assert rating is not None
            assert rating.score == round(1 + 9 * quality_of(query, response, criterion["name"]))
            scores.setdefault(criterion["name"], []).append(rating.score)
    assert scores["sections covered"] == [10, 1] and scores["on topic"] == [10, 1]
    assert scores["length asked for"] == [10, round(1 + 9 / 2)] and scores["no repetition"][1] < 10


def test_noise_moves_scores_and_malformed_replies_are_not_read() -> None:
    criterion = dict.fromkeys(("criteria_description", "1-2", "3-4", "5-6", "7-8", "9-10"), "x") | {"name": "on topic"}
    asked = ask_for_rating("rate", QUERY, "1. delta law\nThe boats are late.", criterion, "en")[-1]["content"]
    noisy = [read_rating(reply(asked, seed, Manner(noise=3.0, malformed=0.0))) for seed in range(200)]
    assert len({found.score for found in noisy if found}) > 3 and all(noisy)
    broken = [read_rating(reply(asked, seed, Manner(malformed=1.0))) for seed in range(200)]
    # A thinking block without an end is for the stage to see, which cuts it; all else is unread here.
    assert sum(found is not None for found in broken) < 80


def test_its_answers_are_good_and_less_good() -> None:
    query = f"{QUERY}; write about 6 sentences"
    names = criteria_for(query)
    rows = [[quality_of(query, author(query, Random(seed)), name) for name in names] for seed in range(200)]
    for column in zip(*rows, strict=True):
        assert min(column) < 0.6 and max(column) > 0.95
