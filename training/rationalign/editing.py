"""Editing tasks of the generated world, by rule: good sentences that are damaged or dressed down, and the reasons.

    gec             agreement, articles, order of words      The tide decline.      The tide declines.
    fluency         fillers                                  In the, um, park …     In the park …
    clarity         wordy phrases                            in the vicinity of     near
    coherence       two sentences without a connective       A. B.                  A. Besides, b.
    paraphrase      the same in other words                  liked the dam          enjoyed the dam
    neutralisation  loaded words                             the so-called ferry    the ferry
    simplification  domain words with plain equivalents      stochastic             random
    formality       informal forms                           Loads of kids          Many children

Each text has one reference or several, the first of which is its target. A fixed tenth of all good sentences is held
out for tests. Every draw comes from a generator seeded with (seed, purpose).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

from training.world.lexicon import CLASSES, DOMAIN, GENERAL, TOPICS
from training.world.texts import join_tokens

HELD_OUT = 0.1  # share of the good sentences that only tests have


class Pair(NamedTuple):
    """A text and its references, of which the first is its target; none where nothing can be damaged."""

    task: str
    source: str
    references: tuple[str, ...]


Words = list[str]
Damaged = tuple[Words, tuple[Words, ...]] | None
"""Words before, and the references; None where the sentence has no place for it."""

SYNONYMS = {
    "liked": "enjoyed", "watched": "saw", "found": "met", "kept": "held", "used": "took", "praised": "admired",
    "bought": "acquired", "showed": "presented", "good": "fine", "big": "large", "old": "aged", "great": "grand",
    "pretty": "lovely", "quiet": "calm", "funny": "amusing", "happy": "glad", "often": "frequently",
    "always": "constantly", "soon": "shortly", "village": "hamlet", "house": "home", "shop": "store",
    "guests": "visitors", "strangers": "newcomers", "sailors": "seafarers",
}  # fmt: skip
PLAIN = {
    "stochastic": "random", "robust": "strong", "empirical": "observed", "systematic": "regular", "bounded": "limited",
    "sparse": "thin", "converges": "settles", "declines": "falls", "accumulates": "grows", "oscillates": "swings",
    "saturates": "fills", "variance": "spread", "density": "thickness", "velocity": "speed", "magnitude": "size",
    "frequency": "rate", "trial": "test", "simulation": "game", "algorithm": "recipe", "thresholds": "limits",
}  # fmt: skip
PLAINER = {"converges": "steadies", "declines": "drops", "variance": "range", "robust": "sturdy", "sparse": "scarce"}
WORDY = {
    "near": "in the vicinity of", "under": "in the presence of", "from": "on the basis of", "is": "happens to be",
    "was": "happened to be", "Across": "over the whole of", "Given": "in the event of", "Within": "inside of",
    "say": "make the statement", "see": "have a look at",
}  # fmt: skip
INFORMAL = {
    "children": "kids", "men": "guys", "friends": "buddies", "parents": "folks", "Many": "loads of", "good": "awesome",
    "nice": "cool", "bad": "lousy", "great": "super", "women": "gals", "Our": "our very own", "liked": "dug",
    "needed": "wanted bad", "watched": "checked out", "teenagers": "teens",
}  # fmt: skip
# Of each class the words that some task changes, and others up to this number.
PER_CLASS = 8
_CHANGED = {*SYNONYMS, *PLAIN, *INFORMAL}
WORDS = {
    name: tuple(sorted(words, key=lambda word: word not in _CHANGED)[: max(PER_CLASS, len(_CHANGED & {*words}))])
    for name, words in CLASSES.items()
}
TERMS = tuple(term for topic in ("farming", "music", "rivers", "schools") for term in TOPICS[topic][:PER_CLASS])
FILLERS = ("um ,", "uh ,", "you know ,", "well ,", "I mean ,", "sort of")
LOADED = ("so-called", "glorious", "shameful", "infamous", "miraculous", "ridiculous", "brilliant", "disgraceful")
CONNECTIVES = {
    ("general", "general"): ("Besides ,", "Moreover ,"),
    ("general", "domain"): ("In fact ,", "Indeed ,"),
    ("domain", "general"): ("Therefore ,", "So ,"),
    ("domain", "domain"): ("Furthermore ,", "Moreover ,"),
}
ARTICLES = ("the", "a")
_VERBS = {verb: verb.removesuffix("s") for verb in (*CLASSES["shift"], "relates", "bounds")}
AGREEMENT = {**_VERBS, "say": "says", "follow": "follows", "is": "are", "was": "were", "infer": "infers"}


def pairs(seed: int, n: int, *, held_out: bool = False) -> list[Pair]:
    """Return n texts of each task with their references; of held-out sentences for a test."""
    return [pair for task in TASKS for pair in islice(_pairs(seed, task, held_out=held_out), n)]


def _pairs(seed: int, task: str, *, held_out: bool) -> Iterator[Pair]:
    rng = Random(f"{seed}/{task}/{'test' if held_out else 'train'}")
    seen = set()
    while True:
        register = rng.choice(("general", "domain"))
        words = draw(rng, register)
        found = TASKS[task](rng, register, words) if is_held_out(words) == held_out else None
        if found is None:
            continue
        before, after = found
        source = text_of(before)
        if source not in seen:
            seen.add(source)
            yield Pair(task, source, tuple(dict.fromkeys(text_of(words) for words in after)))


def is_held_out(words: Sequence[str]) -> bool:
    """Whether a good sentence is one of the tenth that only tests have; its words alone decide."""
    return Random(" ".join(words)).random() < HELD_OUT


def draw(rng: Random, register: str) -> Words:
    """Draw a good sentence as words, of a small part of the world's: models of this size learn these in minutes."""
    words = rng.choice(GENERAL if register == "general" else DOMAIN).split()
    terms = iter(rng.sample(TERMS, 2))
    chosen = []
    for word in words:
        if word[0] == "{":
            word = next(terms) if word == "{term}" else rng.choice(WORDS[word[1:-1]])
        chosen.append(word)
    return chosen


def text_of(words: Sequence[str]) -> str:
    """Return words as a text that begins with a capital letter."""
    text = join_tokens(list(words))
    return text[:1].upper() + text[1:]


def _places(words: Sequence[str], table: Mapping[str, str] | Sequence[str]) -> list[int]:
    return [place for place, word in enumerate(words) if word in table]


def _replaced(words: Words, table: Mapping[str, str], places: Sequence[int]) -> Words:
    """Replace the words at some places by what a table has for them."""
    return [part for k, word in enumerate(words) for part in (table[word].split() if k in places else [word])]


def _some(rng: Random, places: Sequence[int], most: int) -> list[int]:
    return sorted(rng.sample(list(places), rng.randint(1, min(most, len(places)))))


def _varied(rng: Random, words: Words) -> tuple[Words, ...]:
    """Return a sentence, and as a second reference the same with another word for one of its own, where it has one."""
    places = _places(words, SYNONYMS)
    return (words, _replaced(words, SYNONYMS, [rng.choice(places)])) if places else (words,)


def _gec(rng: Random, register: str, words: Words) -> Damaged:
    ways = [way for way in (_agreement, _article, _order) if way(Random(0), words) is not None]
    if not ways:
        return None
    damaged = words
    for way in rng.sample(ways, rng.choice((1, 1, 2)) if len(ways) > 1 else 1):
        damaged = way(rng, damaged) or damaged
    return (damaged, (words,)) if damaged != words else None


def _agreement(rng: Random, words: Words) -> Words | None:
    places = _places(words, AGREEMENT)
    return _replaced(words, AGREEMENT, [rng.choice(places)]) if places else None


def _article(rng: Random, words: Words) -> Words | None:
    places = _places(words, ARTICLES)
    if not places:
        return None
    gone = rng.choice(places)
    return words[:gone] + words[gone + 1 :]


def _order(rng: Random, words: Words) -> Words | None:
    """Put an adjective behind its noun."""
    adjectives = (*CLASSES["mood"], *CLASSES["rigour"])
    places = [k for k in _places(words, adjectives) if words[k + 1].isalpha() and k > 0 and words[k + 1] != "to"]
    if not places:
        return None
    k = rng.choice(places)
    return [*words[:k], words[k + 1], words[k], *words[k + 2 :]]


def _fluency(rng: Random, register: str, words: Words) -> Damaged:
    found = list(words)
    for place in sorted(rng.sample(range(1, len(words) - 1), rng.choice((1, 1, 2))), reverse=True):
        found[place:place] = rng.choice(FILLERS).split()
    return found, _varied(rng, words)


def _clarity(rng: Random, register: str, words: Words) -> Damaged:
    places = _places(words, WORDY)
    return (_replaced(words, WORDY, _some(rng, places, 2)), _varied(rng, words)) if places else None


def _coherence(rng: Random, register: str, words: Words) -> Damaged:
    other = rng.choice(("general", "domain"))
    second = draw(rng, other)
    rest = [second[0].lower(), *second[1:]]
    after = tuple([*words, *connective.split(), *rest] for connective in CONNECTIVES[register, other])
    return [*words, second[0], *second[1:]], after


def _paraphrase(rng: Random, register: str, words: Words) -> Damaged:
    places = _places(words, SYNONYMS)
    if not places:
        return None
    every = _replaced(words, SYNONYMS, places)
    return words, (every,) if len(places) == 1 else (every, _replaced(words, SYNONYMS, places[:1]))


def _neutralisation(rng: Random, register: str, words: Words) -> Damaged:
    places = [k + 1 for k in _places(words, ARTICLES)]
    if not places:
        return None
    found = list(words)
    for place in reversed(_some(rng, places, 2)):
        found.insert(place, rng.choice(LOADED))
    return found, (words,)


def _simplification(rng: Random, register: str, words: Words) -> Damaged:
    places = _places(words, PLAIN)
    if not places:
        return None
    return words, (_replaced(words, PLAIN, places), _replaced(words, {**PLAIN, **PLAINER}, places))


def _formality(rng: Random, register: str, words: Words) -> Damaged:
    places = _places(words, INFORMAL)
    return (_replaced(words, INFORMAL, _some(rng, places, 3)), _varied(rng, words)) if places else None


TASKS: dict[str, Callable[[Random, str, Words], Damaged]] = {
    "gec": _gec,
    "fluency": _fluency,
    "clarity": _clarity,
    "coherence": _coherence,
    "paraphrase": _paraphrase,
    "neutralisation": _neutralisation,
    "simplification": _simplification,
    "formality": _formality,
}


def reason_for(task: str, kind: str, before: Sequence[str], after: Sequence[str]) -> str:
    """Return why an edit of a task is made, as the end of a sentence.

    Args:
        task: the task.
        kind: deleted, inserted or replaced.
        before: the words that go.
        after: the words that come.
    """
    if task == "gec":
        if kind == "inserted":
            return "the noun needs an article"
        if len(before) == len(after) > 1 and sorted(before) == sorted(after):
            return "the adjective stands before its noun"
        return "the verb agrees with its subject"
    return REASONS[task]


REASONS = {
    "fluency": "it is a filler",
    "clarity": "fewer words say the same",
    "coherence": "it ties the sentences together",
    "paraphrase": "it means the same",
    "neutralisation": "it takes a side",
    "simplification": "more people know the plain word",
    "formality": "it is how people talk",
}


def copies(seed: int, n: int) -> list[str]:
    """Return n texts for exercises in copying: good sentences, damaged ones, and pairs of them."""
    rng = Random(f"{seed}/copies")
    found: list[str] = []
    tasks = sorted(TASKS)
    while len(found) < n:
        register = rng.choice(("general", "domain"))
        words = draw(rng, register)
        damaged = TASKS[rng.choice(tasks)](rng, register, words) if not is_held_out(words) else None
        if damaged is not None:
            before, after = damaged
            found.append(text_of(rng.choice([before, *after])))
    return found


def damaged_copies(seed: int, n: int) -> Iterator[tuple[str, str, str]]:
    """Yield n texts, each with two copies of it, of which the second has more words exchanged, lost or doubled."""
    rng = Random(f"{seed}/damage")
    words = [*TERMS, *(word for group in WORDS.values() for word in group)]
    for text in copies(seed, n):
        fewer = rng.choice((0, 0, 1))
        more = fewer + rng.choice((1, 1, 2, 3))
        yield text, _with_damage(rng, text, fewer, words), _with_damage(rng, text, more, words)


def _with_damage(rng: Random, text: str, times: int, words: Sequence[str]) -> str:
    found = text.split()
    for _ in range(times):
        place, kind = rng.randrange(len(found)), rng.random()
        if kind < 0.6:
            found[place] = rng.choice(words)
        elif kind < 0.8 and len(found) > 1:
            del found[place]
        else:
            found.insert(place, rng.choice(found))
    return " ".join(found)


def vocabulary() -> list[str]:
    """Return every word of the tasks that the world's sentences do not have, and the sentences of the reasons."""
    tables = (SYNONYMS, PLAIN, PLAINER, WORDY, INFORMAL, AGREEMENT)
    words = [word for table in tables for pair in table.items() for word in pair]
    connectives = [word for choices in CONNECTIVES.values() for word in choices]
    gec = ("the noun needs an article", "the adjective stands before its noun", "the verb agrees with its subject")
    return [*words, *FILLERS, *LOADED, *connectives, *REASONS.values(), *gec]
