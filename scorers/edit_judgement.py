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
    if not scores or not all(_is_score(value) for one in scores for value in one.values()):
        return None
    return scores[0] if all(one == scores[0] for one in scores) else None


def read_verdicts(reply: str, reasons: int) -> list[bool] | None:
    """Return which reasons a judge finds correct; None where the reply does not say so of each; never raises.

    >>> read_verdicts('{"correct": [true, false]}', 2)
    [True, False]
    >>> read_verdicts('{"correct": [true]}', 2) is None
    True
    """
    found = [value["correct"] for value in json_values(reply) if isinstance(value, dict) and "correct" in value]
    fits = [one for one in found if isinstance(one, list) and len(one) == reasons]
    if not found or len(fits) < len(found) or any(one != fits[0] for one in fits):
        return None
    return fits[0] if all(isinstance(value, bool) for one in fits for value in one) else None


def _is_score(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and LOWEST <= value <= HIGHEST
