"""A judge's view of a whole response: five criteria from 1 to 10, after an analysis (GRACE-KTO, §4.1, appendix E).

    {"analysis": "Sound, but the second part repeats the first.", "content": 7, "tone": 8, "ideas": 5, "structure": 6,
     "persuasiveness": 6}

The score of a response is the mean of the five, times ten. What cannot be read without doubt is no judgement: the
response counts as unscored and never as 0.
"""

from statistics import fmean
from typing import NamedTuple

from scorers.prompts import fence, render_prompt
from scorers.rating import HIGHEST, LOWEST, whole_score
from scorers.replies import json_objects

CRITERIA = {
    "content": "Content Accuracy and Relevance",
    "tone": "Tone and Formality",
    "ideas": "Idea Development and Argumentation",
    "structure": "Structure and Clarity",
    "persuasiveness": "Persuasiveness and Effectiveness",
}
"""The paper's names of the criteria, by the names that replies and columns give them."""

_TEXT = r'"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"'
_SCORE = "(" + "|".join(str(score) for score in range(HIGHEST, LOWEST - 1, -1)) + ")"
REPLY = r'\{"analysis": ' + _TEXT + "".join(f', "{name}": {_SCORE}' for name in CRITERIA) + r"\}"
"""Regular expression that guided replies are held to: the analysis first, then the scores."""


class Judgement(NamedTuple):
    """What a judge says of a response.

    Attributes:
        scores: by criterion, 1 (worst) to 10.
        analysis: strengths and weaknesses; None where the judge names none.
    """

    scores: dict[str, int]
    analysis: str | None

    @property
    def score(self) -> float:
        """The mean of the five, times ten: 10 to 100."""
        return 10 * fmean(self.scores.values())


def ask(prompt: str, query: str, response: str) -> list[dict[str, str]]:
    """Return the chat messages that ask a judge about a response.

    Args:
        prompt: template of the prompt, with `query`, `response`, and `fence`, the line around each of them.
        query: what was asked for.
        response: the response.

    >>> ask("Judge.\\n{{ fence }}\\n{{ response }}\\n{{ fence }}", "Write.", "A text.")
    [{'role': 'user', 'content': 'Judge.\\n=====\\nA text.\\n====='}]
    """
    text = render_prompt(prompt, query=query, response=response, fence=fence(query, response))
    return [{"role": "user", "content": text}]


def parse(reply: str) -> Judgement | None:
    """Return the judgement in a judge's reply, None where it holds none or contradicting ones; never raises.

    All five scores have to stand in one object, each a whole number from 1 to 10. A reply may repeat its judgement, or
    quote a response that holds one; only where all of them are the same does it count, with the first analysis.

    Args:
        reply: the judge's text, without its thinking block.

    >>> parse('{"analysis": "Dry.", "content": 7, "tone": 8, "ideas": 5, "structure": 6, "persuasiveness": 6}').score
    64.0
    >>> parse('{"analysis": "Dry.", "content": 7, "tone": 8, "ideas": 5.5, "structure": 6, "persuasiveness": 6}')
    >>> parse('{"content": 10}')
    """
    said = [found for found in json_objects(reply) if CRITERIA.keys() & found.keys()]
    read = [{name: whole_score(found.get(name)) for name in CRITERIA} for found in said]
    if not read or any(scores != read[0] for scores in read):
        return None
    scores = {name: score for name, score in read[0].items() if score is not None}
    if len(scores) < len(CRITERIA):
        return None
    texts = (text.strip() for found in said if isinstance(text := found.get("analysis"), str))
    return Judgement(scores, next(filter(None, texts), None))
