"""What the model says about the sample documents, and about texts that are no document at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from example_project.documents import model
from example_project.documents.model.markup import Kind, blocks
from example_project.documents.model.sentences import split_sentences

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "example_project" / "sample_documents"
ALL = [
    "changelog",
    "contract",
    "invoice",
    "letter",
    "licence",
    "manual",
    "policy",
    "readme",
    "report",
    "tutorial",
]

README = """\
# tidepool

[![Build](https://ci.example/badge.svg)](https://ci.example/tidepool) ![Licence](licence.svg)

<!-- A note to the maintainers. -->

**tidepool** is a Python library that predicts tides from a list of harmonic constants. It reads the
[tables](https://tides.example/tables) of *four* national services, and needs no network when it runs.

## Installation

```console
$ pip install tidepool
Successfully installed tidepool. This line is no sentence of the document.
```

## Usage

| Option    | Meaning                           |
|-----------|-----------------------------------|
| `--port`  | The port to predict the tides of. |

Pass a port and a date, and tidepool returns the times of high and low water:

    from tidepool import predict   # This comment is no sentence either.
    predict("Brest", "2026-03-12")

- Predictions agree with the official tables to within four minutes at every port tested so far.
- Twenty years of predictions take less than a second on an ordinary laptop.

## Contributing

Bug reports and pull requests are welcome on GitHub. Visual Studio Code users find a configuration
in the repository. tidepool was written by Josephine Marlowe.

[tables]: https://tides.example/tables
"""


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


class TestSampleDocuments:
    @pytest.mark.parametrize(
        ("name", "category"),
        [
            ("contract.txt", "contract"),
            ("invoice.md", "invoice"),
            ("letter.txt", "letter"),
            ("quarterly_report.md", "report"),
        ],
    )
    def test_each_is_of_its_kind(self, name: str, category: str) -> None:
        answer = model.classify(sample(name), ALL)
        assert answer["category"] == category
        assert answer["confidence"] > 0.6
        assert answer["confidence"] == answer["scores"][category]

    def test_the_invoice(self) -> None:
        assert model.summarize(sample("invoice.md"), 2) == (
            "This invoice covers the transport and storage of 48 pallets of laboratory glassware "
            "between Hamburg and Bristol in February 2026, as agreed in the framework agreement of "
            "3 November 2025. The amount of €14,280.00 is payable within 30 days of the invoice "
            "date, without deductions, by bank transfer to the account below."
        )
        assert model.extract(sample("invoice.md"), model.known_fields()) == {
            "amounts": [
                *("€4,850.00", "€9,700.00", "€12.50", "€1,200.00", "€310.00", "€620.00"),
                *("€740.00", "-€260.00", "€12,000.00", "€2,280.00", "€14,280.00", "€40.00"),
            ],
            "companies": [
                "Lindqvist Logistics GmbH",
                "Harbour & Finch Ltd",
                "Elbkontor Bank AG",
                "Nordsee Versicherung AG",
            ],
            "dates": [
                "12 March 2026",
                "11 April 2026",
                "February 2026",
                "3 November 2025",
                "26 March 2026",
            ],
            "names": ["Amara Okafor", "Jonas Lindqvist", "Katharina Vogel"],
            "percentages": ["0.4%", "19%", "2%"],
        }

    def test_the_contract(self) -> None:
        summary = model.summarize(sample("contract.txt"), 2)
        assert summary.startswith("This Agreement is made on 2 February 2026")
        assert "the Supplier shall pay the Customer GBP 2,500" in summary
        assert model.extract(sample("contract.txt"), model.known_fields()) == {
            "amounts": ["GBP 2,500", "GBP 25,000", "GBP 486,000", "GBP 3,750", "GBP 1.5 million"],
            "companies": [
                "Meridian Robotics Inc.",
                "Castellan Foods plc",
                "Northgate Engineering Ltd",
                "Brook & Tarn LLP",
            ],
            "dates": ["2 February 2026", "30 June 2026", "31 January 2031", "4 February 2026"],
            "names": ["Daniel R. Whitcombe", "Priya Raman", "Hannah Oyelaran"],
            "percentages": ["30%", "50%", "20%", "4%"],
        }

    def test_the_report(self) -> None:
        summary = model.summarize(sample("quarterly_report.md"), 2)
        assert summary.startswith("Revenue rose by 14% to SEK 412.6 million in the first quarter")
        assert "Operating profit grew more slowly, by 6% to SEK 58.1 million" in summary
        found = model.extract(sample("quarterly_report.md"), ["names", "companies", "dates"])
        assert found == {
            "names": ["Ingrid Solheim", "Erik Sandell", "Margareta Blom", "Tomas Ekdahl"],
            "companies": [
                "Solveig Energy AB",
                "Baltic Subsea A/S",
                "Helios Bau GmbH",
                "Vättern Paper AB",
            ],
            "dates": [
                *("24 April 2026", "27 February 2026", "2 March 2026", "November 2026"),
                *("18 March 2026", "1 February 2026", "21 May 2026"),
            ],
        }

    def test_the_letter(self) -> None:
        summary = model.summarize(sample("letter.txt"), 2)
        assert summary.startswith("I am writing to thank the Whitlock Foundation for its grant")
        found = model.extract(sample("letter.txt"), ["names", "companies", "amounts"])
        assert found == {
            "names": ["Eleanor Ashdown", "Samuel Adeyemi", "Wei-Lin Chan", "Josephine Marlowe"],
            "companies": [
                "Whitlock Foundation",
                "Calder Roofing Ltd",
                "Pryce & Sons",
                "Vertical Access Ltd",
            ],
            "amounts": ["£18,500", "£9,200", "£800", "£6,150", "£3,150", "£11,000", "£13,000"],
        }


class TestMarkdownAndLicences:
    def test_a_readme_is_summarised_from_its_prose_alone(self) -> None:
        summary = model.summarize(README)
        assert summary.startswith("tidepool is a Python library that predicts tides from a list of")
        everything = model.summarize(README, 100)
        assert "tables of four national services" in everything
        for hidden in ("badge", "https", "`", "*", "|", "no sentence", "maintainers", "Usage"):
            assert hidden not in everything

    def test_a_readme_is_a_readme_and_names_its_author_only(self) -> None:
        assert model.classify(README, ALL)["category"] == "readme"
        assert model.extract(README, ["names"]) == {"names": ["Josephine Marlowe"]}

    def test_the_licence_of_this_project(self) -> None:
        text = (ROOT / "LICENSE").read_text(encoding="utf-8")
        answer = model.classify(text, ALL)
        assert answer["category"] == "licence"
        assert answer["confidence"] > 0.7
        assert model.summarize(text, 1).startswith(
            "Redistribution and use in source and binary forms, with or without modification,"
        )
        assert model.extract(text, ["names", "amounts", "companies"]) == {
            "names": [],
            "amounts": [],
            "companies": [],
        }

    def test_a_copyright_line_names_people_and_companies(self) -> None:
        text = (
            "Copyright (c) 2015-2016 Xiulan Brandt & contributors.\nCopyright (c) 2012 Rook, Inc."
        )
        assert model.extract(text, ["names", "companies"]) == {
            "names": ["Xiulan Brandt"],
            "companies": ["Rook, Inc."],
        }

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


class TestSummaries:
    @pytest.mark.parametrize("text", ["", "   \n\n\t", "---\n", "```\ncode\n```", "![](a.png)"])
    def test_nothing_comes_of_nothing(self, text: str) -> None:
        assert model.summarize(text) == ""

    @pytest.mark.parametrize("text", ["The ship sails at dawn on Friday.", "Hello", "no stop here"])
    def test_a_short_text_is_its_own_summary(self, text: str) -> None:
        assert model.summarize(text) == text

    def test_the_order_is_kept_and_nothing_is_said_twice(self) -> None:
        text = " ".join(
            f"The {n}th ship carries grain and timber to harbour {n}." for n in "456789"
        )
        summary = model.summarize(f"{text} {text}", 6)
        assert summary == text

    def test_as_many_sentences_as_asked_for(self) -> None:
        for wanted in (1, 3, 5):
            summary = model.summarize(sample("quarterly_report.md"), wanted)
            assert len(split_sentences(summary)) == wanted

    def test_fewer_than_one_sentence_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ask for at least 1"):
            model.summarize("Some text.", 0)


class TestClassification:
    def test_what_nothing_speaks_for_is_unknown(self) -> None:
        assert model.classify("", ["invoice", "letter"]) == {
            "category": model.UNKNOWN,
            "confidence": 0.0,
            "scores": {"invoice": 0.0, "letter": 0.0},
        }

    def test_little_evidence_gives_little_confidence(self) -> None:
        hint = model.classify("We talked about an invoice yesterday.", ["invoice", "letter"])
        assert hint["category"] == "invoice"
        assert 0 < hint["confidence"] < 0.4

    def test_the_scores_leave_room_for_none_of_these(self) -> None:
        scores = model.classify(sample("invoice.md"), ALL)["scores"]
        assert sorted(scores) == ALL
        assert 0.7 < sum(scores.values()) < 1

    def test_another_spelling_keeps_the_name_that_was_asked_for(self) -> None:
        text = (ROOT / "LICENSE").read_text(encoding="utf-8")
        assert model.classify(text, ["license", "agreement"])["category"] == "license"

    def test_an_unknown_category_is_refused(self) -> None:
        with pytest.raises(model.UnknownCategory) as caught:
            model.classify("text", ["invoice", "contrat"])
        message = str(caught.value)
        assert message.startswith("Unknown category 'contrat'. Did you mean 'contract'? Known")
        assert "changelog, changes, contract," in message

    def test_no_category_is_refused(self) -> None:
        with pytest.raises(ValueError, match="No categories were given"):
            model.classify("text", [])

    @pytest.mark.parametrize(
        ("category", "text"),
        [
            (
                "changelog",
                "# Changelog\n\n## 1.2.0 - 2026-03-01\n\n- Fixed a crash (#12)\n- Added colours\n\n"
                "## 1.1.0\n\n- Dropped support for Python 3.8\n",
            ),
            (
                "tutorial",
                "# Your first map\n\nIn this tutorial you will learn how to draw a map.\n\n"
                "## Step 1\n\nOpen the editor. You should see a grid.\n\n## Step 2\n\nSave it.\n",
            ),
            (
                "policy",
                "# Travel policy\n\n## Scope\n\nThis policy applies to all employees. Staff must "
                "not book first class.\n\n## Exceptions\n\nExceptions need approval.\n",
            ),
            (
                "manual",
                "# Kettle: user manual\n\nWARNING: unplug the appliance before cleaning.\n\nPress "
                "and hold the button to reset the device. For troubleshooting see chapter 4.\n",
            ),
        ],
    )
    def test_the_other_kinds(self, category: str, text: str) -> None:
        assert model.classify(text, ALL)["category"] == category


class TestDates:
    @pytest.mark.parametrize(
        "written",
        [
            *("2026-03-12", "2026/03/12", "2026-03-12T10:00:00Z", "12.03.2026", "12/03/2026"),
            *("3/25/2026", "12 March 2026", "12th of March, 2026", "12-Mar-2026", "12. März 2026"),
            *("March 12, 2026", "March 12th 2026", "Sept. 4, 2026", "March 2026", "30 April"),
            *("Feb 29, 2028", "29 February"),
        ],
    )
    def test_is_a_date(self, written: str) -> None:
        assert model.extract(f"It is due ({written}), they say.", ["dates"]) == {"dates": [written]}

    @pytest.mark.parametrize(
        "text",
        [
            *("31.02.2026", "31 June 2026", "Feb 29, 2025", "99.99.2026", "192.168.1.2026"),
            *("They may 5 times try.", "version 1.2.2026.4", "in 2026", "12:30", "12/2026/03"),
        ],
    )
    def test_is_no_date(self, text: str) -> None:
        assert model.extract(text, ["dates"]) == {"dates": []}

    def test_the_same_day_in_another_form_is_not_repeated(self) -> None:
        text = "On 2026-03-12, that is 12 March 2026 or March 12th; then on 13 March 2026."
        assert model.extract(text, ["dates"]) == {"dates": ["2026-03-12", "13 March 2026"]}


class TestAmounts:
    @pytest.mark.parametrize(
        "written",
        [
            *("$5", "US$1.2 million", "€1.234,50", "1.234,50 €", "1 250 EUR", "EUR 1,250.00"),
            *("CHF 1'250.00", "£3k", "12 500 €", "100 dollars", "-$40", "$1,234,567.89", "1,25 €"),
            *("1.5bn euros", "₹1,00,000", "SEK 412.6 million", "R$ 40", "kr 700"),
        ],
    )
    def test_is_an_amount(self, written: str) -> None:
        assert model.extract(f"It costs {written}.", ["amounts"]) == {"amounts": [written]}

    @pytest.mark.parametrize("text", ["50%", "$", "12 apples", "v$1.2345", "1,250", "EUROPE 5"])
    def test_is_no_amount(self, text: str) -> None:
        assert model.extract(text, ["amounts"]) == {"amounts": []}

    def test_a_non_breaking_space_is_a_space(self) -> None:
        found = model.extract("1\u00a0250\u00a0€, and again 1 250 €", ["amounts"])
        assert found == {"amounts": ["1 250 €"]}


class TestCompanies:
    @pytest.mark.parametrize(
        ("text", "companies"),
        [
            ("Between Anna Lind and Acme Robotics GmbH.", ["Acme Robotics GmbH"]),
            (
                "Marks and Spencer plc sued Smith & Jones LLP",
                ["Marks and Spencer plc", "Smith & Jones LLP"],
            ),
            ("Tiffany & Co. paid Müller GmbH & Co. KG", ["Tiffany & Co.", "Müller GmbH & Co. KG"]),
            ("By 3M Company Inc. Ernst & Young LLP", ["3M Company Inc.", "Ernst & Young LLP"]),
            (
                "The Apache Software Foundation and eBay Inc.",
                ["Apache Software Foundation", "eBay Inc."],
            ),
            ("Acme Ltd and ACME Ltd. and Acme, Ltd", ["Acme Ltd"]),
            ("We met at Acme Ltd.", ["Acme Ltd"]),
            ("A Foundation of Limited Liability, the Corporation, Inc.", []),
        ],
    )
    def test_companies(self, text: str, companies: list[str]) -> None:
        assert model.extract(text, ["companies"]) == {"companies": companies}


class TestNames:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("Signed by Oluwaseun Adeyemi-Brandt.", ["Oluwaseun Adeyemi-Brandt"]),
            ("Ludwig van Beethoven met J. R. Ewing.", ["Ludwig van Beethoven", "J. R. Ewing"]),
            ("Prof. Dr. Hans Müller and Sir Tim Berners-Lee.", ["Hans Müller", "Tim Berners-Lee"]),
            ("Written by Xiu Zhang and Bao Tran.", ["Xiu Zhang", "Bao Tran"]),
            ("Ms Keller called. Later Maria Keller and M. Keller came.", ["Maria Keller"]),
            ("Mr Wilk asked Mrs Wilk.", ["Mr Wilk"]),
            ("Signed: MARIA KELLER", ["Maria Keller"]),
            ("Best regards,\n\nYevhen Kolisnyk\n", ["Yevhen Kolisnyk"]),
            ("Pallavi Deshmukh, Chief Executive Officer, was there.", ["Pallavi Deshmukh"]),
            ("Anna Lind's report. ANNA LIND.", ["Anna Lind"]),
        ],
    )
    def test_people(self, text: str, names: list[str]) -> None:
        assert model.extract(text, ["names"]) == {"names": names}

    @pytest.mark.parametrize(
        "text",
        [
            "The United States and the European Union met in New York on Victoria Street.",
            "Use Visual Studio Code, Stack Overflow or Google Cloud.",
            "# Maria Keller\n\nA heading is no evidence.",
            "Written by Maria Keller Ltd and the Maria Keller Foundation.",
            "The Supply Agreement and the Effective Date. Our supply. One agreement.",
            "Monday Morning. Dear Customer, Kind Regards, Managing Director",
        ],
    )
    def test_others_with_capitals(self, text: str) -> None:
        assert model.extract(text, ["names"]) == {"names": []}


def test_only_the_fields_that_were_asked_for_in_that_order() -> None:
    assert list(model.extract("", ["dates", "amounts"])) == ["dates", "amounts"]
    with pytest.raises(model.UnknownField) as caught:
        model.extract("", ["date"])
    assert str(caught.value) == (
        "Unknown field 'date'. Did you mean 'dates'? "
        "Known fields: amounts, companies, dates, names, percentages."
    )


def read(text: str) -> None:
    model.summarize(text)
    model.classify(text, ALL)
    model.extract(text, model.known_fields())


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        alphabet=st.sampled_from("aA1 .,:|*_`[](){}<>!#-=~+&@/\\\"'\n\t€$%文é\u00a0"), max_size=200
    )
)
def test_any_text_can_be_read(text: str) -> None:
    read(text)


def cpu(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


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
def test_the_time_grows_with_the_length_and_not_with_its_square(unit: str | None) -> None:
    unit = unit or "\n\n".join(path.read_text(encoding="utf-8") for path in SAMPLES.iterdir())
    short, long = (unit * (size // len(unit) + 1) for size in (12_500, 200_000))
    read(short)  # whatever is set up once
    # Sixteen times the text. What is quadratic takes 256 times as long.
    assert cpu(lambda: read(long)) < 60 * max(cpu(lambda: read(short)), 0.02)


def test_a_megabyte_of_prose() -> None:
    line = "Shipment {0} of lot {1} left for port {2} with crates of kind {3} on board.\n\n"
    text = "".join(line.format(n, n * 7 % 1009, n * 11 % 613, n * 13 % 4099) for n in range(14_000))
    assert len(text) > 1_000_000
    assert len(split_sentences(model.summarize(text))) == 3
