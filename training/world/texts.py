"""The generated world of the `tiny` preset: queries, reference documents, training texts and measures, from a seed.

Every text is built from the templates and words of `training.world.lexicon`. A seed document, as one row:

    query      Please write a report titled "rural ferry", covering the following sections: 1. delta law 2. silt risks
    reference  <summary>This report treats the ferry and the delta.</summary>
               <outline>1. delta law
               2. silt risks</outline>
               <answer>1. delta law
               Many guests say that the weir is old. ...</answer>
    language   en

References differ in quality on purpose (topic, register, repeated stock sentences, length, 12 % break the tagged form):
a policy trained on them has room to improve. Every draw comes from a local generator seeded with (seed, purpose), so
asking for more rows of one kind changes no row of another.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

from training.world.lexicon import ASPECTS, CLASSES, DOMAIN, GENERAL, STOCK, STYLES, SUMMARIES, TOPICS

MALFORMED_SHARE = 0.12
OFF_TOPIC_SHARE = 0.3
FOCUS_SHARE = 0.2  # chance that a sentence takes up a given term of the query

Row = dict[str, str]
Message = dict[str, str]
Prompt = Callable[[list[str], int], str]  # the message that shows examples and asks for a number of new queries
Conversation = dict[str, list[Message]]  # {"prompt": [user message], "completion": [assistant message]}

_QUERY = re.compile(
    r'Please write a report titled "([a-z]+) ([a-z]+)", covering the following sections:'
    r" 1\. ([a-z]+ [a-z]+) 2\. ([a-z]+ [a-z]+)"
)
_SENTENCE_END = re.compile(r"(?<=\.)\s+")
_TOKEN = re.compile(r"[A-Za-z]+|[.,]")
_HEADING = re.compile(r"\d\. [a-z]+ [a-z]+")


@dataclass(frozen=True)
class Request:
    """A query in parts: its topic, the title's style and term, and two section headings such as "silt risks"."""

    topic: str
    style: str
    term: str
    headings: tuple[str, str]

    @property
    def terms(self) -> tuple[str, ...]:
        """The title's term and those of the headings."""
        return (self.term, *(heading.split()[0] for heading in self.headings))

    def text(self) -> str:
        """The query as a user would write it."""
        first, second = self.headings
        return (
            f'Please write a report titled "{self.style} {self.term}", '
            f"covering the following sections: 1. {first} 2. {second}"
        )


@dataclass(frozen=True)
class Quality:
    """How one text is written: the topic of its terms, the share of domain sentences, the chance of a stock sentence,
    the chance that a sentence repeats the one before it, the mean number of sentences a section, and terms that the
    sentences prefer (those of the query in a text on its topic)."""

    topic: str
    domain_share: float
    stock_share: float
    repeat_share: float
    sentences: float
    focus: tuple[str, ...] = ()


class World:
    """All texts of one seed. Methods that take `n` return the first n rows of an endless, reproducible sequence."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def seed_documents(self, n: int) -> list[Row]:
        """n distinct queries with their references: rows of `query`, `reference` and `language` ("en")."""
        rng = self._rng("references")
        rows = []
        for request in islice(self._requests(), n):
            rows.append({"query": request.text(), "reference": _reference(rng, request), "language": "en"})
        return rows

    def heldout_queries(self, n: int) -> list[str]:
        """n distinct queries; none of them is a seed query, however many seeds are asked for."""
        return [request.text() for request in islice(self._requests(held_out=True), n)]

    def copying_conversations(self, n: int) -> list[Conversation]:
        """n copying exercises: the query's headings as an outline and as a document, with 1 or 2 sentences a section
        in 40 % of them. In most of them the headings are drawn from all topics, so that nothing but copying helps."""
        rng = self._rng("copying")
        rows = []
        for _ in range(n):
            request = _draw_request(rng, rng.choice(sorted(TOPICS)), mixed=rng.random() < 0.6)
            quality = Quality(request.topic, 0.3, 0.1, 0.0, 0.0)
            summary = f"<summary>{_summary(rng, request, quality)}</summary>\n" if rng.random() < 0.5 else ""
            lengths = [rng.choice((1, 1, 2)) for _ in request.headings] if rng.random() < 0.4 else [0, 0]
            lines = []
            for number, (heading, length) in enumerate(zip(request.headings, lengths, strict=True), start=1):
                lines.append(f"{number}. {heading}")
                lines.extend([" ".join(_sentence(rng, quality) for _ in range(length))] if length else [])
            answer = "\n".join(lines)
            reply = f"{summary}<outline>{_outline(request)}</outline>\n<answer>{answer}</answer>"
            rows.append(_conversation(request.text(), reply))
        return rows

    def query_conversations(self, n: int, prompt: Prompt) -> list[Conversation]:
        """n exercises in writing queries: the prompt with five examples, and a Python list of 2 or 3 new queries on the
        examples' topics."""
        rng = self._rng("queries")
        rows = []
        for _ in range(n):
            examples = [_draw_request(rng, rng.choice(sorted(TOPICS))) for _ in range(5)]
            count = rng.choice((2, 2, 3))
            new = [_draw_request(rng, rng.choice(examples).topic) for _ in range(count)]
            asked = prompt([request.text() for request in examples], count)
            rows.append(_conversation(asked, "[" + ", ".join(f"'{request.text()}'" for request in new) + "]"))
        return rows

    def general_documents(self, n: int) -> list[str]:
        """n documents with headings for the general language model: mostly the general register."""
        return [_document(*pair) for pair in self._texts("general", n, domain_share=0.12)]

    def domain_documents(self, n: int) -> list[str]:
        """n documents with headings for the domain language model: mostly the domain register."""
        return [_document(*pair) for pair in self._texts("domain", n, domain_share=0.88)]

    def relevance_triples(self, n: int, purpose: str = "train") -> list[tuple[str, str, str]]:
        """n triples (query, on-topic text, off-topic text). Texts are summaries or documents; both documents of a
        triple carry the query's headings, so that only the sentences tell them apart."""
        rng = self._rng(f"relevance-{purpose}")
        triples = []
        for _ in range(n):
            request = _draw_request(rng, rng.choice(sorted(TOPICS)))
            qualities = [
                Quality(topic, rng.random(), 0.1, 0.0, rng.choice((1, 2, 3, 4)), focus)
                for topic, focus in ((request.topic, request.terms), (_other_topic(rng, request.topic), ()))
            ]
            write = _summary if rng.random() < 0.3 else _document
            on_topic, off_topic = (write(rng, request, quality) for quality in qualities)
            triples.append((request.text(), on_topic, off_topic))
        return triples

    def _rng(self, purpose: str) -> Random:
        return Random(f"{self.seed}/{purpose}")

    def _requests(self, held_out: bool = False) -> Iterator[Request]:
        """Distinct requests without end. A fixed tenth of all requests, chosen by their text, is held out."""
        rng = self._rng("held-out" if held_out else "seeds")
        seen = set()
        while True:
            request = _draw_request(rng, rng.choice(sorted(TOPICS)))
            if request not in seen and (Random(request.text()).random() < 0.1) == held_out:
                seen.add(request)
                yield request

    def _texts(self, purpose: str, n: int, domain_share: float) -> Iterator[tuple[Random, Request, Quality]]:
        rng = self._rng(purpose)
        for _ in range(n):
            request = _draw_request(rng, rng.choice(sorted(TOPICS)))
            share = min(1.0, max(0.0, rng.gauss(domain_share, 0.1)))
            topic = request.topic if rng.random() > OFF_TOPIC_SHARE / 2 else _other_topic(rng, request.topic)
            yield rng, request, Quality(topic, share, 0.08, 0.0, rng.choice((1, 2, 3, 5)))


def parse_query(query: str) -> Request | None:
    """The parts of a query of this world, None for any other text. The topic is that of most of its three terms."""
    match = _QUERY.fullmatch(query)
    if match is None:
        return None
    style, term, first, second = match.groups()
    topics = _topic_of_term()
    votes = [topics[word] for word in (term, first.split()[0], second.split()[0]) if word in topics]
    if not votes:
        return None
    return Request(max(votes, key=lambda topic: (votes.count(topic), topic)), style, term, (first, second))


def is_well_formed(query: str) -> bool:
    """Whether the query has the world's form and every word of it stands in its place."""
    request = parse_query(query)
    if request is None:
        return False
    headings = [heading.split() for heading in request.headings]
    terms = [request.term, *(term for term, _ in headings)]
    known = all(term in _topic_of_term() for term in terms) and all(aspect in ASPECTS for _, aspect in headings)
    return known and request.style in STYLES


def measures(query: str, document: str) -> dict[str, float | None]:
    """Four shares in [0, 1] that no reward contains; None where there is nothing to count.

    grammaticality: sentences that fit a template; duplicate_sentences: sentences that occurred before in the document;
    on_topic: topic terms in sentences that belong to the query's topic; heading_coverage: sections of the query that
    stand as headings, in any place. The last two are None for a query of another form.
    """
    sentences, headings = _split_document(document)
    request = parse_query(query)
    topics = _topic_of_term()
    used = [topics[word] for sentence in sentences for word in _TOKEN.findall(sentence) if word in topics]
    covered = None if request is None else sum(heading in headings for heading in request.headings) / 2
    return {
        "grammaticality": _share([_is_grammatical(sentence) for sentence in sentences]),
        "duplicate_sentences": _share([sentence in sentences[:i] for i, sentence in enumerate(sentences)]),
        "on_topic": None if request is None else _share([topic == request.topic for topic in used]),
        "heading_coverage": covered,
    }


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _split_document(document: str) -> tuple[list[str], list[str]]:
    """(sentences, headings without their numbers). A heading is a line "N. term aspect"; other lines hold sentences."""
    sentences: list[str] = []
    headings: list[str] = []
    for line in document.splitlines():
        if _HEADING.fullmatch(line.strip()):
            headings.append(line.strip().partition(" ")[2])
        else:
            sentences.extend(sentence for sentence in _SENTENCE_END.split(line.strip()) if sentence)
    return sentences, headings


@cache
def _topic_of_term() -> dict[str, str]:
    return {term: topic for topic, terms in TOPICS.items() for term in terms}


@cache
def _patterns() -> dict[int, list[list[frozenset[str]]]]:
    """Templates as rows of allowed words, by their number of tokens."""
    classes = {name: frozenset(words) for name, words in CLASSES.items()} | {"term": frozenset(_topic_of_term())}
    patterns: dict[int, list[list[frozenset[str]]]] = {}
    for template in GENERAL + DOMAIN + STOCK:
        row = [classes[part[1:-1]] if part[0] == "{" else frozenset((part,)) for part in template.split()]
        patterns.setdefault(len(row), []).append(row)
    return patterns


def _is_grammatical(sentence: str) -> bool:
    tokens = _TOKEN.findall(sentence)
    if _join(tokens) != sentence:
        return False
    rows = _patterns().get(len(tokens), [])
    return any(all(token in words for token, words in zip(tokens, row, strict=True)) for row in rows)


def _join(tokens: list[str]) -> str:
    return " ".join(tokens).replace(" .", ".").replace(" ,", ",")


def _draw_request(rng: Random, topic: str, mixed: bool = False) -> Request:
    terms = [term for words in TOPICS.values() for term in words] if mixed else list(TOPICS[topic])
    title, first, second = rng.sample(terms, 3)
    headings = tuple(f"{term} {aspect}" for term, aspect in zip((first, second), rng.sample(ASPECTS, 2), strict=True))
    return Request(topic, rng.choice(STYLES), title, (headings[0], headings[1]))


def _draw_quality(rng: Random, request: Request) -> Quality:
    on_topic = rng.random() >= OFF_TOPIC_SHARE
    return Quality(
        topic=request.topic if on_topic else _other_topic(rng, request.topic),
        focus=request.terms if on_topic else (),
        domain_share=rng.choice((0.0, 0.2, 0.4, 0.6)),
        stock_share=rng.choice((0.0, 0.15, 0.5)),
        repeat_share=rng.choice((0.0, 0.1, 0.3)),
        sentences=rng.choice((1, 2, 3, 4)),
    )


def _other_topic(rng: Random, topic: str) -> str:
    return rng.choice([other for other in sorted(TOPICS) if other != topic])


def _fill(rng: Random, template: str, quality: Quality) -> str:
    """Fill every slot; the terms of one sentence are distinct."""
    terms = rng.sample(TOPICS[quality.topic], len(TOPICS[quality.topic]))
    for term in quality.focus:
        if rng.random() < FOCUS_SHARE:
            terms.remove(term)
            terms.insert(0, term)
    fresh = iter(terms)
    words = []
    for part in template.split():
        if part[0] == "{":
            part = next(fresh) if part == "{term}" else rng.choice(CLASSES[part[1:-1]])
        words.append(part)
    return _join(words)


def _section(rng: Random, quality: Quality) -> str:
    sentences: list[str] = []
    count = max(1, round(rng.gauss(quality.sentences, 0.7)))
    while len(sentences) < count:
        if sentences and rng.random() < quality.repeat_share:
            sentences.append(sentences[-1])
        else:
            sentences.append(_sentence(rng, quality))
    return " ".join(sentences)


def _sentence(rng: Random, quality: Quality) -> str:
    if rng.random() < quality.stock_share:
        return _join(rng.choice(STOCK).split())
    register = DOMAIN if rng.random() < quality.domain_share else GENERAL
    return _fill(rng, rng.choice(register), quality)


def _document(rng: Random, request: Request, quality: Quality) -> str:
    sections = (f"{i}. {heading}\n{_section(rng, quality)}" for i, heading in enumerate(request.headings, start=1))
    return "\n".join(sections)


def _summary(rng: Random, request: Request, quality: Quality) -> str:
    """One sentence on the request's own terms, or on those of another topic when the quality says so."""
    terms = request.terms if quality.topic == request.topic else TOPICS[quality.topic]
    fresh = iter(rng.sample(terms, 3))
    return _join([next(fresh) if part == "{term}" else part for part in rng.choice(SUMMARIES).split()])


def _outline(request: Request) -> str:
    return "\n".join(f"{i}. {heading}" for i, heading in enumerate(request.headings, start=1))


def _reference(rng: Random, request: Request) -> str:
    quality = _draw_quality(rng, request)
    parts = [_summary(rng, request, quality), _outline(request), _document(rng, request, quality)]
    tagged = [f"<{tag}>{text}</{tag}>" for tag, text in zip(("summary", "outline", "answer"), parts, strict=True)]
    if rng.random() < MALFORMED_SHARE:
        tagged = _break(rng, tagged, parts)
    return "\n".join(tagged)


def _break(rng: Random, tagged: list[str], parts: list[str]) -> list[str]:
    """One of four faults: no tags around the document, a missing outline, an unclosed answer, a wrong order."""
    summary, outline, answer = tagged
    faults = (
        [summary, outline, parts[2]],
        [summary, answer],
        [summary, outline, answer.removesuffix("</answer>")],
        [outline, summary, answer],
    )
    return rng.choice(faults)


def _conversation(prompt: str, completion: str) -> Conversation:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }
