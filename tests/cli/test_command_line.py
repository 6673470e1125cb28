"""`wald` as people and programs call it: mistakes, absent servers, pipes.

Each runs in its own process.
"""

import http.server
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import rich_click as click
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from app.cli.command_line import Deferred, Group
from app.cli.main import main
from tests.support.processes import heed_interrupts
from tests.support.server import free_port

WALD = (sys.executable, "-P", "-m", "app.cli")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("WALD_")}
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def wald(*arguments, stdin=None, environment=None):
    return subprocess.run(
        [*WALD, *arguments],
        input=stdin,
        env=ENVIRONMENT | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(main, list(arguments), input=stdin, env={"COLUMNS": "100"})


def commands(group=main, path=()):
    """All commands without sub-commands, by their path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        command = command.command if isinstance(command, Deferred) else command
        if isinstance(command, Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())
WITHOUT_JSON = {
    ("up",), ("serve",), ("worker",), ("export",), ("review", "answer"), ("review", "export"),
}  # fmt: skip


def test_help_takes_less_than_half_a_second_of_a_processor_and_loads_no_heavy_library():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = wald("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 2  # beside other tests
    loaded = wald_modules("--help")
    assert not loaded & {
        "numpy",
        "scipy",
        "sqlalchemy",
        "redis",
        "psycopg",
        "litestar",
        "httpx2",
        "markdown_it",
    }


def wald_modules(*arguments):
    """What is loaded when a command has run."""
    code = (
        "import json, sys; from app.cli.main import main; from click.testing import CliRunner;"
        f"CliRunner().invoke(main, {list(arguments)!r});"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_the_help_of_no_command_loads_numerical_libraries_or_engines():
    code = (
        "import json, sys; from app.cli.main import main; from click.testing import CliRunner;"
        f"paths = {[list(path) for path in COMMANDS]!r};"
        "codes = [CliRunner().invoke(main, [*path, '--help']).exit_code for path in paths];"
        "heavy = {'numpy', 'scipy', 'sqlalchemy', 'redis', 'litestar'} & sys.modules.keys();"
        "print(json.dumps([codes, sorted(heavy)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == [[0] * len(COMMANDS), []]


def test_the_list_of_commands_says_what_each_says_of_itself():
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if isinstance(command, Deferred):
            first = command.command.help.strip().partition("\n\n")[0].replace("\n", " ").split()
            assert command.help.split() == first[: len(command.help.split())], name


@pytest.mark.parametrize("path", sorted(set(COMMANDS) - WITHOUT_JSON), ids=" ".join)
def test_every_command_with_a_result_prints_it_as_json_on_demand(path):
    assert "--json" in [name for parameter in COMMANDS[path].params for name in parameter.opts]


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=" ".join)
def test_every_command_has_an_example_and_help_within_80_columns(path):
    done = CliRunner().invoke(main, [*path, "--help"], env={"COLUMNS": "80"})
    assert f"wald {' '.join(path)}" in f"{COMMANDS[path].help} {COMMANDS[path].epilog}"
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("stauts",), "status"),
        (("rollout", "shwo"), "show"),
        (("experiments", "strat"), "start"),
        (("kesy",), "keys"),
    ],
)
def test_a_misspelled_command_exits_2_with_one_line_that_suggests_the_right_one(typed, meant):
    done = invoke(*typed)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == f"Error: No such command {typed[-1]!r}. Did you mean {meant}?\n"


@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_a_slip_in_any_command_or_option_is_recognised(path, data):
    options = [name for parameter in COMMANDS[path].params for name in parameter.opts if name[:2] == "--"]
    option = data.draw(st.sampled_from([name for name in options if len(name) > 5]))
    at = data.draw(st.integers(3, len(option) - 1))
    typed = option[:at] + option[at + 1 :]
    if any(name.startswith(typed) for name in options):
        return
    done = invoke(*path, typed)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: No such option {typed}. Did you mean --")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("replay", "FILE", "--key", "k", "--variant", "v", "--reward", "r", "--policy", "tompson"),
            "--policy: Invalid value 'tompson': one of thompson, fixed; did you mean thompson?",
        ),
        (
            ("simulate", "--means", "0.1,0.2", "--policy", "tompson"),
            "policies[0]: Invalid value 'tompson': one of fixed, thompson, optimistic_thompson,",
        ),
        (
            ("experiments", "list", "--key", "k", "--state", "runing"),
            "--state: Invalid value 'runing': one of draft, running, paused, stopped, archived; did you mean",
        ),
        (("status", "x"), "Missing option --key, or the environment variable WALD_API_KEY."),
        (("status", "--key", "k"), "Missing argument EXPERIMENT."),
        (("analyze", "nowhere.csv"), "FILE: File 'nowhere.csv' does not exist."),
        (
            ("experiments", "create", "nowhere.json", "--key", "k"),
            "FILE: 'nowhere.json': No such file or directory",
        ),
        (("power", "--design", "alwys-valid"), "did you mean always-valid?"),
        (
            (
                "simulate",
                "--means",
                "0.1,0.2",
                "--days",
                "1",
                "--runs",
                "2",
                "--policy",
                "fixed",
                "--figure",
                "/no/x.html",
            ),
            "/no/x.html: No such file or directory",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_style(arguments, message, tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("v,r\n")
    done = invoke(*(str(file) if part == "FILE" else part for part in arguments))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {message}") or message in done.stderr.splitlines()[0]
    assert done.stderr.count("one of") <= 1


def test_a_server_that_is_absent_is_named_with_what_to_do_about_it():
    url = f"http://127.0.0.1:{free_port()}"
    done = wald("status", "x", "--url", url, "--key", "k")
    assert (done.returncode, done.stdout) == (1, "")
    assert url in done.stderr
    assert "is the server running? Start one with `wald up`" in done.stderr
    assert "Traceback" not in done.stderr
    assert wald("rollout", "gate", "1", "--url", url, "--key", "k").returncode == 4
    export = invoke("export", "x", "--url", url, "--key", "k")
    assert (export.exit_code, export.stdout) == (1, "")
    assert url in export.stderr
    assert "is the server running?" in export.stderr


@contextmanager
def proxy(status, body, kind="text/html"):
    """A server that answers everything with this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as the library has it

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (502, HTML, "text/html", "502: Bad Gateway; not the answer of a Wald server, is the URL right?"),
        (404, b"nginx says no", "text/plain", "answer of a Wald server, is the URL right?: nginx says no"),
        (200, HTML, "text/html", "this is not the answer of a Wald server"),
        (200, b"\xff\xfe", "application/json", "this is not the answer of a Wald server"),
        (200, b'{"key": 1}', "application/json", "this is not the answer of a Wald server"),
        (401, b'{"type":"/problems/unauthorized","title":"Unauthorized","status":401,"detail":"no such key"}',
         "application/problem+json", "answered 401: no such key; give another key by --key or WALD_API_KEY"),
    ],
)  # fmt: skip
def test_answers_that_are_not_ours_are_said_in_words(status, body, kind, message):
    with proxy(status, body, kind) as url:
        for arguments in (("status", "x"), ("series", "x")):
            done = invoke(*arguments, "--url", url, "--key", "k")
            assert done.exit_code == 1
            assert message in done.stderr
            assert "<html>" not in done.stderr
            assert isinstance(done.exception, SystemExit)


def test_a_pipe_whose_reader_leaves_ends_the_command_quietly(tmp_path):
    rows = "".join(f"u{n},{'ab'[n % 2]},{n % 3},{n}\n" for n in range(2_000))
    file = tmp_path / "x.csv"
    file.write_text("u,v,m,s\n" + rows)
    arguments = ("analyze", str(file), "--unit", "u", "--variant", "v", "--metric", "m")
    process = subprocess.Popen(
        [*WALD, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert error == b""


def test_in_a_pipe_output_has_no_colours_and_on_a_terminal_it_has_its_width(tmp_path):
    arguments = ("power", "--baseline", "0.1", "--effect", "0.01", "--units-per-day", "5000")
    piped = wald(*arguments).stdout
    assert "\x1b" not in piped
    assert max(map(len, piped.splitlines())) > 80  # a sentence is one line
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*WALD, *arguments],
        env=ENVIRONMENT | {"TERM": "xterm"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    try:
        while part := os.read(leader, 65_536):
            seen += part
    except OSError:  # the terminal is gone with the command
        pass
    os.close(leader)
    assert process.wait(60) == 0
    assert b"\x1b[1m" in seen


def test_an_interrupt_ends_a_command_with_130_and_no_traceback():
    process = subprocess.Popen(
        [*WALD, "simulate", "--means", "0.1,0.11", "--days", "200", "--runs", "200"],
        env=ENVIRONMENT,
        preexec_fn=heed_interrupts,  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "numpy" not in maps(process.pid):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "Interrupted."
    assert output == ""


def maps(pid):
    """Libraries that a process has loaded."""
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given_text", "message"),
    [
        ('{"key": "x",\n "variants": [}', "standard input: line 2, column 15: expecting value"),
        ("[]", "standard input: must be one JSON object, got an array"),
        ("", "standard input: line 1, column 1: expecting value"),
        (b"\xff", "standard input: byte 1 is not valid UTF-8"),
        ("null", "standard input: must be one JSON object, got null"),
    ],
)
def test_a_definition_that_is_no_json_is_refused_with_its_line(given_text, message):
    done = invoke("experiments", "create", "-", "--key", "k", stdin=given_text)
    assert done.exit_code == 2
    assert done.stderr == f"Error: {message}\n"
