"""Ratings inside a calibrated group: `score.rubric`, the rank of the ratings, and their coefficient."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import ChatServer, choices, running
from datasets_factory import add_dataset, scores_frame, weights_frame
from real_configs import config_on
from tiny_store import SMALL, copy_store

from builders.grace_kto.calibrate import calibrate_frame
from builders.grace_kto.columns import RANKED
from builders.grace_kto.settings import GraceKTOSettings, RankCoefficients
from builders.inspect.diff import diff
from builders.inspect.status import status
from builders.inspect.verify import verify
from builders.settings.base import identity
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from training.grace_kto.pipeline import GRACE_KTO
from training.pipelines import PIPELINES, build, load_config, plan

SERVED = "{kind: openai, serve: '{python} -m training.writingbench.teacher --port {port}'}"
RATED = (
    "score.rubric=true",
    "models.criteria=teacher",
    "models.judge=judge",
    f"engines.criteria={SERVED}",
    f"engines.judge={SERVED}",
    "rate.prompt=rate.tiny",
    "workers=1",
)
ONLY_RUBRIC = RankCoefficients(**dict.fromkeys(RANKED, 0.0), rubric=1.0)


def group(rubric: Sequence[float | None]) -> pl.DataFrame:
    """One group whose other metrics are all equal."""
    metrics = {name: [1.0] * len(rubric) for name in RANKED}
    return pl.DataFrame({"query_id": ["q"] * len(rubric), **metrics, "rubric": pl.Series(rubric, dtype=pl.Float64)})


def test_by_hand() -> None:
    found = calibrate_frame(group([6.0, None, 9.0, 6.0]), ONLY_RUBRIC)
    # 9 is first, both 6 share 2 and 3; the mean of 1, 2.5 and 2.5 is 2.
    assert found["rank_rubric"].to_list() == [2.5, 2.0, 1.0, 2.5]
    assert found["rank_sum"].to_list() == [2.5, 2.0, 1.0, 2.5]
    # Mean 2, population deviation √(1.5 / 4): rewards −0.8165, 0, 1.6330, −0.8165; weights 0 and 2 of the two positive.
    assert found["reward"].to_list() == pytest.approx([-0.81650, 0.0, 1.63299, -0.81650], abs=1e-5)
    assert found["weight"].to_list() == pytest.approx([-1.0, 0.0, 2.0, -1.0], abs=1e-12)
    assert found["label"].to_list() == [False, True, True, False]


def test_a_coefficient_of_0_ranks_and_changes_nothing() -> None:
    scores = scores_frame()
    rated = scores.with_columns(rubric=pl.Series([7.0, None, 2.5, None, 9.0, 1.0, 3.0, 4.0]))
    plain, with_rubric = calibrate_frame(scores), calibrate_frame(rated)
    assert with_rubric.drop("rubric", "rank_rubric").equals(plain)
    # Row 3 is unmatched; row 1 has no rating and the mean of ranks 1 and 2.
    assert with_rubric["rank_rubric"].to_list() == [1.0, 1.5, 2.0, None, 1.0, 4.0, 3.0, 2.0]
    assert calibrate_frame(rated, RankCoefficients(rubric=3.0))["weight"].to_list() != plain["weight"].to_list()


def test_a_group_without_ratings_is_as_if_they_did_not_count() -> None:
    scores = scores_frame()
    nothing = scores.with_columns(rubric=pl.lit(None, pl.Float64))
    found, plain = calibrate_frame(nothing, RankCoefficients(rubric=5.0)), calibrate_frame(scores)
    for name in ("reward", "weight"):
        assert found[name].to_list() == pytest.approx(plain[name].to_list(), abs=1e-9, nan_ok=True)


def test_a_coefficient_needs_ratings(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"coefficients.rubric is 2, and the frame of scores has no column rubric; score"
    ):
        calibrate_frame(scores_frame(), RankCoefficients(rubric=2.0))
    with pytest.raises(UserError, match=r"the frame of scores: rubric is String, not a number"):
        calibrate_frame(group([1.0]).cast({"rubric": pl.String}))
    with pytest.raises(UserError, match=r"rubric is nan in row 0"):
        calibrate_frame(group([float("nan")]))
    given = add_dataset(Store(tmp_path / "store"), "score", scores_frame())
    config = config_on(tmp_path, "calibrate.coefficients.rubric=2", policy=tmp_path / "policy")
    with pytest.raises(UserError, match=r"coefficients.rubric is 2, and local/demo-scores@.* has no column rubric"):
        build(config, "calibrate", start=str(given))


@pytest.fixture
def rated_weights(tmp_path: Path) -> Revision:
    coefficients = RankCoefficients(rubric=2.0)
    frame = weights_frame(scores_frame(rubric=[7.0, None, 2.5, None, 9.0, 1.0, 3.0, 4.0]), coefficients)
    settings = {"calibrate": {"coefficients": identity(coefficients), "binary": False}}
    store = Store(tmp_path / "store")
    return add_dataset(store, "calibrate", frame, shards=(4, 4), configuration=settings)


def test_verify_recomputes_the_rank_of_the_ratings(rated_weights: Revision) -> None:
    assert verify(rated_weights, PIPELINES) == []
    path = rated_weights.data_files()[1]
    frame = pl.read_parquet(path)
    frame.with_columns(rank_rubric=pl.col("rank_rubric").replace(1.0, 4.0)).write_parquet(path)
    found = [finding for finding in verify(rated_weights, PIPELINES) if finding.what == "rank_rubric"]
    assert [(finding.where, finding.stored, finding.found) for finding in found] == [("query1-0", "4.0", "1.0")]


def test_verify_finds_files_that_lack_a_column_that_others_have(rated_weights: Revision) -> None:
    path = rated_weights.data_files()[1]
    pl.read_parquet(path).drop("rank_rubric").write_parquet(path)
    found = [finding for finding in verify(rated_weights, PIPELINES) if finding.what == "column rank_rubric"]
    assert [finding.found for finding in found] == ["missing"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[GraceKTOSettings, dict[str, Revision]]:
    """A round of the tiny preset with ratings, up to its weights."""
    store = copy_store(tmp_path_factory.mktemp("rated") / "store")
    config = load_config("tiny", [*SMALL, *RATED, "calibrate.coefficients.rubric=2.0"], str(store))
    return config, {result.stage: result.revision for result in build(config, "calibrate")}


def test_documents_are_rated_by_criteria_of_their_queries(
    built: tuple[GraceKTOSettings, dict[str, Revision]],
) -> None:
    config, made = built
    assert all(verify(made[stage], PIPELINES) == [] for stage in ("criteria", "rate", "score", "calibrate"))
    scores, ratings = made["score"].scan().collect(), made["rate"].scan().collect()
    means = dict(ratings.group_by("response_id").agg(pl.col("score").mean()).iter_rows())
    assert set(means) == set(scores.filter("matched")["response_id"])
    assert scores["rubric"].to_list() == [means.get(id_) for id_ in scores["response_id"]]
    weights = made["calibrate"].scan().collect()
    mine = calibrate_frame(scores, config.calibrate.coefficients)
    assert weights.select(mine.columns).drop("weight").equals(mine.drop("weight"))
    # Totals of several files are added up in another order.
    assert weights["weight"].to_list() == pytest.approx(mine["weight"].to_list(), rel=1e-12)
    # The judge of the generated world sees the document, not the tags around it.
    criteria = made["criteria"].scan().collect()
    assert criteria["language"].unique().to_list() == ["en"] and set(criteria["criteria"].list.len()) == {5}
    manifest = made["score"].manifest
    assert manifest is not None and {p.stage for p in manifest.parents} >= {"sample", "rate"}
    # A second run keeps everything.
    assert not any(result.built for result in build(config, "calibrate"))


def test_without_ratings_nothing_of_it_is_built_or_changed(
    built: tuple[GraceKTOSettings, dict[str, Revision]],
) -> None:
    config, made = built
    plain = load_config("tiny", [*SMALL, "workers=1"], config.store)
    assert not {"criteria", "rate"} & {row.stage for row in status(GRACE_KTO, plain)}
    assert {"criteria", "rate"} <= {row.stage for row in status(GRACE_KTO, config)}
    actions = {found.stage: found.action for found in plan(plain, "calibrate")}
    assert actions["sample"] == "keep" and actions["score"] == "build" and "rate" not in actions
    without = build(plain, "score")[-1].revision
    assert without.schema().names() == [name for name in made["score"].schema().names() if name != "rubric"]
    assert diff(without, made["score"], GRACE_KTO.summaries())["only"] == {"a": [], "b": ["rubric"]}


def test_a_dataset_of_groups_from_elsewhere_can_be_rated(
    built: tuple[GraceKTOSettings, dict[str, Revision]], tmp_path: Path
) -> None:
    config, made = built
    (tmp_path / "data").mkdir()
    made["sample"].scan().head(8).collect().write_parquet(tmp_path / "data" / "groups.parquet")
    foreign = config.model_copy(update={"name": "foreign"})
    results = {result.stage: result.revision for result in build(foreign, "score", start=str(tmp_path / "data"))}
    assert "generate" not in results and results["criteria"].scan().collect().height == 2
    assert results["score"].scan().collect()["rubric"].drop_nulls().len() > 0


def answering(config: GraceKTOSettings, server: ChatServer, name: str) -> GraceKTOSettings:
    """The configuration with a judge of a test's own."""
    own = (f"name={name}", "rate.attempts=1", "models.judge=writer")
    engine = f"engines.judge={{kind: openai, base_url: '{server.url}'}}"
    made: GraceKTOSettings = load_config(
        "tiny", [*SMALL, *RATED, "calibrate.coefficients.rubric=2.0", *own, engine], config.store
    )
    return made


def test_a_judge_of_whom_nothing_can_be_read_stops_the_run(
    built: tuple[GraceKTOSettings, dict[str, Revision]],
) -> None:
    config, made = built
    with running(ChatServer(lambda body: (200, choices("I would rather not.")))) as server:
        mute = answering(config, server, "mute")
        with pytest.raises(UserError, match=r"mute-ratings@.*: none of \d+ ratings has a score, so that score.rubric"):
            build(mute, "calibrate", start=str(made["sample"]))


def test_what_cannot_be_read_counts_neither_for_nor_against(
    built: tuple[GraceKTOSettings, dict[str, Revision]], caplog: pytest.LogCaptureFixture
) -> None:
    config, made = built
    matched = made["sample"].scan().filter("matched").collect()
    first, query = matched["query_id"][0], matched["query"][0]

    def of_one_query(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        asked = body["messages"][-1]["content"]
        return 200, choices(json.dumps({"score": 1 + len(asked) % 10}) if query in asked else "I would rather not.")

    with running(ChatServer(of_one_query)) as server:
        results = build(answering(config, server, "shy"), "calibrate", start=str(made["sample"]))
    assert "ratings could not be read; they count neither for nor against a document" in caplog.text
    found = results[-1].revision.scan().collect()
    mine = found["query_id"] == first
    assert found.filter(~mine)["rubric"].null_count() == (~mine).sum()
    assert found.filter(mine & found["matched"])["rubric"].null_count() == 0
    # As if there were no ratings: the same rank for all of a group changes no reward.
    coefficients = config.calibrate.coefficients.model_copy(update={"rubric": 0.0})
    plain = calibrate_frame(found.select("query_id", "matched", *RANKED), coefficients)
    expected = plain.filter(~mine)["reward"].to_list()
    assert found.filter(~mine)["reward"].to_list() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("query", None, r"query is null in response_id .*-0; a value is needed"),
        ("query", " ", r"query is empty in response_id .*-0"),
        ("matched", None, r"matched is null in response_id .*-0"),
        ("response_id", "x", r"response_id x stands there twice; every response needs an id of its own"),
        ("query_id", "x", r"query_id x stands for several queries; every query needs an id of its own"),
    ],
)
def test_groups_that_cannot_be_rated_cost_nothing(
    built: tuple[GraceKTOSettings, dict[str, Revision]], tmp_path: Path, column: str, value: str | None, message: str
) -> None:
    config, made = built
    rows = made["sample"].scan().collect()
    dtype = pl.Boolean if column == "matched" else pl.String
    (tmp_path / "data").mkdir()
    rows.with_columns(pl.lit(value, dtype).alias(column)).write_parquet(tmp_path / "data" / "groups.parquet")
    with pytest.raises(UserError, match=message):
        build(config.model_copy(update={"name": "bad"}), "rate", start=str(tmp_path / "data"))


def test_groups_of_which_nothing_matched(built: tuple[GraceKTOSettings, dict[str, Revision]], tmp_path: Path) -> None:
    config, made = built
    (tmp_path / "data").mkdir()
    rows = made["sample"].scan().collect().with_columns(matched=pl.lit(False))
    rows.write_parquet(tmp_path / "data" / "groups.parquet")
    with pytest.raises(UserError, match=r"no response is matched, so there is nothing to rate; look at the policy's"):
        build(config.model_copy(update={"name": "bad"}), "rate", start=str(tmp_path / "data"))


def test_the_way_back_is_named(built: tuple[GraceKTOSettings, dict[str, Revision]]) -> None:
    config, made = built
    off = config.model_copy(update={"score": config.score.model_copy(update={"rubric": False}), "name": "back"})
    store = Store(Path(config.store))
    rated = build(config.model_copy(update={"name": "back"}), "score", start=str(made["sample"]))[-1].revision
    assert store.find(rated.repo, "main") is not None
    [score] = [found for found in plan(off, "score", start=str(made["sample"])) if found.stage == "score"]
    assert (score.action, score.reason) == ("build", "configuration changed: score.rubric")


@pytest.mark.parametrize("role", ["criteria", "judge"])
def test_who_writes_criteria_and_who_rates_has_to_be_said(role: str, tmp_path: Path) -> None:
    config = load_config("tiny", [*RATED, f"models.{role}=null"], str(tmp_path))
    with pytest.raises(UserError, match=rf"score.rubric needs models.{role}, the model that .*; set it, or score.rub"):
        build(config, "score")
    with pytest.raises(UserError, match=r"needs models.criteria, the .* and models.judge, the .*; set both, or score"):
        build(load_config("tiny", ["score.rubric=true"], str(tmp_path)), "score")
    # Told before anything is built, where the scores are to be built too.
    with pytest.raises(UserError, match=r"rubric is 1, and score.rubric is false: there would be no ratings to count"):
        build(load_config("tiny", ["calibrate.coefficients.rubric=1"], str(tmp_path)), "calibrate")
