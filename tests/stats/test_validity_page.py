"""The validity page is what its command writes, and every row of it holds."""

from benchmarks import validity_page


def test_the_validity_page_is_what_its_command_writes() -> None:
    assert validity_page.PAGE.read_text() == validity_page.page(validity_page.stored())


def test_every_row_of_the_validity_page_holds() -> None:
    assert all(row.passed for part in validity_page.stored() for row in part.rows)
