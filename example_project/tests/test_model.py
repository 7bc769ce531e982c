"""Summaries and classes: of the sample documents, of other documents, of next to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_project.documents import model
from example_project.documents.model.sentences import split_sentences

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

**tidepool** is a Python library that predicts tides from a list of harmonic constants. It reads
the [tables](https://tides.example/tables) of *four* national services, and needs no network when
it runs.

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

OTHERS = {
    "changelog": """\
# Changelog

## 1.2.0 - 2026-03-01

- Fixed a crash (#12)
- Added colours

## 1.1.0

- Dropped support for Python 3.8
""",
    "manual": """\
# Kettle: user manual

WARNING: unplug the appliance before cleaning.

Press and hold the button to reset the device. For troubleshooting see chapter 4.
""",
    "policy": """\
# Travel policy

## Scope

This policy applies to all employees. Staff must not book first class.

## Exceptions

Exceptions need approval.
""",
    "tutorial": """\
# Your first map

In this tutorial you will learn how to draw a map.

## Step 1

Open the editor. You should see a grid.

## Step 2

Save it.
""",
}


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

    @pytest.mark.parametrize("category", OTHERS)
    def test_the_other_kinds(self, category: str) -> None:
        assert model.classify(OTHERS[category], ALL)["category"] == category
