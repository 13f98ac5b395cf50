"""Scoring with real scorers on random models: every metric equals its scorer, and unmatched rows stay null."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_factory import add_dataset
from families import make_family
from real_configs import config_on
from tiny_models import CORPUS, make_causal_lm
from tolerances import SIMILARITY, perplexity

from builders.grace_kto import loading
from builders.grace_kto import score as module
from builders.grace_kto.columns import GROUPS_COLUMNS, METRICS, RUBRIC, SCORES_COLUMNS
from builders.grace_kto.score import relevance_columns
from builders.grace_kto.settings import GraceKTOSettings, RelevanceWeights, ScoreSettings
from builders.store.columns import check_frame, frame_of
from builders.store.revision import Revision
from builders.store.store import Store
from scorers.errors import UserError
from scorers.relevance import DOCUMENT_WEIGHTS, SUMMARY_WEIGHTS
from training.pipelines import build

ALWAYS = [metric for metric in METRICS if metric != RUBRIC]
TEXTS: list[tuple[str, str] | None] = [
    ("Trade on the river.", "The harbour grew. The harbour grew. The harbour grew. Trade doubled within a decade."),
    None,
    ("Prices.", "1. Background\nPrices fell, then rose again; 写."),
    ("One token.", "a"),
    None,
    None,
    ("The harbour.", "The harbour grew."),
    ("Trade on the river.", "River trade " * 150),
]
GROUPS = ["p", "p", "p", "p", "q", "q", "r", "r"]  # nothing of q matched


@pytest.fixture(scope="module")
def domain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_causal_lm(tmp_path_factory.mktemp("domain") / "domain-lm", seed=1)


def groups_frame(**changes: Any) -> pl.DataFrame:
    rows = []
    for index, (group, texts) in enumerate(zip(GROUPS, TEXTS, strict=True)):
        summary, document = texts or (None, None)
        rows.append(
            {
                "query_id": group,
                "query": f"Please write about {group} and river trade.",
                "round": 1,
                "response_id": f"{group}-{index}",
                "response": "text",
                "summary": summary,
                "outline": summary,
                "document": document,
                "matched": texts is not None,
                "finish_reason": "stop",
                "num_tokens": 9,
                "logprob": -3.0,
                "sample_seed": index,
                "policy": "m@r",
            }
        )
    return frame_of(rows, GROUPS_COLUMNS).with_columns(**changes)


def config_for(tmp_path: Path, policy: Path, domain: Path, relevance: Path, *overrides: str) -> GraceKTOSettings:
    return config_on(tmp_path, "score.max_length=256", *overrides, policy=policy, domain=domain, relevance=relevance)


def score(config: GraceKTOSettings, frame: pl.DataFrame, shards: list[int] | None = None) -> Revision:
    made = add_dataset(Store(Path(config.store)), "sample", frame, shards=shards)
    return build(config, "score", start=f"{made.repo}@{made.revision}")[-1].revision


def test_metrics_equal_their_scorers(tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path) -> None:
    from transformers import AutoTokenizer

    from scorers.diversity import diversity
    from scorers.perplexity import Perplexity
    from scorers.professionalism import professionalism
    from scorers.relevance import Relevance

    close = partial(pytest.approx, rel=SIMILARITY, abs=SIMILARITY)

    revision = score(config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir), groups_frame(), [4, 2, 2])
    rows = revision.scan().collect()
    check_frame(rows, SCORES_COLUMNS, "scores")
    assert rows.select(c.name for c in GROUPS_COLUMNS).equals(groups_frame())
    assert len(revision.data_files()) == 3

    unmatched = rows.filter(~pl.col("matched"))
    assert unmatched.height == 3 and unmatched.select(ALWAYS).null_count().row(0) == (3,) * len(ALWAYS)

    matched = rows.filter("matched")
    documents, summaries = matched["document"].to_list(), matched["summary"].to_list()
    ids = AutoTokenizer.from_pretrained(causal_lm_dir)(documents, add_special_tokens=False)["input_ids"]
    assert matched["length"].to_list() == [len(row) for row in ids]
    assert matched["diversity"].to_list() == diversity(ids, 4)
    general, domain = (Perplexity(folder).score(documents) for folder in (causal_lm_dir, domain_dir))
    one = documents.index("a")
    assert general[one] is None and matched["length"][one] == 1 and matched["diversity"][one] == 100.0
    for column, values in (("ppl_general", general), ("ppl_domain", domain)):
        for got, value, tokens in zip(matched[column], values, matched["length"], strict=True):
            assert got == (None if value is None else pytest.approx(value, rel=perplexity(tokens - 1)))
    assert matched["professionalism"].to_list() == professionalism(matched["ppl_general"], matched["ppl_domain"])
    relevance = Relevance(bge_m3_dir, max_length=256)
    for part, texts in (("summary", summaries), ("document", documents)):
        expected = relevance.score(matched["query"].to_list(), texts)
        for kind in ("dense", "lexical", "multivector"):
            assert matched[f"{kind}_{part}"].to_list() == close(getattr(expected, kind))

    manifest = revision.manifest
    assert manifest is not None
    assert manifest.rows.read == manifest.rows.written == 8
    assert manifest.counts == {"scored": 5, "texts cut for relevance": 1}
    assert manifest.metrics["ppl_domain"].count == 4 and manifest.metrics["ppl_domain"].null == 4
    assert manifest.metrics["length"].count == 5


def test_the_weights_of_the_metrics_are_settings(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path
) -> None:
    from scorers.professionalism import professionalism

    overrides = ("score.general_weight=0.5", "score.domain_weight=-2", "score.ngram=1", "score.context.window=64")
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir, *overrides)
    rows = score(config, groups_frame()).scan().collect()
    expected = professionalism(rows["ppl_general"], rows["ppl_domain"], 0.5, -2.0)
    assert rows["professionalism"].to_list() == expected and rows["professionalism"].null_count() == 4
    repeated = rows.filter(pl.col("document").str.starts_with("River trade"))
    assert repeated["diversity"][0] < 10


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (RelevanceWeights(dense=1.0, lexical=0.3, multivector=1.0), [0.5 + 0.3 * 0.2 + 0.25, -1.0 + 0.3 * 4.0]),
        (RelevanceWeights(dense=0.15, lexical=0.5, multivector=0.35), [0.075 + 0.1 + 0.0875, -0.15 + 2.0]),
    ],
)
def test_relevance_is_a_plain_weighted_sum(weights: RelevanceWeights, expected: list[float]) -> None:
    similarities = pl.DataFrame({"dense": [0.5, -1.0], "lexical": [0.2, 4.0], "multivector": [0.25, 0.0]})
    frame = relevance_columns(similarities, "summary", weights)
    assert frame.columns == ["dense_summary", "lexical_summary", "multivector_summary", "relevance_summary"]
    assert frame["relevance_summary"].to_list() == pytest.approx(expected, rel=1e-15)
    assert frame["dense_summary"].to_list() == [0.5, -1.0]


def test_the_default_weights_are_those_of_the_scorer() -> None:
    settings = ScoreSettings()
    assert tuple(settings.summary_relevance.model_dump().values()) == SUMMARY_WEIGHTS
    assert tuple(settings.document_relevance.model_dump().values()) == DOCUMENT_WEIGHTS


def test_somebody_elses_groups(tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path) -> None:
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir)
    # Rows are told apart by their place: names that repeat neither multiply rows nor mix up their scores.
    same = score(config, groups_frame(response_id=pl.lit("x"))).scan().collect()
    assert same.height == 8 and same["length"].null_count() == 3 and same["length"].n_unique() == 6
    with pytest.raises(UserError, match=r"p-2 is matched but has no summary or no document; set matched to false"):
        score(config, groups_frame(document=pl.when(pl.col("response_id") != "p-2").then("document")))


def test_a_large_file_is_scored_in_pieces(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard's token ids and its queries' vectors are in memory together, so a file of a million rows is no shard."""
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir)
    monkeypatch.setattr(module, "SHARD_BYTES", 2_000)
    pieces = score(config, groups_frame())
    assert [pq.read_metadata(path).num_rows for path in pieces.data_files()] == [4, 4]
    monkeypatch.undo()
    whole = score(config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir, "name=whole"), groups_frame())
    assert len(whole.data_files()) == 1
    found, expected = (revision.scan().collect() for revision in (pieces, whole))
    assert found.select(c.name for c in GROUPS_COLUMNS).equals(groups_frame())
    assert found.select("length", "diversity").equals(expected.select("length", "diversity"))
    # Texts are batched otherwise, so float32 sums have another order.
    for name in ("dense_summary", "multivector_document"):
        values = expected[name].drop_nulls().to_list()
        assert found[name].drop_nulls().to_list() == pytest.approx(values, rel=SIMILARITY, abs=SIMILARITY)
    for got, value, tokens in zip(found["ppl_domain"], expected["ppl_domain"], expected["length"], strict=True):
        assert got == (None if value is None else pytest.approx(value, rel=perplexity(tokens - 1)))


def test_other_weights_make_no_model_read_again(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the models said of a shard's texts is kept; a model, a window or a text that is new is read."""
    config = partial(config_for, tmp_path, causal_lm_dir)
    first = score(config(domain_dir, bge_m3_dir), groups_frame(), [4, 4])
    assert len(list(tmp_path.rglob(".scores/*/*.json"))) == 6  # of two shards under three models
    loads: list[str] = []

    def noted(load: Any, model: Any, settings: Any) -> Any:
        loads.append(model.path.name)
        return load(model, settings)

    for name in ("load_perplexity", "load_relevance"):
        monkeypatch.setattr(loading, name, partial(noted, getattr(loading, name)))
    other = score(config(domain_dir, bge_m3_dir, "score.ngram=1", "score.domain_weight=3.0"), groups_frame(), [4, 4])
    assert loads == []
    found, expected = (revision.scan().collect() for revision in (other, first))
    same = ("ppl_general", "ppl_domain", "dense_summary", "relevance_document")
    assert found.select(same).equals(expected.select(same))
    assert not found.select("diversity", "professionalism").equals(expected.select("diversity", "professionalism"))
    assert other.manifest is not None and first.manifest is not None
    assert other.manifest.counts == first.manifest.counts  # texts that were cut, too
    score(config(domain_dir, bge_m3_dir, "score.context.window=64"), groups_frame(), [4, 4])
    assert sorted(loads) == sorted([causal_lm_dir.name, domain_dir.name])
    loads.clear()
    score(config(causal_lm_dir, bge_m3_dir), groups_frame(), [4, 4])
    assert loads == []  # the domain model is the general one now, which has read all this
    score(config(domain_dir, bge_m3_dir), groups_frame(query=pl.lit("Another query.")), [4, 4])
    assert loads == [bge_m3_dir.name]


def test_models_of_one_tokenizer_family_share_the_tokens_of_a_document(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain model's folder has a copy of the general model's tokenizer; a third model has another one."""
    from scorers import perplexity as scorer

    asked: list[str] = []

    class Noting:
        """A tokenizer that notes the models for which it is asked for many texts."""

        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tokenizer, name)

        def __call__(self, texts: Any, **options: Any) -> Any:
            if isinstance(texts, list):
                asked.append(Path(self.tokenizer.name_or_path).name)
            return self.tokenizer(texts, **options)

    def load(*args: Any) -> tuple[Any, Any, int]:
        tokenizer, model, window = real(*args)
        return Noting(tokenizer), model, window

    real = scorer._load
    monkeypatch.setattr(scorer, "_load", load)
    shared = score(config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir), groups_frame()).scan().collect()
    assert asked == [causal_lm_dir.name]
    asked.clear()
    shutil.rmtree(tmp_path / "store" / ".scores")  # what the models said is kept
    other = make_causal_lm(tmp_path / "other-lm", seed=1, corpus=("Trade.",))
    alone = score(config_for(tmp_path, causal_lm_dir, other, bge_m3_dir), groups_frame())
    assert asked == [causal_lm_dir.name, other.name]
    assert alone.scan().collect()["ppl_general"].equals(shared["ppl_general"])


@pytest.mark.slow
def test_perplexity_by_vllm(tmp_path: Path, bge_m3_dir: Path) -> None:
    """The same numbers to rounding, as other data; what is kept of one engine's reading is not the other's."""
    general, domain = (make_family(tmp_path / name, name, [*CORPUS] * 4) for name in ("llama", "qwen3"))
    config = partial(config_for, tmp_path, general, domain, bge_m3_dir)
    plain = score(config(), groups_frame(), [4, 4])
    kept = len(list(tmp_path.rglob(".scores/*/*.json")))
    revision = score(config("score.engine=vllm"), groups_frame(), [4, 4])
    assert len(list(tmp_path.rglob(".scores/*/*.json"))) == kept + 4  # of two shards under two models
    assert revision.manifest is not None and plain.manifest is not None
    assert revision.manifest.fingerprint != plain.manifest.fingerprint
    assert "composition of vLLM's batches" in revision.manifest.bytes_depend_on
    found, expected = (one.scan().collect() for one in (revision, plain))
    for name in ("ppl_general", "ppl_domain"):
        assert found[name].drop_nulls().len() == 4
        for got, value, tokens in zip(found[name], expected[name], expected["length"], strict=True):
            assert got == (None if value is None else pytest.approx(value, rel=perplexity(tokens - 1)))


def test_kept_scores_that_are_damaged_or_deleted_are_computed_again(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path
) -> None:
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir)
    first = score(config, groups_frame())
    kept = sorted(tmp_path.rglob(".scores/*/*.json"))
    before = [path.read_bytes() for path in kept]
    kept[0].write_bytes(before[0][:20])
    kept[1].unlink()
    again = build(config, "score", start=f"{first.manifest.parents[0].repo}", force=True)  # type: ignore[union-attr]
    assert again[-1].built and again[-1].revision.digest == first.digest
    assert [path.read_bytes() for path in kept] == before


def test_columns_of_nothing_but_nulls(tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path) -> None:
    """As pyarrow writes them, of an engine that knows no log-probability and a form without outlines."""
    path = tmp_path / "groups.parquet"
    pq.write_table(pa.Table.from_pylist(groups_frame(outline=None, logprob=None).to_dicts()), path)
    assert pl.read_parquet_schema(path)["logprob"] == pl.Null
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir)
    rows = build(config, "score", start=str(path))[-1].revision.scan().collect()
    check_frame(rows, SCORES_COLUMNS, "scores")
    assert rows["logprob"].null_count() == rows["outline"].null_count() == 8 and rows["length"].null_count() == 3


def test_a_dataset_of_which_nothing_matched(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path
) -> None:
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir)
    frame = groups_frame(
        matched=pl.lit(False), **dict.fromkeys(("summary", "outline", "document"), pl.lit(None, pl.String))
    )
    revision = score(config, frame)
    assert revision.scan().select(ALWAYS).collect().null_count().row(0) == (8,) * len(ALWAYS)
    assert revision.manifest is not None and revision.manifest.metrics == {}
    with pytest.raises(UserError, match="no response is scored, so there is nothing to rank"):
        build(config, "calibrate", start=str(revision.path))


def test_a_score_that_is_not_finite_names_the_response(
    tmp_path: Path, causal_lm_dir: Path, domain_dir: Path, bge_m3_dir: Path
) -> None:
    config = config_for(tmp_path, causal_lm_dir, domain_dir, bge_m3_dir, "score.general_weight=1.0e308")
    with pytest.raises(
        UserError, match=r"stage score, shard 0: professionalism is inf in response_id p-0; metrics must"
    ):
        score(config, groups_frame())
    assert Store(Path(config.store)).refs("local/tiny-scores") == {}


def test_a_relevance_folder_without_its_heads(tmp_path: Path, causal_lm_dir: Path) -> None:
    config = config_for(tmp_path, causal_lm_dir, causal_lm_dir, causal_lm_dir)
    with pytest.raises(UserError, match=r"lacks colbert_linear.pt and sparse_linear.pt"):
        score(config, groups_frame())
