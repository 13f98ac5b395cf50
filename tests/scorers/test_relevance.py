"""Relevance against FlagEmbedding's own encode and scores."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorers.errors import UserError
from scorers.relevance import Relevance, RelevanceScores, combine

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
        assert got.dense[i] == pytest.approx(float(reps[0]["dense_vecs"][0] @ reps[1]["dense_vecs"][0]), abs=1e-5)
        assert got.lexical[i] == pytest.approx(float(lexical), rel=1e-5, abs=1e-5)
        assert got.multivector[i] == pytest.approx(float(multivector), abs=1e-5)


def test_equals_flagembedding_compute_score(scorer: Relevance, embedder: Any) -> None:
    got = scorer.score(*zip(*PAIRS, strict=True))
    weights = [0.15, 0.5, 0.35]
    combined = combine(got, (0.15, 0.5, 0.35))
    for i, pair in enumerate(PAIRS):
        own = embedder.compute_score(
            [pair], max_query_length=256, max_passage_length=256, weights_for_different_modes=weights
        )
        assert got.dense[i] == pytest.approx(own["dense"][0], abs=1e-5)
        assert got.lexical[i] == pytest.approx(own["sparse"][0], rel=1e-5, abs=1e-5)
        assert got.multivector[i] == pytest.approx(own["colbert"][0], abs=1e-5)
        assert combined[i] == pytest.approx(own["colbert+sparse+dense"][0], rel=1e-5, abs=1e-5)


def test_the_scores_tell_pairs_apart(scorer: Relevance) -> None:
    for part in scorer.score(*zip(*PAIRS, strict=True)):
        assert len({round(value, 6) for value in part}) > 4


def test_a_text_against_itself(scorer: Relevance) -> None:
    scores = scorer.score([TEXTS[0]], [TEXTS[0]])
    assert scores.dense == [pytest.approx(1, abs=1e-5)]
    assert scores.multivector == [pytest.approx(1, abs=1e-5)]


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
    monkeypatch.setattr("scorers.relevance.TOKENS_PER_BATCH", 300)
    scorer.score(["q"] * 4, [TEXTS[4], TEXTS[5], TEXTS[0], TEXTS[1]])
    assert [rows for rows, _ in batches] == [1, 1, 1, 2]
    assert max(rows * length for rows, length in batches) <= 300


@given(st.lists(st.tuples(st.sampled_from(QUERIES), st.sampled_from(TEXTS) | st.text(max_size=30)), max_size=6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pair_does_not_depend_on_the_others(scorer: Relevance, pairs: list[tuple[str, str]]) -> None:
    together = scorer.score([query for query, _ in pairs], [text for _, text in pairs])
    for i, (query, text) in enumerate(pairs):
        alone = scorer.score([query], [text])
        for part, lone in zip(together, alone, strict=True):
            assert part[i] == pytest.approx(lone[0], rel=1e-5, abs=1e-5)
        assert -1.00001 <= together.dense[i] <= 1.00001
        assert -1.00001 <= together.multivector[i] <= 1.00001
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
        assert a == pytest.approx(b, abs=1e-6)


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
    scores = RelevanceScores([0.5, 1.0], [0.2, 0.0], [0.7, -1.0])
    assert combine(scores, (1.0, 0.3, 1.0)) == pytest.approx([1.26, 0.0], abs=1e-15)
    assert combine(scores, (0.15, 0.5, 0.35)) == pytest.approx([0.42, -0.2], abs=1e-15)
    assert combine(RelevanceScores([], [], []), (1.0, 0.3, 1.0)) == []


UNIT = st.floats(-1, 1)


@given(st.lists(st.tuples(UNIT, UNIT, UNIT)), st.tuples(UNIT, UNIT, UNIT), st.floats(0, 4))
def test_combine_is_linear_in_the_weights(
    rows: list[tuple[float, float, float]], weights: tuple[float, float, float], factor: float
) -> None:
    scores = RelevanceScores(*([row[i] for row in rows] for i in range(3)))
    once = combine(scores, weights)
    scaled = combine(scores, (factor * weights[0], factor * weights[1], factor * weights[2]))
    assert scaled == pytest.approx([factor * value for value in once], abs=1e-12)


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
