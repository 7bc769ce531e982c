"""Blocks and sentences; and texts that are long, odd or hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from example_project.documents import model
from example_project.documents.model.markup import Kind, blocks
from example_project.documents.model.sentences import split_sentences

SAMPLES = Path(__file__).resolve().parents[1] / "sample_documents"


class TestBlocks:
    def test_the_kinds_of_block(self) -> None:
        text = "Title\n=====\n\nA line\nwrapped.\n\n- one\n  more\n- two\n\nKey: value\n\n| a | b |"
        assert [(block.kind, block.text) for block in blocks(text)] == [
            (Kind.HEADING, "Title"),
            (Kind.PROSE, "A line wrapped."),
            (Kind.ITEM, "one more"),
            (Kind.ITEM, "two"),
            (Kind.FIELD, "Key: value"),
            (Kind.CELL, "a"),
            (Kind.CELL, "b"),
        ]

    def test_restructured_text(self) -> None:
        text = (
            "Tides\n=====\n\n.. image:: badge.svg\n   :alt: build\n\n"
            "See :func:`~tides.predict` and `the tables <https://tides.example>`_ first::\n\n"
            "    predict()\n\nThe end.\n"
        )
        assert [block.text for block in blocks(text)] == [
            "Tides",
            "See tides.predict and the tables first:",
            "The end.",
        ]


class TestSentences:
    @pytest.mark.parametrize(
        "sentences",
        [
            ["Dr. Smith met Mrs. O'Brien at 5 p.m. on Jan. 5, 2026.", "They talked."],
            ["He works at Acme Inc.", "The firm is old.", "Acme Inc. and Beta Ltd. merged."],
            ["See Fig. 3 in No. 5.", "Is it?", "Yes!", "“Well.”", "I said no.", "Then we left."],
            ["Version 3.11.2 is out, e.g. here.", "J. R. R. Tolkien wrote it."],
            ["Ends.", "2026 was good.", "Ärger kam.", "Élan too…"],
            ["これは文です。", "次の文です。"],
        ],
    )
    def test_a_full_stop_ends_a_sentence_or_does_not(self, sentences: list[str]) -> None:
        joiner = "" if sentences[0].endswith("。") else " "
        assert split_sentences(joiner.join(sentences)) == sentences


def read(text: str) -> None:
    model.summarize(text)
    model.classify(text, model.known_categories())
    model.extract(text, model.known_fields())


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from("aA1 .,:|*_`[](){}<>!#-=~+&@/\\\"'\n\t€$%文é\u00a0"), max_size=200
    )
)
def test_any_text_can_be_read(text: str) -> None:
    read(text)


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(None, id="the samples"),
        *(
            "a",
            "A ",
            "文",
            ".",
            '."',
            "\n",
            "[",
            "![",
            "`a",
            "*a ",
            "<a ",
            "|",
            "1",
            "1 ",
            "1.",
            "a@",
        ),
        *(
            "<!--",
            "- ",
            "x   y ",
            "Foo Ltd ",
            "Maria Keller ",
            "12 March ",
            "Key: value\n",
            "a::\n ",
        ),
        *("copyright 2001-", "Acme Ltd and Maria Keller then ", "between "),
    ],
)
def test_a_long_text_of_one_kind_can_be_read(unit: str | None) -> None:
    unit = unit or "\n\n".join(path.read_text(encoding="utf-8") for path in SAMPLES.iterdir())
    read(unit * (50_000 // len(unit) + 1))


def test_a_megabyte_of_prose() -> None:
    line = "Shipment {0} of lot {1} left for port {2} with crates of kind {3} on board.\n\n"
    text = "".join(line.format(n, n * 7 % 1009, n * 11 % 613, n * 13 % 4099) for n in range(14_000))
    assert len(text) > 1_000_000
    assert len(split_sentences(model.summarize(text))) == 3
