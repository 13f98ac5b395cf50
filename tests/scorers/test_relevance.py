"""Relevance against FlagEmbedding's own encode and scores."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import SIMILARITY

from scorers.errors import UserError
from scorers.relevance import DOCUMENT_WEIGHTS, SUMMARY_WEIGHTS, Relevance, RelevanceScores, combine

QUERIES = [
    'Please write a report titled "River Trade", covering the following sections: 1. Background 2. Results.',
    "国有企业改革报告",
    "prices",
]
TEXTS = [
    "1. Background\nThe harbour grew.\n2. Results\nTrade doubled within a decade, prices fell.",
    "prices",
    "",
    "Zebra </s> <pad> <unk> crossing 42",
    "The harbour grew. Trade doubled. " * 40,  # beyond 256 tokens
    "国有企业改革" * 30,
]
PAIRS = [(query, text) for query in QUERIES for text in TEXTS]


@pytest.fixture(scope="module")
def scorer(bge_m3_dir: Path) -> Relevance:
    return Relevance(bge_m3_dir, batch_size=4)


@pytest.fixture(scope="module")
def embedder(bge_m3_dir: Path) -> Any:
    from FlagEmbedding import BGEM3FlagModel

    return BGEM3FlagModel(str(bge_m3_dir), use_fp16=False, devices="cpu")


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "bge"))


def test_equals_flagembedding_encode(scorer: Relevance, embedder: Any) -> None:
    got = scorer.score(*zip(*PAIRS, strict=True))
    for i, pair in enumerate(PAIRS):
        reps = [
            embedder.encode([text], max_length=256, return_dense=True, return_sparse=True, return_colbert_vecs=True)
            for text in pair
        ]
        lexical = embedder.compute_lexical_matching_score(*(rep["lexical_weights"][0] for rep in reps))
        multivector = embedder.colbert_score(*(rep["colbert_vecs"][0] for rep in reps))
        assert got.dense[i] == pytest.approx(float(reps[0]["dense_vecs"][0] @ reps[1]["dense_vecs"][0]), abs=SIMILARITY)
        assert got.lexical[i] == pytest.approx(float(lexical), rel=SIMILARITY, abs=SIMILARITY)
        assert got.multivector[i] == pytest.approx(float(multivector), abs=SIMILARITY)


def test_equals_flagembedding_compute_score(scorer: Relevance, embedder: Any) -> None:
    got = scorer.score(*zip(*PAIRS, strict=True))
    weights = [0.15, 0.5, 0.35]
    combined = got.combined((0.15, 0.5, 0.35))
    for i, pair in enumerate(PAIRS):
        own = embedder.compute_score(
            [pair], max_query_length=256, max_passage_length=256, weights_for_different_modes=weights
        )
        assert got.dense[i] == pytest.approx(own["dense"][0], abs=SIMILARITY)
        assert got.lexical[i] == pytest.approx(own["sparse"][0], rel=SIMILARITY, abs=SIMILARITY)
        assert got.multivector[i] == pytest.approx(own["colbert"][0], abs=SIMILARITY)
        assert combined[i] == pytest.approx(own["colbert+sparse+dense"][0], rel=SIMILARITY, abs=SIMILARITY)


def test_the_scores_tell_pairs_apart(scorer: Relevance) -> None:
    for part in scorer.score(*zip(*PAIRS, strict=True)):
        assert len({round(value, 6) for value in part}) > 4


def test_a_text_against_itself(scorer: Relevance) -> None:
    scores = scorer.score([TEXTS[0]], [TEXTS[0]])
    assert scores.dense == [pytest.approx(1, abs=SIMILARITY)]
    assert scores.multivector == [pytest.approx(1, abs=SIMILARITY)]


def test_special_tokens_are_no_lexical_match(scorer: Relevance) -> None:
    (lexical,) = scorer.score(["</s><s>"], ["<s> <unk> </s>"]).lexical
    assert lexical == 0
    assert isinstance(lexical, float)


@pytest.fixture
def batches(scorer: Relevance, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(texts, padded length) of each forward pass, in order."""
    seen: list[tuple[int, int]] = []
    forward = scorer._forward

    def watched(ids: Sequence[Sequence[int]]) -> Any:
        seen.append((len(ids), max(map(len, ids))))
        return forward(ids)

    monkeypatch.setattr(scorer, "_forward", watched)
    return seen


def test_each_distinct_text_passes_once(scorer: Relevance, batches: list[tuple[int, int]]) -> None:
    scorer.score(["q", "q", "r", "r"], ["a", "b", "a", "q"])
    assert [rows for rows, _ in batches] == [2, 2]  # q r, a b
    scorer.score([], [])
    assert len(batches) == 2


def test_a_long_text_makes_smaller_batches(
    scorer: Relevance, batches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "_tokens", 300)
    scorer.score(["q"] * 4, [TEXTS[4], TEXTS[5], TEXTS[0], TEXTS[1]])
    assert [rows for rows, _ in batches] == [1, 1, 1, 2]
    assert max(rows * length for rows, length in batches) <= 300


@given(st.lists(st.tuples(st.sampled_from(QUERIES), st.sampled_from(TEXTS) | st.text(max_size=30)), max_size=6))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pair_does_not_depend_on_the_others(scorer: Relevance, pairs: list[tuple[str, str]]) -> None:
    together = scorer.score([query for query, _ in pairs], [text for _, text in pairs])
    for i, (query, text) in enumerate(pairs):
        alone = scorer.score([query], [text])
        for part, lone in zip(together, alone, strict=True):
            assert part[i] == pytest.approx(lone[0], rel=SIMILARITY, abs=SIMILARITY)
        assert abs(together.dense[i]) <= 1 + SIMILARITY
        assert abs(together.multivector[i]) <= 1 + SIMILARITY
        assert together.lexical[i] >= 0


def test_counts_the_texts_that_are_cut(bge_m3_dir: Path) -> None:
    scorer = Relevance(bge_m3_dir)
    assert scorer.max_length == 256  # the encoder's 258 positions less XLM-R's offset of 2
    scorer.score(["q"] * 3, [TEXTS[4], TEXTS[4], TEXTS[0]])
    assert scorer.truncated == 1
    scorer.score([TEXTS[4]], [TEXTS[4] + "more"])
    assert scorer.truncated == 3


def test_the_cut_is_at_max_length(bge_m3_dir: Path) -> None:
    scorer = Relevance(bge_m3_dir, max_length=6)
    length = len(scorer._tokenizer(TEXTS[0])["input_ids"])
    exact = Relevance(bge_m3_dir, max_length=length)
    exact.score(["q"], [TEXTS[0]])
    assert exact.truncated == 0
    first_four = scorer._tokenizer.decode(scorer._tokenizer(TEXTS[0])["input_ids"][1:5])
    cut, whole = scorer.score(["Trade"], [TEXTS[0]]), exact.score(["Trade"], [first_four])
    assert scorer.truncated == 1
    for a, b in zip(cut, whole, strict=True):
        assert a == pytest.approx(b, rel=SIMILARITY, abs=SIMILARITY)


def test_an_error_of_the_network_is_raised_not_retried(scorer: Relevance, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*args: object, **options: object) -> None:
        calls.append(args)
        raise RuntimeError("device lost")

    monkeypatch.setattr(scorer._network, "forward", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        scorer.score(["q"], ["t"])
    assert len(calls) == 1


def test_combine_gold() -> None:
    assert combine(0.5, 0.25, -1.0, (1.0, 0.5, 2.0)) == 0.5 + 0.125 - 2.0
    assert combine(0.5, 0.2, 0.7, SUMMARY_WEIGHTS) == pytest.approx(0.5 + 0.06 + 0.7, rel=1e-15)
    assert combine(0.5, 0.2, 0.7, DOCUMENT_WEIGHTS) == pytest.approx(0.075 + 0.1 + 0.245, rel=1e-15)


def test_combined_gold() -> None:
    scores = RelevanceScores([0.5, 1.0], [0.25, 0.0], [0.75, -1.0])
    assert scores.combined((1.0, 0.5, 1.0)) == [1.375, 0.0]
    assert scores.combined() == scores.combined(DOCUMENT_WEIGHTS)
    assert RelevanceScores([], [], []).combined() == []


UNIT = st.integers(-(10**6), 10**6).map(lambda i: i / 10**6)  # no number so small that a product underflows
TRIPLES = st.tuples(UNIT, UNIT, UNIT)


@given(TRIPLES, TRIPLES, st.integers(-60, 60))
def test_combine_is_linear_in_the_weights_and_in_the_similarities(
    similarities: tuple[float, float, float], weights: tuple[float, float, float], exponent: int
) -> None:
    once, factor = combine(*similarities, weights), 2.0**exponent  # a power of two, so that nothing is rounded
    dense, lexical, multivector = (factor * value for value in similarities)
    assert combine(dense, lexical, multivector, weights) == factor * once
    dense, lexical, multivector = (factor * value for value in weights)
    assert combine(*similarities, (dense, lexical, multivector)) == factor * once


@given(st.lists(TRIPLES, min_size=1), TRIPLES)
def test_combine_gives_the_same_bits_in_every_container(
    rows: list[tuple[float, float, float]], weights: tuple[float, float, float]
) -> None:
    """Floats, numpy, torch and polars, as series and as expressions: one equation, one order of addition."""
    import numpy as np
    import polars as pl
    import torch

    dense, lexical, multivector = ([row[i] for row in rows] for i in range(3))
    expected = [combine(*row, weights) for row in rows]
    assert RelevanceScores(dense, lexical, multivector).combined(weights) == expected
    assert combine(np.array(dense), np.array(lexical), np.array(multivector), weights).tolist() == expected
    d, x, m = (torch.tensor(part, dtype=torch.float64) for part in (dense, lexical, multivector))
    assert combine(d, x, m, weights).tolist() == expected
    frame = pl.DataFrame({"d": dense, "x": lexical, "m": multivector})
    assert combine(frame["d"], frame["x"], frame["m"], weights).to_list() == expected
    assert frame.select(combine(pl.col("d"), pl.col("x"), pl.col("m"), weights)).to_series().to_list() == expected


def test_a_null_similarity_gives_a_null_relevance() -> None:
    import polars as pl

    part = pl.Series([0.5, None])
    assert combine(part, part, pl.Series([1.0, 1.0]), (1.0, 1.0, 1.0)).to_list() == [2.0, None]


def test_unequal_numbers(scorer: Relevance) -> None:
    with pytest.raises(ValueError, match="2 queries for 1 texts"):
        scorer.score(["a", "b"], ["c"])


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
def test_missing_head(bge_m3_dir: Path, tmp_path: Path, head: str) -> None:
    folder = copied(bge_m3_dir, tmp_path)
    (folder / head).unlink()
    with pytest.raises(UserError, match=f"lacks {head}; BGE-M3 needs both heads"):
        Relevance(folder)


def test_damaged_head(bge_m3_dir: Path, tmp_path: Path) -> None:
    folder = copied(bge_m3_dir, tmp_path)
    (folder / "sparse_linear.pt").write_bytes(b"not a head")
    with pytest.raises(UserError, match=r"relevance model .* cannot be loaded") as caught:
        Relevance(folder)
    assert "\n" not in str(caught.value)


def test_head_of_another_size(bge_m3_dir: Path, tmp_path: Path) -> None:
    import torch

    folder = copied(bge_m3_dir, tmp_path)
    torch.save(torch.nn.Linear(8, 1).state_dict(), folder / "sparse_linear.pt")
    with pytest.raises(UserError, match=r"relevance model .* cannot be loaded"):
        Relevance(folder)


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"relevance model .*nowhere' is no folder here and no Hub id") as caught:
        Relevance(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_hub_id_that_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'nobody/bge' at revision 'v1' cannot be loaded"):
        Relevance("nobody/bge", revision="v1")


def test_hub_id_at_a_cached_revision(
    bge_m3_dir: Path, scorer: Relevance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--nobody--bge"
    shutil.copytree(bge_m3_dir, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in ("v1", commit):
        from_hub = Relevance("nobody/bge", revision=revision)
        assert from_hub.score(QUERIES, QUERIES[::-1]) == scorer.score(QUERIES, QUERIES[::-1])


def test_half_precision_on_the_cpu(bge_m3_dir: Path) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        Relevance(bge_m3_dir, fp16=True)


def test_max_length_without_room_for_text(bge_m3_dir: Path) -> None:
    with pytest.raises(UserError, match="2 special tokens around a text cut at 2 tokens"):
        Relevance(bge_m3_dir, max_length=2)


def test_nothing_is_printed(
    bge_m3_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        Relevance(bge_m3_dir, batch_size=1).score(*zip(*PAIRS, strict=True))
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
