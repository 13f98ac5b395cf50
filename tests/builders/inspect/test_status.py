"""`grace status`: one row for each revision that a configuration makes."""

from pathlib import Path

from datasets_factory import add_dataset, add_model, scores_frame
from real_configs import config_on

from builders.inspect.status import status_rows
from builders.store.store import Store
from training.pipelines import build


def test_an_empty_store_holds_nothing_and_stays_so(tmp_path: Path) -> None:
    rows = status_rows(config_on(tmp_path, "loop.rounds=2"))
    assert [(row["round"], row["stage"]) for row in rows] == [
        (0, "seed"),
        (0, "sft"),
        *((round_, stage) for round_ in (1, 2) for stage in ("generate", "sample", "score", "calibrate", "train")),
    ]
    assert {row["state"] for row in rows} == {"missing"} and {row["revision"] for row in rows} == {None}
    assert not (tmp_path / "store").exists()


def test_what_is_there_is_shown_with_its_rows_and_digest(tmp_path: Path) -> None:
    config = config_on(tmp_path, "loop.rounds=2")
    store = Store(Path(config.store))
    seeds = build(config, "seed")[-1].revision
    scores = add_dataset(store, "score", scores_frame(), repo="local/tiny-scores", round_=2)
    policy = add_model(store, "local/tiny-policy", round_=1)
    built = {(row["round"], row["stage"]): row for row in status_rows(config) if row["state"] == "built"}
    assert set(built) == {(0, "seed"), (2, "score"), (1, "train")}
    assert built[0, "seed"]["revision"] == str(seeds) and built[0, "seed"]["rows"] == 6
    assert built[2, "score"] == {
        "round": 2,
        "stage": "score",
        "state": "built",
        "rows": 8,
        "revision": str(scores),
        "digest": scores.digest,
    }
    assert built[1, "train"]["revision"] == str(policy)
