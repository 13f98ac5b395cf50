"""A teacher and a judge by rules, behind an OpenAI-compatible endpoint on the loopback.

The teacher gives each edit the reason that the generated world's rules have for it; the judge rates an edited text by
those rules, and tells right reasons from wrong ones. A stated share of the replies is malformed in the ways that models
have: a reason left out, the edits said again without reasons, a reply cut short.

    python -m training.rationalign.teacher --port 8000 --malformed 0.05
"""

import argparse
import json
import re
from random import Random

from builders.rationalign.messages import tasks_by_wording
from scorers.edits import edits_between, words_of
from training.rationalign.editing import FILLERS, INFORMAL, LOADED, WORDY, reason_for
from training.world.lexicon import DOMAIN, GENERAL
from training.world.measures import is_in_register
from training.world.server import serve

VERSION = 1
"""To be raised when the same prompt and seed are answered otherwise."""
MODELS = ("teacher", "judge")
_FENCED = re.compile(r"^(={5,})\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r'"([^"]*)"')


def reply(prompt: str, seed: int, malformed: float) -> str:
    """Answer a prompt.

    Args:
        prompt: the last message's text.
        seed: of the request.
        malformed: share of replies that cannot be read.
    """
    rng = Random(f"{seed}/{prompt}")
    text = next((answer for marker, answer in _JUDGED.items() if marker in prompt), explain)(prompt)
    return _break(text, rng) if rng.random() < malformed else text


def explain(prompt: str) -> str:
    """Give each edit that a prompt lists its reason."""
    *_, edits = [text for _, text in _FENCED.findall(prompt)]
    task = tasks_by_wording(prompt) or "gec"
    lines = []
    for line in edits.splitlines():
        said = line.partition(". ")[2]
        quoted = [text.split() for text in _QUOTED.findall(said)]
        kind = "inserted" if "inserted" in said else "deleted" if "deleted" in said else "replaced"
        before = quoted[0] if kind != "inserted" else []
        after = quoted[-1] if kind != "deleted" else []
        lines.append(f"{said} because {reason_for(task, kind, before, after)}.")
    return "\n".join(lines)


def judge(prompt: str) -> str:
    """Rate a revised text from 1 to 5 in four respects."""
    source, revised = [text for _, text in _FENCED.findall(prompt)][:2]
    sentences = [part if part.endswith(".") else f"{part}." for part in re.split(r"(?<=\.) ", revised) if part]
    known = [is_in_register(_without_connective(sentence), GENERAL + DOMAIN) for sentence in sentences]
    spoilt = sum(revised.count(f" {phrase}") for phrase in (*_FILLERS, *WORDY.values(), *LOADED, *INFORMAL.values()))
    words, before = set(words_of(revised.lower())), set(words_of(source.lower()))
    kept = len(words & before) / max(1, len(words | before))
    repeated = len(sentences) - len(set(sentences))
    return json.dumps(
        {
            "grammaticality": _score(sum(known) / max(1, len(known))),
            "fluency": _score(1.0 - spoilt / 3),
            "coherence": _score(1.0 - repeated / max(1, len(sentences))),
            "consistency": _score(2 * kept - 0.6),
        }
    )


def verdicts(prompt: str) -> str:
    """Tell which reasons name an edit that was made, and say of it what the rules say."""
    task = tasks_by_wording(prompt) or "gec"
    source, revised, listed = [text for _, text in _FENCED.findall(prompt)][:3]
    edits = edits_between(source, revised)
    rules = {(e.kind, e.source, e.target): reason_for(task, e.kind, e.source, e.target) for e in edits}
    found = []
    for line in listed.splitlines():
        said, _, reason = line.partition(". ")[2].partition(" because ")
        quoted = [tuple(words_of(text)) for text in _QUOTED.findall(said)]
        kind = next((kind for kind in ("inserted", "deleted", "replaced") if kind in said), "")
        before, after = ([], quoted[:1]) if kind == "inserted" else (quoted[:1], quoted[1:2])
        key = (kind, before[0] if before else (), after[0] if after else ())
        found.append(rules.get(key) == reason.strip().rstrip("."))
    return json.dumps({"correct": found})


def _without_connective(sentence: str) -> str:
    """Return a sentence without a connective before it, as a sentence of its own."""
    first, comma, rest = sentence.partition(", ")
    alone = comma and len(first.split()) < 3 and rest[:1].islower()
    return rest[:1].upper() + rest[1:] if alone else sentence


def _score(share: float) -> int:
    return min(5, max(1, round(1 + 4 * share)))


# The marks of filler words as they stand in a text.
_FILLERS = [filler.replace(" ,", ",") for filler in FILLERS]
# By what a prompt holds, what answers it.
_JUDGED = {'"grammaticality": 1-5': judge, '{"correct": [': verdicts}


def _break(text: str, rng: Random) -> str:
    """Make a reply malformed in one of the ways that models have."""
    lines = text.splitlines()
    faults = [lines[:-1], [line.partition(" because ")[0] for line in lines], ["These edits improve the text."]]
    return "\n".join(rng.choice(faults))


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--malformed", type=float, default=0.05)
    options = parser.parse_args()
    identity = f"world rules {VERSION}, malformed {options.malformed}"
    serve(options.port, MODELS, identity, lambda prompt, seed: reply(prompt, seed, options.malformed))


if __name__ == "__main__":
    main()
