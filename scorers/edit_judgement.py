"""A judge's view of an edited text: four scores from 1 to 5, and which of its reasons are correct (RationAlign, §5.3).

What cannot be read without doubt is no judgement: the text counts as unscored and never as 0.
"""

from typing import Any

from scorers.replies import json_values

RESPECTS = ("grammaticality", "fluency", "coherence", "consistency")
LOWEST, HIGHEST = 1, 5


def read_scores(reply: str) -> dict[str, int] | None:
    """Return the four scores of a judge's reply; None where one is missing or not a whole one in range; never raises.

    >>> read_scores('{"grammaticality": 5, "fluency": 4, "coherence": 5, "consistency": 3}')
    {'grammaticality': 5, 'fluency': 4, 'coherence': 5, 'consistency': 3}
    >>> read_scores('{"grammaticality": 5.5, "fluency": 4, "coherence": 5, "consistency": 3}') is None
    True
    """
    found = [value for value in json_values(reply) if isinstance(value, dict) and set(RESPECTS) <= value.keys()]
    scores = [{name: value[name] for name in RESPECTS} for value in found]
    if not scores or any(one != scores[0] for one in scores):
        return None
    return scores[0] if all(_is_score(value) for value in scores[0].values()) else None


def read_verdicts(reply: str, reasons: int) -> list[bool] | None:
    """Return which reasons a judge finds correct; None where the reply does not say so of each; never raises.

    >>> read_verdicts('{"correct": [true, false]}', 2)
    [True, False]
    >>> read_verdicts('{"correct": [true]}', 2) is None
    True
    """
    found = [value["correct"] for value in json_values(reply) if isinstance(value, dict) and "correct" in value]
    if len(found) != 1 or not isinstance(found[0], list) or len(found[0]) != reasons:
        return None
    return found[0] if all(isinstance(value, bool) for value in found[0]) else None


def _is_score(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and LOWEST <= value <= HIGHEST
