"""The page on the command line is that of the commands as they are."""

from tests.support.cli_reference import PAGE, page


def test_the_page_on_the_command_line_is_up_to_date():
    """`python -m tests.support.cli_reference` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()
