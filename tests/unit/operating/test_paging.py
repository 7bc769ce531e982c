"""Pages of lists that are in the order of times."""

from hypothesis import given
from hypothesis import strategies as st

from celery_fanout.operating.paging import page_of


def lister(records):
    """List as a ledger does: by time, and what has one time in an order of its own."""
    ordered = sorted(records, key=lambda record: record[0], reverse=True)

    def fetch(before, limit):
        return [record for record in ordered if before is None or record[0] < before][:limit]

    return fetch


def pages(records, size):
    cursor = ""
    while True:
        page = page_of(lister(records), lambda record: record, cursor, size)
        yield page.records
        cursor = page.older
        if not cursor:
            return


RECORDS = st.lists(
    st.tuples(
        st.integers(0, 3).map(lambda n: 1_764_155_000.123456 + n), st.text("ab,c1", max_size=4)
    ),
    unique=True,
)


@given(RECORDS, st.integers(1, 5))
def test_every_record_is_on_one_page(records, size):
    found = list(pages(records, size))
    assert [record for page in found for record in page] == sorted(records, reverse=True)
    assert all(len(page) == size for page in found[:-1])
    assert len(found[-1]) <= size
    assert found == [[]] or all(found)


def test_what_changed_meanwhile_is_on_the_first_page():
    records = [(float(n), f"r{n}") for n in range(6)]
    first = page_of(lister(records), lambda record: record, "", 2)
    assert first.records == [(5.0, "r5"), (4.0, "r4")]
    records[3] = (9.0, "r3")
    second = page_of(lister(records), lambda record: record, first.older, 2)
    assert second.records == [(2.0, "r2"), (1.0, "r1")]


def test_a_cursor_that_is_none():
    for cursor in ("", "x", "1.0", "nan,r1", "inf,r1", ",r1"):
        page = page_of(lister([(1.0, "r1")]), lambda record: record, cursor, 2)
        assert page.records == [(1.0, "r1")]
