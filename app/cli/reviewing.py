"""Reviewing in the terminal: one response after the other, one key each."""

from typing import Final
from uuid import UUID

import rich_click as click
from rich.rule import Rule
from rich.text import Text

from app.cli.calls import Server
from app.cli.client import Refused, WaldClient, path_of, read
from app.cli.display.tables import visible
from app.cli.terminal import out
from app.reviews.model import Review, Shown
from app.reviews.routes import Claimed

LEASE_ENDED: Final = 409
_QUIT: Final = frozenset({"q", "\x03", "\x04"})
_HELP: Final = "{labels}  s skip  c comment, then label  u undo the last answer  q stop  ? help"


class Reviewing:
    """A session of one reviewer, until nothing is left or the reviewer stops."""

    def __init__(self, server: Server, experiment: str | None) -> None:
        self._server = server
        self._experiment = experiment
        self._last: int | None = None
        self._rubric = ""
        self._answered = 0

    def run(self) -> None:
        """Show responses and store answers."""
        while (shown := self._claim()) is not None:
            self._show(shown)
            if not self._answer(shown):
                break
        else:
            out().print("Nothing more to review now.")
        out().print(f"You have answered {self._answered:,} in this session.")

    def _answer(self, shown: Shown) -> bool:
        """Read keys until the response is answered; return whether to go on."""
        comment = ""
        while True:
            key = click.getchar()
            if key in _QUIT:
                self._post(shown.item, "release", {"lease": shown.lease})
                return False
            if key.isascii() and key.isdigit() and int(key) in shown.labels:
                self._store(shown, "submit", {"label": int(key), "comment": comment})
                return True
            if key == "s":
                reason = click.prompt("Why do you skip it?", type=str).strip()
                self._store(shown, "skip", {"reason": reason})
                return True
            if key == "c":
                comment = click.prompt("Comment", type=str, default=comment, show_default=False)
            elif key == "u":
                self._undo()
                self._show(shown)
            out().print(_keys(shown), style="dim")

    def _undo(self) -> None:
        """Replace the last answer."""
        if self._last is None:
            out().print("There is no answer of this session to undo.")
            return
        before = read(self._server.get("reviews", str(self._last)), Shown)
        self._show(before)
        given = before.answer
        out().print(f"You answered {given.label if given and given.label is not None else 'with a skip'}.")
        key = click.getchar()
        if key.isascii() and key.isdigit() and int(key) in before.labels:
            corrected = self._post(before.item, "correct", {"label": int(key)})
            if corrected is not None:
                out().print(f"It is {read(corrected, Review).label} now.")
        else:
            out().print("The answer stays.")

    def _claim(self) -> Shown | None:
        body = {} if self._experiment is None else {"experiment": self._experiment}
        return read(self._server.post("reviews", "claim", body=body), Claimed).item

    def _store(self, shown: Shown, action: str, body: dict[str, object]) -> None:
        if self._post(shown.item, action, body | {"lease": shown.lease}) is not None:
            self._last = shown.item
            self._answered += 1

    def _post(self, item: int, action: str, body: dict[str, object]) -> bytes | None:
        """Return the answer of a call about an item; print why it was refused, and return None."""
        values = {name: str(value) if isinstance(value, UUID) else value for name, value in body.items()}

        async def call(client: WaldClient) -> bytes | None:
            try:
                return await client.post(path_of("reviews", str(item), action), values)
            except Refused as error:
                if error.status != LEASE_ENDED:
                    raise
                out().print(Text(visible(error.problem.detail), style="yellow"))
                return None

        return self._server.ask(call)

    def _show(self, shown: Shown) -> None:
        console = out()
        console.print(Rule(visible(f"{shown.experiment}, item {shown.item}")))
        if shown.rubric and shown.rubric != self._rubric:
            console.print(Text("Rubric", style="bold"), _text(shown.rubric), "", sep="\n")
        self._rubric = shown.rubric
        if shown.prompt is not None:
            console.print(Text("Prompt", style="bold"), _text(shown.prompt), "", sep="\n")
        response = "(the text has expired)" if shown.response is None else shown.response
        console.print(Text("Response", style="bold"), _text(response or "(empty)"), "", sep="\n")
        console.print(_keys(shown), style="dim")


def _keys(shown: Shown) -> str:
    labels = "  ".join(f"{digit} {visible(word)}" for digit, word in sorted(shown.labels.items()))
    return _HELP.format(labels=labels)


def _text(text: str) -> Text:
    """Return a text whose control characters are written as escapes; its lines stay."""
    return Text("\n".join(visible(line.expandtabs(4)) for line in text.splitlines()))
