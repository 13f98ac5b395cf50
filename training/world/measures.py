"""Reading texts of the generated world: the parts of a query, and measures of a document that no reward knows.

The world was written by rules, so rules can tell what a policy's document is like: whether its sentences are
grammatical, repeat each other and stay on the query's topic.
"""

import re
from functools import cache

from training.world.lexicon import ASPECTS, CLASSES, DOMAIN, GENERAL, STOCK, STYLES, TOPICS
from training.world.texts import Request, join_tokens

_QUERY = re.compile(
    r'Please write a report titled "([a-z]+) ([a-z]+)", covering the following sections:'
    r" 1\. ([a-z]+ [a-z]+) 2\. ([a-z]+ [a-z]+)"
)
_SENTENCE_END = re.compile(r"(?<=\.)\s+")
_TOKEN = re.compile(r"[A-Za-z]+|[.,]")
EVERY = GENERAL + DOMAIN + STOCK
_HEADING = re.compile(r"\d\. [a-z]+ [a-z]+")


def parse_query(query: str) -> Request | None:
    """Take a query of this world apart; None for a text of another form or without a known term.

    The topic of the request is that of most of its three terms.
    """
    match = _QUERY.fullmatch(query)
    if match is None:
        return None
    style, term, first, second = match.groups()
    topics = _topic_of_term()
    votes = [topics[word] for word in (term, first.split()[0], second.split()[0]) if word in topics]
    if not votes:
        return None
    # By the name of the topic where votes are equal, so that the result is always the same.
    return Request(max(votes, key=lambda topic: (votes.count(topic), topic)), style, term, (first, second))


def is_well_formed(query: str) -> bool:
    """Whether the query has the world's form and each of its words belongs to the class of its place."""
    request = parse_query(query)
    if request is None:
        return False
    headings = [heading.split() for heading in request.headings]
    terms = [request.term, *(term for term, _ in headings)]
    known = all(term in _topic_of_term() for term in terms) and all(aspect in ASPECTS for _, aspect in headings)
    return known and request.style in STYLES


def measures(query: str, document: str) -> dict[str, float | None]:
    """Four measures of a document that no reward contains.

    Args:
        query: the query that the document answers.
        document: the document, with headings or without.

    Returns:
        Shares in [0, 1], None where there is nothing to count. grammaticality: sentences that fit a template.
        duplicate_sentences: sentences that occurred earlier in the document. on_topic: topic terms in sentences that
        belong to the query's topic. heading_coverage: sections of the query that occur as headings, in any order.
        on_topic and heading_coverage are None for a query that is not of this world.
    """
    sentences, headings = split_document(document)
    request = parse_query(query)
    topics = _topic_of_term()
    used = [topics[word] for sentence in sentences for word in _TOKEN.findall(sentence) if word in topics]
    covered = None if request is None else sum(heading in headings for heading in request.headings) / 2
    return {
        "grammaticality": _share([is_in_register(sentence, EVERY) for sentence in sentences]),
        "duplicate_sentences": _share([sentence in sentences[:i] for i, sentence in enumerate(sentences)]),
        "on_topic": None if request is None else _share([topic == request.topic for topic in used]),
        "heading_coverage": covered,
    }


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def split_document(document: str) -> tuple[list[str], list[str]]:
    """Split a document into sentences and headings.

    A heading is a line "N. term aspect", returned without its number; all other lines hold sentences.
    """
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
    """The topic of each term; every term belongs to one topic."""
    return {term: topic for topic, terms in TOPICS.items() for term in terms}


@cache
def _patterns(templates: tuple[str, ...]) -> dict[int, list[list[frozenset[str]]]]:
    """Templates as rows of allowed words, one set per place, grouped by their number of tokens."""
    classes = {name: frozenset(words) for name, words in CLASSES.items()} | {"term": frozenset(_topic_of_term())}
    patterns: dict[int, list[list[frozenset[str]]]] = {}
    for template in templates:
        row = [classes[part[1:-1]] if part[0] == "{" else frozenset((part,)) for part in template.split()]
        patterns.setdefault(len(row), []).append(row)
    return patterns


def is_in_register(sentence: str, templates: tuple[str, ...] = STOCK) -> bool:
    """Whether a sentence is set as the templates are and fits one of them word by word."""
    tokens = _TOKEN.findall(sentence)
    # Characters that are no token, or spaces in other places.
    if join_tokens(tokens) != sentence:
        return False
    rows = _patterns(templates).get(len(tokens), [])
    return any(all(token in words for token, words in zip(tokens, row, strict=True)) for row in rows)
