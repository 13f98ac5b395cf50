"""Reference documents: which have the tagged form, how plain ones are wrapped, and when they are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.errors import UserError
from scorers.extraction import TAGS, Extraction, extract
from training.grace_kto.documents import first_sentence, outline_of, prepare, wrap

TAGGED = "<summary>S.</summary><outline>O</outline><answer>A.</answer>"
PLAIN = "The harbour grew. Ships came."
BROKEN = "<summary>S.</summary><answer>A.</answer>"
FORM = "the form <summary>…</summary><outline>…</outline><answer>…</answer> that the policy is to learn"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [PLAIN, PLAIN],
            f"sft: 0 of 2 reference documents have {FORM}, 2 have none of the tags; set models.teacher to let "
            "that model write summary and outline, set sft.untagged=wrap to build them from each document itself, or "
            "tag them",
        ),
        (
            [TAGGED, PLAIN, BROKEN],
            f"sft: 1 of 3 reference documents have {FORM}, 1 have none of the tags and 1 have some of them, broken; "
            "set models.teacher to let that model write summary and outline, set sft.untagged=wrap to build them from "
            "each document itself, set sft.untagged=drop to train on the 1 alone, or tag them",
        ),
        ([BROKEN], f"sft: 0 of 1 reference documents have {FORM}, 1 have some of them, broken; tag them"),
    ],
)
def test_documents_that_cannot_teach_the_form_are_refused(documents: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare(documents, "refuse")
    assert str(error.value) == message


def test_a_few_broken_tags_are_trained_on_and_counted() -> None:
    texts, counts = prepare([TAGGED, BROKEN], "refuse")
    assert texts == [TAGGED, BROKEN]
    assert counts == {"documents with the form": 1, "documents with broken tags": 1}
    assert prepare([TAGGED], "refuse") == ([TAGGED], {"documents with the form": 1})


def test_plain_documents_are_wrapped_and_the_others_stay() -> None:
    texts, counts = prepare([PLAIN, TAGGED, BROKEN], "wrap")
    assert texts == [wrap(PLAIN), TAGGED, BROKEN]
    assert counts == {"documents with the form": 1, "documents wrapped": 1, "documents with broken tags": 1}
    with pytest.raises(UserError, match="0 of 1 reference documents have the form"):
        prepare([BROKEN], "wrap")


def test_what_does_not_have_the_form_is_left_out() -> None:
    assert prepare([PLAIN, TAGGED, BROKEN], "drop") == (
        [None, TAGGED, None],
        {"documents with the form": 1, "documents left out": 2},
    )
    with pytest.raises(UserError, match=r"1 have none of the tags; set models\.teacher .*, or tag them$"):
        prepare([PLAIN], "drop")


@pytest.mark.parametrize(
    ("document", "summary", "outline"),
    [
        ("One sentence.", "One sentence.", "One sentence."),
        ("只有一句话。", "只有一句话。", "只有一句话。"),
        ("no end of a sentence", "no end of a sentence", "no end of a sentence"),
        (  # Markdown; the title is a heading too
            "# River trade\n## Background ##\nThe harbour grew. Ships came.\n\n**Results:**\nTrade doubled.",
            "The harbour grew.",
            "River trade\nBackground\nResults:",
        ),
        (  # numbered headings, as the generated world writes them
            "1. Background\nThe harbour grew.\n2. Results\nTrade doubled.",
            "The harbour grew.",
            "1. Background\n2. Results",
        ),
        (
            "港口报告\n\n一、背景\n港口扩\n大了。贸易增长。\n\n第二章 结果\n价格下降。",
            "港口扩大了。",
            "港口报告\n一、背景\n第二章 结果",
        ),
        ("第一段第一句。第二句。\n第二段开始\uff01又一句。", "第一段第一句。", "第一段第一句。\n第二段开始\uff01"),
        (  # one heading is no outline; lines that belong together are joined
            "A title\n\nThe first\nparagraph. More.\n\nThe second one. More.",
            "The first paragraph.",
            "The first paragraph.\nThe second one.",
        ),
        (  # a numbered list is not a list of headings
            "We need three things:\n\n1. apples\n2. pears\n3. plums\n\nThat is all. Thanks.",
            "We need three things:",
            "We need three things:\n1. apples 2. pears 3. plums\nThat is all.",
        ),
    ],
)
def test_summary_and_outline_are_the_documents_own_words(document: str, summary: str, outline: str) -> None:
    assert extract(wrap(f"\n{document} ")) == Extraction(summary, outline, document)


@pytest.mark.parametrize(
    ("paragraph", "sentence"),
    [
        ("Dr. J. Lin left the U.S. in May. Then, e.g. in June, she came back.", "Dr. J. Lin left the U.S. in May."),
        ("It grew by 3.5 m (see no. 12). Then it fell.", "It grew by 3.5 m (see no. 12)."),
        ('"It grew." He left.', '"It grew."'),
        ("他说:“港口扩大了。”然后离开。", "他说:“港口扩大了。”"),
        ("Why? Because.", "Why?"),
        ("In 1995. Then.", "In 1995."),
    ],
)
def test_the_end_of_a_sentence(paragraph: str, sentence: str) -> None:
    assert first_sentence(paragraph) == sentence


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n\n#*-.。!1一、 Aa<>")))
def test_every_plain_document_takes_the_form(document: str) -> None:
    if not document.strip() or any(tag in document for tag in TAGS):
        return
    parts = extract(wrap(document))
    assert parts is not None and parts.document == document.strip()
    words = "".join(document.split())
    for line in (parts.summary, *parts.outline.splitlines()):
        assert "".join(line.split()) in words


def test_headings_and_paragraphs() -> None:
    assert outline_of("# A\ntext one\ntext two\n\n- item") == (["A"], ["text one text two", "- item"])
    assert outline_of("A\nB") == (["A"], ["B"])
