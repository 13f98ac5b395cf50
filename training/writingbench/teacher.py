"""A teacher, an author and a judge by rules, behind an OpenAI-compatible endpoint on the loopback.

In the paper these are large models behind an interface. Here the generated world's rules take their place, so that the
preset `tiny-writingbench` runs anywhere; all that talks to them is the engine `openai`. What is asked is told by the
prompt, and what is answered follows from the prompt and the request's seed alone:

    requests    requests of the world on the subdomain's topic
    refine      the request with one wish for each line of guidance
    criteria    what follows from the query: sections, topic, register, repetition, length
    rate        the measure of that criterion, 1 to 10, with stated noise
    anything else is a query, which the model `author` answers well or less well on purpose

A stated share of the replies is malformed in the ways that models have: no JSON, cut, a score out of range.

    python -m training.writingbench.teacher --port 8000 --noise 0.7 --malformed 0.05
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from scorers.criteria import BANDS
from training.world.lexicon import DOMAIN, TOPICS
from training.world.measures import is_in_register, measures, parse_query, split_document
from training.world.server import serve
from training.world.texts import World

VERSION = 1
"""To be raised when the same prompt and seed are answered otherwise."""
MODELS = ("teacher", "author", "judge")
WISHES = {
    "length": "write about {length} sentences",
    "brevity": "write one sentence",
    "style": "write as scientists do",
    "format": "number the sections",
    "personalisation": "it is for my friends",
    "content": "write about the {term} too",
}
"""By requirement, what a refined request asks for, in the words of the world."""
# By requirement, a word of the guidance that tells it.
GUIDED = {
    "length": "how long",
    "format": "which form",
    "style": "sound",
    "personalisation": "asking person",
    "content": "particular contents",
    "brevity": "single sentence",
}
_FENCED = re.compile(r"^(={5,})\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)
_LENGTH = re.compile(r"write about (\d+) sentences")


@dataclass(frozen=True)
class Manner:
    """How the rules answer.

    Attributes:
        noise: standard deviation that is added to a score before it is rounded.
        malformed: share of replies that cannot be read.
        seconds: how long an answer takes.
    """

    noise: float = 0.7
    malformed: float = 0.05
    seconds: float = 0.0


def reply(prompt: str, seed: int, manner: Manner) -> str:
    """Answer a prompt.

    Args:
        prompt: the last message's text.
        seed: of the request.
        manner: noise, and the share of malformed replies.
    """
    rng = Random(f"{seed}/{prompt}")
    for marker, answer in _TASKS.items():
        if marker in prompt:
            text = answer(prompt, rng, manner)
            return _break(text, rng) if rng.random() < manner.malformed else text
    return author(prompt, rng)


def requests(prompt: str, rng: Random, manner: Manner) -> str:
    """List new requests on the topic that the prompt names as its kind."""
    count = int(re.findall(r"\d+", prompt)[0])
    found = re.search(r"^Kind: (.*)$", prompt, re.MULTILINE)
    topic = found.group(1).strip() if found else ""
    world = World(rng.randrange(2**31))
    return json.dumps(world.requests_on(topic if topic in TOPICS else rng.choice(sorted(TOPICS)), count))


def refine(prompt: str, rng: Random, manner: Manner) -> str:
    """Add one wish for each line of guidance."""
    request = _fenced(prompt)[0]
    asked = [name for name, word in GUIDED.items() if word in prompt]
    known = parse_query(request)
    term = rng.choice(TOPICS[known.topic]) if known else "river"
    wishes = [WISHES[name].format(length=rng.choice((4, 6, 8, 10)), term=term) for name in asked]
    return json.dumps({"query": "; ".join([request, *wishes])})


def materials(prompt: str, rng: Random, manner: Manner) -> str:
    """Ask for notes where the request names a term too many, for nothing else."""
    request = _fenced(prompt)[0]
    return json.dumps(["notes about the report"] if "write about the" in request else [])


def material(prompt: str, rng: Random, manner: Manner) -> str:
    """Write some sentences on the request's topic."""
    known = parse_query(base_request(_fenced(prompt)[0]))
    return World(rng.randrange(2**31)).notes_on(known.topic if known else "rivers", 3)


def criteria(prompt: str, rng: Random, manner: Manner) -> str:
    """Set up the five criteria that follow from a query."""
    query = _fenced(prompt)[0]
    found = [
        {
            "name": name,
            "criteria_description": f"How well the response does this: {name}.",
            **{band: f"{share} of it" for band, share in zip(BANDS, SHARES, strict=True)},
        }
        for name in criteria_for(query)
    ]
    return json.dumps(found)


SHARES = ("next to nothing", "little", "about half", "most", "all")


def criteria_for(query: str) -> list[str]:
    """Return the names of the criteria that follow from a query."""
    register = "register of science" if WISHES["style"] in query else "no empty sentences"
    return ["sections covered", "on topic", register, "no repetition", "length asked for"]


def rate(prompt: str, rng: Random, manner: Manner) -> str:
    """Rate a response by one criterion."""
    query, response = _fenced(prompt)[:2]
    found = re.search(r"^Criterion: (.*)$", prompt, re.MULTILINE)
    name = found.group(1).strip() if found else ""
    quality = quality_of(query, response, name)
    score = min(10, max(1, round(1 + 9 * quality + rng.gauss(0, manner.noise))))
    return json.dumps({"score": score, "reason": f"{name}: {SHARES[min(4, int(5 * quality))]}"})


def quality_of(query: str, response: str, criterion: str) -> float:
    """Measure how well a response meets one criterion, 0 to 1, without noise."""
    found = measures(base_request(query), response)
    sentences, _ = split_document(response)
    if not sentences:
        return 0.0
    if criterion == "sections covered":
        return found["heading_coverage"] or 0.0
    if criterion == "on topic":
        return found["on_topic"] or 0.0
    if criterion == "no repetition":
        return 1.0 - (found["duplicate_sentences"] or 0.0)
    if criterion == "register of science":
        return sum(is_in_register(sentence, DOMAIN) for sentence in sentences) / len(sentences)
    if criterion == "no empty sentences":
        return 1.0 - sum(is_in_register(sentence) for sentence in sentences) / len(sentences)
    wanted = length_wanted(query)
    return max(0.0, 1.0 - abs(len(sentences) - wanted) / wanted)


def length_wanted(query: str) -> int:
    """Return how many sentences a query asks for; 6 where it does not say."""
    if WISHES["brevity"] in query:
        return 1
    found = _LENGTH.search(query)
    return int(found.group(1)) if found else 6


def author(query: str, rng: Random) -> str:
    """Answer a query with a document that is good or less good on purpose."""
    known = parse_query(base_request(query))
    if known is None:
        return "As everyone knows, time will tell."
    return World(rng.randrange(2**31)).answer_to(known, length_wanted(query), scientific=WISHES["style"] in query)


def base_request(query: str) -> str:
    """Return a query's request without its wishes and material."""
    return query.partition(";")[0].partition("\n")[0].strip()


def _fenced(prompt: str) -> list[str]:
    """Return the texts that stand between fences."""
    return [text for _, text in _FENCED.findall(prompt)]


def _break(text: str, rng: Random) -> str:
    """Make a reply malformed in one of the ways that models have."""
    faults: list[Callable[[str], str]] = [
        lambda t: t[: len(t) // 2],
        lambda t: "I cannot judge this.",
        lambda t: re.sub(r'"score": \d+', '"score": 11', t) if '"score"' in t else t[:-1],
        lambda t: re.sub(r'"score": (\d+)', r'"score": "\1/10"', t) if '"score"' in t else t[1:],
        lambda t: f"<think>First, let me see. {t}",
    ]
    return rng.choice(faults)(text)


# By what a prompt holds, what answers it; the first that fits.
_TASKS: dict[str, Callable[[str, Random, Manner], str]] = {
    "a JSON list of five objects": criteria,
    '"the rewritten message"': refine,
    '"the first piece"': materials,
    "Make this material up": material,
    "Criterion: ": rate,
    '"the first message"': requests,
}


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--noise", type=float, default=Manner.noise)
    parser.add_argument("--malformed", type=float, default=Manner.malformed)
    parser.add_argument("--seconds", type=float, default=Manner.seconds)
    options = parser.parse_args()
    manner = Manner(options.noise, options.malformed, options.seconds)
    identity = f"world rules {VERSION}, noise {manner.noise}, malformed {manner.malformed}"
    serve(options.port, MODELS, identity, lambda prompt, seed: reply(prompt, seed, manner), manner.seconds)


if __name__ == "__main__":
    main()
