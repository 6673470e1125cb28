"""`wald export`: what went wrong is said, and leaves no file behind."""

from pathlib import Path

from click.testing import CliRunner

from app.cli.main import main


def test_without_a_server_there_is_an_error_and_no_file(tmp_path: Path) -> None:
    output = tmp_path / "log.csv"
    arguments = ["export", "summary", "--url", "http://127.0.0.1:1", "--key", "k", "--output", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "the download failed" in result.output
    assert list(tmp_path.iterdir()) == []
