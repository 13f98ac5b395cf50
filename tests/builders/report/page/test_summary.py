"""What the page says of several revisions before their rows."""

from pathlib import Path

from datasets_factory import add_dataset, scores_frame, weights_frame

from builders.report.page.summary import overviews_of
from builders.store.store import Store


def test_a_title_is_the_stage_and_of_two_alike_the_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scores = add_dataset(store, "score", scores_frame(), repo="local/x-scores")
    one = add_dataset(store, "calibrate", weights_frame(scores_frame()), repo="local/x-weights")
    other = add_dataset(store, "calibrate", weights_frame(scores_frame()), repo="local/y-weights")
    alone = [found.title for found in overviews_of([scores, one])]
    assert [title.partition(",")[0] for title in alone] == ["score", "calibrate"]
    both = [found.title for found in overviews_of([scores, one, other])]
    assert both == [alone[0], *(f"{revision.repo}@{revision.revision[:12]}" for revision in (one, other))]
