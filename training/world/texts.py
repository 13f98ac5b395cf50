"""The generated world of the `tiny` preset: queries, reference documents, training texts and measures, all from a seed.

Every text is built from the templates and words of `training.world.lexicon`. A seed document, as one row:

    query      Please write a report titled "rural ferry", covering the following sections: 1. delta law 2. silt risks
    reference  <summary>This report treats the ferry and the delta.</summary>
               <outline>1. delta law
               2. silt risks</outline>
               <answer>1. delta law
               Many guests say that the weir is old. ...</answer>
    language   en

References differ in quality on purpose (topic, register, repeated stock sentences, length; 12 % break the tagged form),
so that a policy trained on them has room to improve. Every random draw comes from a local generator seeded with
(seed, purpose), so asking for more rows of one kind changes no row of another kind.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

from training.world.lexicon import ASPECTS, CLASSES, DOMAIN, GENERAL, STOCK, STYLES, SUMMARIES, TOPICS

MALFORMED_SHARE = 0.12  # references that break the tagged form
OFF_TOPIC_SHARE = 0.3  # references on another topic than their query's
FOCUS_SHARE = 0.2  # chance that a sentence takes up a given term of the query

Row = dict[str, str]
Message = dict[str, str]
Prompt = Callable[[list[str], int], str]  # the message that shows examples and asks for a number of new queries
Conversation = dict[str, list[Message]]  # {"prompt": [user message], "completion": [assistant message]}

# Groups: style, term, first heading, second heading.


@dataclass(frozen=True)
class Request:
    """A query in parts.

    Attributes:
        topic: a key of `TOPICS`.
        style: first word of the title.
        term: second word of the title, a term of the topic.
        headings: two section headings, each a term and an aspect, such as "silt risks".
    """

    topic: str
    style: str
    term: str
    headings: tuple[str, str]

    @property
    def terms(self) -> tuple[str, ...]:
        """The query's three terms: that of the title, then those of the headings."""
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
    """How a text is written.

    Attributes:
        topic: the topic of its terms.
        domain_share: share of sentences in the domain register, in [0, 1].
        stock_share: chance that a sentence is a stock sentence.
        repeat_share: chance that a sentence repeats the one before it.
        sentences: mean number of sentences per section.
        focus: terms that the sentences prefer; in a text on its query's topic, the query's.
    """

    topic: str
    domain_share: float
    stock_share: float
    repeat_share: float
    sentences: float
    focus: tuple[str, ...] = ()


class World:
    """All texts of one seed.

    Methods that take `n` return the first n rows of an endless, reproducible sequence.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def seed_documents(self, n: int) -> list[Row]:
        """Return n distinct queries with their references: rows of `query`, `reference` and `language` ("en")."""
        rng = self._rng("references")
        rows = []
        for request in islice(self._requests(), n):
            rows.append({"query": request.text(), "reference": _reference(rng, request), "language": "en"})
        return rows

    def heldout_queries(self, n: int) -> list[str]:
        """Return n distinct queries, none of which is a seed query, however many seeds are asked for."""
        return [request.text() for request in islice(self._requests(held_out=True), n)]

    def copying_conversations(self, n: int) -> list[Conversation]:
        """Exercises in copying: the query's headings have to come back as an outline and as a document.

        In 70 % of them the sections of the document hold 1, 2 or 4 sentences, in the others none. More than half of the
        sentences are in the domain register, which is rarer in the references: a policy that writes one register worse
        than the other loses grammar as soon as it is rewarded for that one. In most of the exercises the headings come
        from all topics, so that nothing but copying helps.
        """
        rng = self._rng("copying")
        rows = []
        for _ in range(n):
            request = _draw_request(rng, rng.choice(sorted(TOPICS)), mixed=rng.random() < 0.6)
            quality = Quality(request.topic, 0.6, 0.1, 0.0, 0.0)
            summary = f"<summary>{_summary(rng, request, quality)}</summary>\n" if rng.random() < 0.5 else ""
            lengths = [rng.choice((1, 1, 2, 4)) for _ in request.headings] if rng.random() < 0.7 else [0, 0]
            lines = []
            for number, (heading, length) in enumerate(zip(request.headings, lengths, strict=True), start=1):
                lines.append(f"{number}. {heading}")
                # A section without a sentence adds no line.
                lines.extend([" ".join(_sentence(rng, quality) for _ in range(length))] if length else [])
            answer = "\n".join(lines)
            reply = f"{summary}<outline>{_outline(request)}</outline>\n<answer>{answer}</answer>"
            rows.append(_conversation(request.text(), reply))
        return rows

    def query_conversations(self, n: int, prompt: Prompt) -> list[Conversation]:
        """Exercises in writing queries: `prompt` with five examples, and a list of 2 or 3 new queries on their topics.

        The list is written in Python, as the reply of a policy has to be.
        """
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
        """Return n documents with headings for the general language model, mostly in the general register."""
        return [_document(*pair) for pair in self._texts("general", n, domain_share=0.12)]

    def domain_documents(self, n: int) -> list[str]:
        """Return n documents with headings for the domain language model, mostly in the domain register."""
        return [_document(*pair) for pair in self._texts("domain", n, domain_share=0.88)]

    def relevance_triples(self, n: int, purpose: str = "train") -> list[tuple[str, str, str]]:
        """Triples (query, on-topic text, off-topic text); another `purpose` gives other triples.

        The texts are summaries or documents. Both documents of a triple carry the query's headings, so that only their
        sentences tell them apart.
        """
        rng = self._rng(f"relevance-{purpose}")
        triples = []
        for _ in range(n):
            request = _draw_request(rng, rng.choice(sorted(TOPICS)))
            # The on-topic text may take up the query's own terms, the off-topic text is about another topic.
            qualities = [
                Quality(topic, rng.random(), 0.1, 0.0, rng.choice((1, 2, 3, 4)), focus)
                for topic, focus in ((request.topic, request.terms), (_other_topic(rng, request.topic), ()))
            ]
            write = _summary if rng.random() < 0.3 else _document
            on_topic, off_topic = (write(rng, request, quality) for quality in qualities)
            triples.append((request.text(), on_topic, off_topic))
        return triples

    def requests_on(self, topic: str, n: int) -> list[str]:
        """Return n requests on a topic, which may repeat."""
        rng = self._rng("requests")
        return [_draw_request(rng, topic).text() for _ in range(n)]

    def notes_on(self, topic: str, n: int) -> str:
        """Return n sentences on a topic."""
        rng = self._rng("notes")
        return " ".join(_sentence(rng, Quality(topic, 0.5, 0.0, 0.0, n)) for _ in range(n))

    def answer_to(self, request: Request, sentences: int, *, scientific: bool) -> str:
        """Return a document that answers a request, well or less well on purpose.

        Args:
            request: the request.
            sentences: how many it should have in all.
            scientific: whether it should keep to the domain register.
        """
        rng = self._rng("answer")
        drawn = _draw_quality(rng, request)
        share = 1.0 if scientific and rng.random() < 0.5 else drawn.domain_share
        # Half of the answers come near the length asked for.
        length = sentences if rng.random() < 0.5 else rng.choice((2, 4, 8, 12))
        quality = replace(drawn, domain_share=share, sentences=length / len(request.headings))
        missing = rng.random()
        kept = request.headings if missing < 0.6 else request.headings[:1] if missing < 0.85 else ()
        document = _document(rng, request, quality)
        lines = [line for line in document.splitlines() if line[:1] not in "12" or line.partition(" ")[2] in kept]
        return "\n".join(lines)

    def _rng(self, purpose: str) -> Random:
        """A generator of its own for every kind of text."""
        return Random(f"{self.seed}/{purpose}")

    def _requests(self, held_out: bool = False) -> Iterator[Request]:
        """Distinct requests without end; a fixed tenth of all requests, chosen by their text, is held out."""
        rng = self._rng("held-out" if held_out else "seeds")
        seen = set()
        while True:
            request = _draw_request(rng, rng.choice(sorted(TOPICS)))
            # Seeded with the text: whether a request is held out depends on nothing else.
            if request not in seen and (Random(request.text()).random() < 0.1) == held_out:
                seen.add(request)
                yield request

    def _texts(self, purpose: str, n: int, domain_share: float) -> Iterator[tuple[Random, Request, Quality]]:
        """Yield the ingredients of n documents: the generator, a request, a quality with about this domain share."""
        rng = self._rng(purpose)
        for _ in range(n):
            request = _draw_request(rng, rng.choice(sorted(TOPICS)))
            share = min(1.0, max(0.0, rng.gauss(domain_share, 0.1)))
            # Half as many texts off topic as among the references.
            topic = request.topic if rng.random() > OFF_TOPIC_SHARE / 2 else _other_topic(rng, request.topic)
            yield rng, request, Quality(topic, share, 0.08, 0.0, rng.choice((1, 2, 3, 5)))


def join_tokens(tokens: list[str]) -> str:
    return " ".join(tokens).replace(" .", ".").replace(" ,", ",")


def _draw_request(rng: Random, topic: str, mixed: bool = False) -> Request:
    """Draw a request on a topic; `mixed` takes the terms from all topics."""
    terms = [term for words in TOPICS.values() for term in words] if mixed else list(TOPICS[topic])
    # Drawn together, so that the three terms differ.
    title, first, second = rng.sample(terms, 3)
    headings = tuple(f"{term} {aspect}" for term, aspect in zip((first, second), rng.sample(ASPECTS, 2), strict=True))
    return Request(topic, rng.choice(STYLES), title, (headings[0], headings[1]))


def _draw_quality(rng: Random, request: Request) -> Quality:
    """Draw how well a reference is written; the levels leave a policy room to improve in every metric."""
    on_topic = rng.random() >= OFF_TOPIC_SHARE
    return Quality(
        topic=request.topic if on_topic else _other_topic(rng, request.topic),
        focus=request.terms if on_topic else (),
        domain_share=rng.choice((0.0, 0.2, 0.4, 0.6)),
        stock_share=rng.choice((0.0, 0.15, 0.5)),
        repeat_share=rng.choice((0.0, 0.1, 0.3)),
        # Some are long, so that a policy that is rewarded for length still writes what it has seen.
        sentences=rng.choice((1, 2, 3, 4, 6)),
    )


def _other_topic(rng: Random, topic: str) -> str:
    return rng.choice([other for other in sorted(TOPICS) if other != topic])


def _fill(rng: Random, template: str, quality: Quality) -> str:
    """Fill every slot of a template; the terms of one sentence differ."""
    terms = rng.sample(TOPICS[quality.topic], len(TOPICS[quality.topic]))
    # Move a preferred term to the front, from where the slots are filled.
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
    return join_tokens(words)


def _section(rng: Random, quality: Quality) -> str:
    """Write the sentences of one section, at least one."""
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
        return join_tokens(rng.choice(STOCK).split())
    register = DOMAIN if rng.random() < quality.domain_share else GENERAL
    return _fill(rng, rng.choice(register), quality)


def _document(rng: Random, request: Request, quality: Quality) -> str:
    sections = (f"{i}. {heading}\n{_section(rng, quality)}" for i, heading in enumerate(request.headings, start=1))
    return "\n".join(sections)


def _summary(rng: Random, request: Request, quality: Quality) -> str:
    """Write one sentence on the request's own terms, or on those of another topic when the quality has one."""
    terms = request.terms if quality.topic == request.topic else TOPICS[quality.topic]
    fresh = iter(rng.sample(terms, 3))
    return join_tokens([next(fresh) if part == "{term}" else part for part in rng.choice(SUMMARIES).split()])


def _outline(request: Request) -> str:
    return "\n".join(f"{i}. {heading}" for i, heading in enumerate(request.headings, start=1))


def _reference(rng: Random, request: Request) -> str:
    """Write a reference document in the tagged form; a fixed share of them breaks the form."""
    quality = _draw_quality(rng, request)
    parts = [_summary(rng, request, quality), _outline(request), _document(rng, request, quality)]
    tagged = [f"<{tag}>{text}</{tag}>" for tag, text in zip(("summary", "outline", "answer"), parts, strict=True)]
    if rng.random() < MALFORMED_SHARE:
        tagged = _break(rng, tagged, parts)
    return "\n".join(tagged)


def _break(rng: Random, tagged: list[str], parts: list[str]) -> list[str]:
    """Apply one of four faults: no tags around the document, no outline, an unclosed answer, a wrong order."""
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
