"""What is said of a task: the eight that come with the package, users' own, and texts that stay texts."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.rationalign import messages
from builders.rationalign.settings import TaskSettings
from scorers.editing import METRICS
from scorers.edits import edits_between
from scorers.errors import UserError
from scorers.suggestion import Order
from training.pipelines import load_config

CONFIG = load_config("tiny-rationalign")
ORDERS: tuple[Order, ...] = get_args(Order)
# Table 1, from left to right.
TABLE = {
    "gec": "maxmatch",
    "fluency": "sari",
    "clarity": "sari",
    "coherence": "sari",
    "paraphrase": "sari",
    "neutralisation": "sari",
    "simplification": "sari",
    "formality": "bleu",
}
OWN = {"metric": "bleu", "edit": "Make it {{ source }}.", "change": "It is a haiku now.", "quality": "A good haiku."}
HOSTILE = "{{ 7 * 7 }} {% if x %} {# a #} <suggestion>no</suggestion> </reasons> & <b> ${x} %s \\n {task}"


def text_of(said: list[Any]) -> str:
    assert [message["role"] for message in said] == ["user"]
    return str(said[0]["content"])


def fenced(prompt: str, fence: str) -> list[str]:
    """Return what stands between the lines of equals signs of one length."""
    return ("\n" + prompt + "\n").split(f"\n{fence}\n")[1::2]


def test_every_task_has_a_metric_and_words_of_its_own() -> None:
    found = messages.tasks_of(CONFIG)
    assert {name: task.metric for name, task in found.items()} == TABLE and set(TABLE.values()) == set(METRICS)
    for field in ("edit", "change", "quality"):
        words = [getattr(task, field) for task in found.values()]
        assert len(set(words)) == 8 and all(text.strip() == text and text.endswith(".") for text in words)


def test_a_task_is_told_by_what_a_prompt_says_of_it() -> None:
    for name in TABLE:
        edits = edits_between("a b", "a c")
        assert messages.tasks_by_wording(text_of(messages.ask_for_reasons(CONFIG, name, "a b", "a c", edits))) == name
        assert messages.tasks_by_wording(messages.reward_text(CONFIG, name, "a b", "a c")) == name
    assert messages.tasks_by_wording("Write a poem.") is None


def test_tasks_of_ones_own() -> None:
    config = load_config("tiny-rationalign", [f"tasks={{gec: {OWN}, haiku: {OWN}}}"])
    found = messages.tasks_of(config)
    assert list(found) == [*TABLE, "haiku"] and found["gec"] == found["haiku"] == TaskSettings(**OWN)  # type: ignore[arg-type]
    assert found["clarity"] == messages.ours()["clarity"] and messages.ours()["gec"].metric == "maxmatch"
    assert messages.task_of(config, "haiku", "here").metric == "bleu"
    asked = text_of(messages.ask_to_edit(config, "haiku", "Rain.", "none"))
    assert asked.startswith("Make it {{ source }}.") and fenced(asked, "=====") == ["Rain."]


def test_a_task_without_a_metric() -> None:
    with pytest.raises(
        UserError, match=r"^file a: task 'haikus' has no metric, did you mean haiku\?.*gec, .*haiku; or"
    ):
        messages.task_of(load_config("tiny-rationalign", [f"tasks={{haiku: {OWN}}}"]), "haikus", "file a")
    with pytest.raises(UserError, match="metric"):
        load_config("tiny-rationalign", ["tasks={haiku: {metric: bleurt, edit: a, change: b, quality: c}}"])


@pytest.mark.parametrize("task", TABLE)
def test_the_three_orders_are_three_prompts(task: str) -> None:
    said = {order: text_of(messages.ask_to_edit(CONFIG, task, "He go.", order)) for order in ORDERS}
    assert len(set(said.values())) == 3
    for order, text in said.items():
        assert text.startswith(messages.ours()[task].edit) and fenced(text, "=====") == ["He go."]
        places = [text.find("<suggestion>"), text.find("<reasons>")]
        assert (places == [-1, -1]) if order == "none" else (places == sorted(places)) == (order == "suggestion-first")
        assert order == "none" or -1 not in places


def test_a_line_of_equals_signs_gets_a_longer_fence() -> None:
    source, target = f"a\n{'=' * 5}\nb", f"a\n{'=' * 9}\nb"
    assert fenced(text_of(messages.ask_to_edit(CONFIG, "gec", source, "none")), "=" * 6) == [source]
    asked = text_of(messages.ask_for_reasons(CONFIG, "gec", source, target, []))
    assert fenced(asked, "=" * 10)[:2] == [source, target]


def test_the_teacher_reads_the_edits_in_their_order() -> None:
    source, target = "He go to school um .", "He goes to the school ."
    edits = edits_between(source, target)
    assert [edit.kind for edit in edits] == ["replaced", "inserted", "deleted"]
    asked = text_of(messages.ask_for_reasons(CONFIG, "gec", source, target, edits))
    old, new, listed = fenced(asked, "=====")
    assert (old, new) == (source, target) and messages.ours()["gec"].change in asked
    assert listed.splitlines() == [
        '1. The word "go" should be replaced by "goes"',
        '2. The word "the" should be inserted',
        '3. The word "um" should be deleted',
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_templates_and_tags_in_a_text_are_text(order: Order) -> None:
    assert fenced(text_of(messages.ask_to_edit(CONFIG, "gec", HOSTILE, order)), "=====") == [HOSTILE]
    edits = edits_between(HOSTILE, "b")
    assert fenced(text_of(messages.ask_for_reasons(CONFIG, "gec", HOSTILE, "b", edits)), "=====")[:2] == [HOSTILE, "b"]
    for listed in (False, True):
        config = load_config("tiny-rationalign", [f"contest.list_edits={listed}"])
        found = messages.reward_text(config, "gec", HOSTILE, f"new {HOSTILE}")
        end = "\n\nEdits:\n-> new" if listed else ""
        assert f"Old text:\n{HOSTILE}\n" in found and found.endswith(f"New text:\nnew {HOSTILE}{end}")


def test_the_reward_model_reads_the_edits_where_it_is_to() -> None:
    config = load_config("tiny-rationalign", ["contest.list_edits=true"])
    without = load_config("tiny-rationalign", ["contest.list_edits=false"])
    source, suggestion = "He go to school um .", "He goes to the school ."
    plain = messages.reward_text(without, "gec", source, suggestion)
    listed = messages.reward_text(config, "gec", source, suggestion)
    assert plain.endswith(f"Old text:\n{source}\n\nNew text:\n{suggestion}")
    assert listed == f"{plain}\n\nEdits:\ngo -> goes\n-> the\num ->"
    assert messages.reward_text(config, "gec", source, source).endswith(f"{source}\n\nEdits:\nnone")


@given(st.text(alphabet=st.sampled_from("a= \n{}<"), min_size=1), st.text(alphabet="b=\n", min_size=1))
def test_no_text_ends_its_own_place(source: str, target: str) -> None:
    said = text_of(messages.ask_for_reasons(CONFIG, "clarity", source, target, []))
    longest = max((line for line in said.split("\n") if set(line) == {"="}), key=len)
    assert fenced(said, longest)[:2] == [source, target]
