"""Criteria by which a judge rates the responses to one query (WritingBench, §3.2): five of them, each with five bands.

    {"name": "Sections", "criteria_description": "Both sections asked for are there …",
     "1-2": "None of them …", "3-4": "…", "5-6": "…", "7-8": "…", "9-10": "Both, in order …"}

The names of the fields are those of the benchmark's own files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scorers.replies import json_values

BANDS = ("1-2", "3-4", "5-6", "7-8", "9-10")
"""Ranges of the score, each with a description of what earns it."""
FIELDS = ("name", "criteria_description", *BANDS)
COUNT = 5

Criterion = dict[str, str]
"""A criterion by the names of `FIELDS`; no text is blank."""

# Why a reply holds no criteria.
NO_LIST = "no list of criteria"
NOT_FIVE = f"not {COUNT} criteria"
NO_FIELD = "a criterion without name, description or a band"
TWICE = "two criteria of one name"


def read_criteria(reply: str) -> list[Criterion] | str:
    """Return the criteria in a reply, or why it holds none: one of this module's four reasons; never raises.

    They may be a list, an object with one list in it, or objects one after the other.

    Args:
        reply: the model's text, without its thinking block.

    >>> read_criteria('[{"name": "Sections"}]')
    'not 5 criteria'
    """
    found = _listed(json_values(reply))
    return check_criteria(found) if found else NO_LIST


def check_criteria(found: Sequence[Any]) -> list[Criterion] | str:
    """Return criteria with the fields of `FIELDS` alone, white space around their texts cut; or why they are none.

    Args:
        found: what may be criteria.
    """
    if len(found) != COUNT:
        return NOT_FIVE
    criteria = [_criterion(value) for value in found]
    whole = [criterion for criterion in criteria if criterion is not None]
    if len(whole) < COUNT:
        return NO_FIELD
    names = {" ".join(criterion["name"].casefold().split()) for criterion in whole}
    return whole if len(names) == COUNT else TWICE


def _listed(values: Sequence[Any]) -> list[Any]:
    """Return what may be the criteria of a reply: of several lists the first of objects, else its objects."""
    for value in values:
        lists = [value] if isinstance(value, list) else [v for v in value.values() if isinstance(v, list)]
        if len(lists) == 1 and any(isinstance(item, dict) for item in lists[0]):
            return list(lists[0])
    return [value for value in values if isinstance(value, dict)]


def _criterion(value: Any) -> Criterion | None:
    """Return one criterion, None where a field is missing, blank or no text."""
    if not isinstance(value, Mapping):
        return None
    # The description has a shorter name in replies that leave out its first word.
    value = {"criteria_description": value.get("description"), **value}
    texts = {field: value[field].strip() for field in FIELDS if isinstance(value.get(field), str)}
    return texts if len(texts) == len(FIELDS) and all(texts.values()) else None
