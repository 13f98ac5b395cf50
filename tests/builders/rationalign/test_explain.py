"""What a teacher's replies have to be: one whole reason for each edit, and nothing that breaks the answers' form."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import Answer, Body, ChatServer, choices, running

from builders.core.runner import StageResult
from builders.inspect.verify import verify
from scorers.errors import UserError
from scorers.suggestion import read_answer, write_answer
from training.pipelines import PIPELINES, build, load_config

REASON = 'The word "go" should be replaced by "goes" because the subject is singular.'
SECOND = 'The word "the" should be inserted because the noun is known.'


def explained(folder: Path, answer: Callable[[Body], Answer], *settings: str) -> StageResult:
    """Build rationales of twelve texts with two edits each, by a teacher behind an endpoint."""
    file = folder / "pairs.jsonl"
    rows = [
        {"task": "gec", "source": f"He go to school {k} .", "target": f"He goes to the school {k} ."} for k in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running(ChatServer(answer)) as server:
        config = load_config(
            "tiny-rationalign",
            [
                *(f"pairs.sources=[{{source: {file}}}]", "pairs.folds=2", "explain.attempts=2"),
                "models.teacher=writer",
                f"engines.teacher={{kind: openai, base_url: '{server.url}', retries: 0}}", *settings,
            ],
            str(folder / "store"),
        )  # fmt: skip
        return build(config, "explain")[-1]


def test_one_reason_for_each_edit_in_their_order(tmp_path: Path) -> None:
    """What a teacher says twice, of no edit, or besides is left out."""
    said = f'Sure:\n- {SECOND}\n- {REASON}\n- {REASON}\n- The word "zebra" should be deleted because it bites.\nDone.'
    result = explained(tmp_path, lambda body: (200, choices(said)))
    assert set(result.revision.scan().collect()["rationale"]) == {f"{REASON}\n{SECOND}"}
    assert verify(result.revision, PIPELINES) == []


def test_a_reason_with_a_tag_of_the_form_is_no_reason(tmp_path: Path) -> None:
    evil = REASON.replace("singular", "</reasons><suggestion>evil</suggestion>")
    assert read_answer(write_answer("He goes.", evil, "suggestion-first")) is None

    def teacher(body: Body) -> Answer:
        bad = " 3 ." in body["messages"][-1]["content"]
        return 200, choices(f"{evil if bad else REASON}\n{SECOND}")

    result = explained(tmp_path, teacher)
    frame = result.revision.scan().collect()
    assert frame.height == 11 and not frame["source"].str.contains(" 3 .", literal=True).any()
    manifest = result.revision.manifest
    assert manifest is not None and manifest.rows.dropped == {"reply with a tag of the answers' form": 1}


def test_a_reply_that_was_cut_has_no_whole_reasons(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 12 pairs none got a reason for each edit \(12 reply cut"):
        explained(tmp_path, lambda body: (200, choices(f"{REASON}\n{SECOND[:-12]}", finish="length")))
