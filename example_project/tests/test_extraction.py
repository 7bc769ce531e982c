"""Dates, amounts, companies and names: what is one, and what only looks like it."""

from __future__ import annotations

import pytest

from example_project.documents import model


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
