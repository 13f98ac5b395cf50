"""Measure MaxMatch and SARI beside plain programs of the same definitions, on the same sentences.

Sentences of the generated world with three references each: words deleted, doubled, replaced and moved by chance. The
plain MaxMatch builds the whole lattice of alignments, joins steps to edits vertex by vertex, and looks for the best way
with Bellman and Ford's algorithm, as the method was published; where several insertions at one place are alike, it
counts the first one and may miss a better way, so that ours may find more correct edits, and never fewer. The plain
SARI counts n-grams in lists. Where ours finds fewer, or the two SARIs differ, the program ends with an error. Prints a
table and one line of JSON.

    python scripts/bench_edits.py --sentences 200 --plain 40
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from scorers.edits import word_edits, words_of
from scorers.maxmatch import UNCHANGED, Annotated, Counts, GoldEdit, matches, maxmatch
from scorers.sari import corpus_sari
from training.world.lexicon import TOPICS
from training.world.texts import World

EPSILON = 0.001  # of an edit that is not the annotator's, beside the steps that it takes


def damaged(words: Sequence[str], rng: Random, most: int) -> list[str]:
    """A sentence with some words deleted, doubled, replaced or moved."""
    found = list(words)
    for _ in range(rng.randrange(1, most + 1)):
        place = rng.randrange(len(found))
        kind = rng.randrange(4)
        if kind == 0 and len(found) > 4:
            del found[place]
        elif kind == 1:
            found.insert(place, found[place])
        elif kind == 2:
            found[place] = rng.choice(words)
        else:
            found.insert(rng.randrange(len(found)), found.pop(place))
    return found


def plain_lattice(source: Sequence[str], output: Sequence[str]) -> dict[Any, list[tuple[Any, bool]]]:
    """The steps of all shortest alignments, from whole matrices of costs."""
    found: dict[Any, dict[Any, bool]] = {}
    for substitution in (1, 2):
        cost = [[i + j for j in range(len(output) + 1)] for i in range(len(source) + 1)]
        before: dict[Any, list[tuple[Any, bool]]] = {}
        for i in range(len(source) + 1):
            for j in range(len(output) + 1):
                ways = []
                if i and j:
                    changes = source[i - 1] != output[j - 1]
                    ways.append((cost[i - 1][j - 1] + substitution * changes, (i - 1, j - 1), changes))
                ways += [(cost[i - 1][j] + 1, (i - 1, j), True)] if i else []
                ways += [(cost[i][j - 1] + 1, (i, j - 1), True)] if j else []
                cost[i][j] = min((way[0] for way in ways), default=0)
                before[i, j] = [way[1:] for way in ways if way[0] == cost[i][j]]
        waiting = [(len(source), len(output))]
        while waiting:
            node = waiting.pop()
            for start, changes in before.pop(node, ()):
                found.setdefault(start, {})[node] = changes
                waiting.append(start)
    return {start: list(ends.items()) for start, ends in found.items()}


def plain_matches(source: Sequence[str], output: Sequence[str], golds: Sequence[Sequence[GoldEdit]]) -> list[Counts]:
    """MaxMatch of one sentence as it was published: arcs between all vertices, then Bellman and Ford by annotator."""
    steps = plain_lattice(source, output)
    nodes = sorted({*steps, *(there for found in steps.values() for there, _ in found)})
    # By arc: its length, and the unchanged words in it; an arc of one unchanged word has None.
    arcs: dict[tuple[Any, Any], tuple[int, int, bool]] = {}
    for start, found in steps.items():
        for there, changes in found:
            arcs[start, there] = (1, 0 if changes else 1, changes)
    for middle in nodes:
        for start in nodes:
            if (start, middle) not in arcs:
                continue
            first = arcs[start, middle]
            for end in nodes:
                if (middle, end) not in arcs:
                    continue
                second = arcs[middle, end]
                joined = (first[0] + second[0], first[1] + second[1], first[2] or second[2])
                if joined[1] <= UNCHANGED and joined[0] < arcs.get((start, end), (math.inf, 0, False))[0]:
                    arcs[start, end] = joined
    return [_way(arcs, nodes, output, gold, (len(source), len(output))) for gold in golds]


def _way(arcs: Any, nodes: Any, output: Sequence[str], gold: Sequence[GoldEdit], end_node: Any) -> Counts:
    """The best way with one annotator."""
    wanted = {(edit.start, edit.end, text) for edit in gold for text in edit.corrections}
    costs = {}
    for (start, end), (length, unchanged, changes) in sorted(arcs.items()):
        if not changes and unchanged > 1:
            continue
        edit = (start[0], end[0], tuple(output[start[1] : end[1]]))
        if changes and edit in wanted:
            costs[start, end] = -float(len(arcs))
            if edit[0] == edit[1]:  # a way may hold several insertions at one place, of which one is the annotator's
                wanted.remove(edit)
        else:
            costs[start, end] = length + EPSILON * changes
    reached: dict[Any, float] = {node: 0.0 if node == (0, 0) else math.inf for node in nodes}
    before: dict[Any, Any] = {}
    for _ in nodes:
        for (start, end), cost in costs.items():
            if reached[start] + cost < reached[end]:
                reached[end], before[end] = reached[start] + cost, start
    correct = proposed = 0
    node = end_node
    while node in before:
        start = before[node]
        if arcs[start, node][2]:
            proposed += 1
            correct += costs[start, node] < 0
        node = start
    return Counts(correct, proposed, len(gold))


def plain_sari(source: list[str], output: list[str], references: list[list[str]]) -> float:
    """SARI by loops over lists of n-grams."""

    def grams(words: list[str], n: int) -> list[str]:
        return [" ".join(words[k : k + n]) for k in range(len(words) - n + 1)]

    def f1(p: float, r: float) -> float:
        return 2 * p * r / (p + r) if p + r else 0.0

    total, times = 0.0, len(references)
    for n in range(1, 5):
        before, after = grams(source, n), grams(output, n)
        wanted = [gram for reference in references for gram in grams(reference, n)]
        kept = [gram for gram in set(before) if gram in after]
        to_keep = [gram for gram in set(before) if gram in wanted]
        precision = recall = 0.0
        for gram in kept:
            both = times * min(before.count(gram), after.count(gram))
            right = min(both, wanted.count(gram))
            precision += right / both
            recall += right / min(times * before.count(gram), wanted.count(gram)) if right else 0.0
        total += f1(precision / len(kept) if kept else 0.0, recall / len(to_keep) if to_keep else 0.0)
        gone = [gram for gram in set(before) if before.count(gram) > after.count(gram)]
        less = {gram: times * (before.count(gram) - after.count(gram)) for gram in gone}
        good = sum(max(0, less[gram] - wanted.count(gram)) / less[gram] for gram in gone)
        total += good / len(gone) if gone else 0.0
        new, to_add = set(after) - set(before), set(wanted) - set(before)
        total += f1(len(new & to_add) / len(new) if new else 0.0, len(new & to_add) / len(to_add) if to_add else 0.0)
    return 100 * total / 12


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the CPU seconds that it takes."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def main() -> None:
    """Make sentences, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--plain", type=int, default=40, help="of them, how many the plain MaxMatch is given")
    parser.add_argument("--length", type=int, default=2, help="sentences of the world in each")
    parser.add_argument("--damages", type=int, default=4, help="at most, of one sentence")
    options = parser.parse_args()
    rng, world = Random(0), World(0)
    topics = sorted(TOPICS)
    sources = [words_of(world.notes_on(topics[k % len(topics)], options.length)) for k in range(options.sentences)]
    outputs = [damaged(words, rng, options.damages) for words in sources]
    references = [[damaged(words, rng, options.damages) for _ in range(3)] for words in sources]
    sentences = [
        Annotated(
            tuple(source),
            {k: [GoldEdit(e.start, e.end, (e.target,)) for e in word_edits(source, r)] for k, r in enumerate(texts)},
        )
        for source, texts in zip(sources, references, strict=True)
    ]
    _, ours = timed(lambda: maxmatch(sentences, outputs))
    few = list(zip(sentences, outputs, strict=True))[: options.plain]
    fast = [list(matches(s.source, out, s.gold.values())) for s, out in few]
    slow, theirs = timed(lambda: [plain_matches(s.source, out, list(s.gold.values())) for s, out in few])
    both = [(a, b) for mine, other in zip(fast, slow, strict=True) for a, b in zip(mine, other, strict=True)]
    if worse := sum(a.correct < b.correct for a, b in both):
        raise SystemExit(f"ours finds fewer correct edits in {worse} of {len(both)} cases")
    equal = sum(a == b for a, b in both)
    sari, sari_ours = timed(lambda: corpus_sari(sources, outputs, references).sari)
    each, sari_theirs = timed(lambda: [plain_sari(*one) for one in zip(sources, outputs, references, strict=True)])
    if abs(sum(each) / len(each) - sari) > 1e-9:
        raise SystemExit("the two SARIs differ")
    rates = {
        "MaxMatch": (len(sentences) / ours, len(few) / theirs),
        "SARI": (len(sentences) / sari_ours, len(sentences) / sari_theirs),
    }
    words = sum(map(len, sources)) / len(sources)
    print(f"equal counts in {equal} of {len(both)} cases, in the others ours has as many correct edits or more")
    print(f"{options.sentences} sentences of {words:.0f} words, three annotators; sentences per CPU second")
    print(f"{'':<10}{'ours':>12}{'plain':>12}{'ratio':>8}")
    for name, (mine, other) in rates.items():
        print(f"{name:<10}{mine:>12,.0f}{other:>12,.1f}{mine / other:>8.1f}")
    record = {
        name: {"ours": round(a, 1), "plain": round(b, 1), "ratio": round(a / b, 2)} for name, (a, b) in rates.items()
    }
    print(json.dumps({"sentences": options.sentences, "words": round(words, 1), "equal": equal / len(both), **record}))


if __name__ == "__main__":
    main()
