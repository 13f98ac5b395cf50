"""A teacher and a judge by rules, behind an OpenAI-compatible endpoint on the loopback.

The teacher gives each edit the reason that the generated world's rules have for it; the judge rates an edited text by
those rules, and tells right reasons from wrong ones. A stated share of the replies is malformed in the ways that models
have: a reason left out, the edits said again without reasons, a reply cut short.

    python -m training.rationalign.teacher --port 8000 --malformed 0.05
"""

import argparse
import re
from random import Random

from builders.rationalign.messages import tasks_by_wording
from training.rationalign.editing import reason_for
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
    text = explain(prompt)
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
