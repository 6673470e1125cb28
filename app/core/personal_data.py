"""Personal data and secrets in texts: e-mail, phone, card and account numbers, API keys. Pure.

The patterns favour precision: numbers need a valid check digit or a form that only phone numbers
have. Every repetition is bounded, so the time is proportional to the length of the text.

Sources: ISO/IEC 7812-1 (cards, Luhn), ISO 13616 (IBAN, modulo 97), ITU-T E.164 (phone numbers).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple, get_args

Kind = Literal["email", "phone", "card", "iban", "api_key"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Occurrence(NamedTuple):
    """A place in a text: characters `start` to `end`, exclusive."""

    kind: Kind
    start: int
    end: int


def occurrences(text: str, kinds: Iterable[Kind] = KINDS) -> list[Occurrence]:
    """Return the personal data in a text, in order, without overlaps.

    Of two that overlap, the stricter kind stays: a card number may look like a phone number, but a
    phone number rarely has the check digit of a card.
    """
    wanted = sorted(kinds, key=_STRICTEST_FIRST.index)
    taken: list[Occurrence] = []
    for kind in wanted:
        if _HINTS[kind].search(text) is None:
            continue
        for match in _PATTERNS[kind].finditer(text):
            place = Occurrence(kind, *match.span())
            if _valid(kind, match.group()) and not any(_overlap(place, other) for other in taken):
                taken.append(place)
    return sorted(taken, key=lambda place: place.start)


def redacted(text: str, kinds: Iterable[Kind] = KINDS) -> tuple[str, int]:
    """Return the text with each occurrence replaced by its kind, and their number.

    Worked by hand: `write to ada@example.org` becomes `write to [email]`, 1.
    """
    places = occurrences(text, kinds)
    return "".join(_parts(text, places)), len(places)


def _parts(text: str, places: list[Occurrence]) -> Iterator[str]:
    position = 0
    for place in places:
        yield text[position : place.start]
        yield f"[{place.kind.replace('_', ' ')}]"
        position = place.end
    yield text[position:]


def _overlap(first: Occurrence, second: Occurrence) -> bool:
    return first.start < second.end and second.start < first.end


def _luhn(number: str) -> bool:
    digits = [int(sign) for sign in reversed(number) if sign.isdigit()]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2]]
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _iban(account: str) -> bool:
    compact = account.replace(" ", "")
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(sign, 36)) for sign in rearranged)) % 97 == 1


def _phone(number: str) -> bool:
    return 8 <= sum(sign.isdigit() for sign in number) <= 15


def _valid(kind: Kind, match: str) -> bool:
    check = _CHECKS.get(kind)
    return check is None or check(match)


_CHECKS: Final[dict[Kind, Callable[[str], bool]]] = {"card": _luhn, "iban": _iban, "phone": _phone}
_STRICTEST_FIRST: Final[tuple[Kind, ...]] = ("api_key", "email", "iban", "card", "phone")
# What a text with an occurrence contains in any case: quicker to look for than the pattern.
_HINTS: Final[dict[Kind, re.Pattern[str]]] = {
    "email": re.compile("@"),
    "phone": re.compile(r"[0-9][0-9 ()./-]{5}"),
    "card": re.compile(r"[0-9][0-9 -]{11}"),
    "iban": re.compile(r"[0-9]{2} ?[A-Z0-9]{4}"),
    "api_key": re.compile(
        "sk-|_live_|_test_|wald_|A[KS]IA|AIza|gh[pousr]_|github_pat_|glpat-|xox|hf_|eyJ|-----BEGIN "
    ),
}
_PATTERNS: Final[dict[Kind, re.Pattern[str]]] = {
    "email": re.compile(r"(?<![\w.+%'-])[\w.+%'-]{1,64}@(?:\w(?:[\w-]{0,61}\w)?\.){1,8}[^\W\d_]{2,24}\b"),
    "phone": re.compile(
        r"(?<![\w.+-])(?:"
        r"(?:\+|00)[1-9](?:[ ./-]?\(?[0-9]\)?){7,14}"  # international
        r"|\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}"  # North American
        r"|0[1-9](?:[ .-][0-9]{2}){4}"  # 01 42 68 53 00
        r"|\(0[0-9]{1,4}\)[ ./-]?[0-9]{2,8}(?:[ .-][0-9]{2,4}){0,3}"  # (030) 123456
        r"|0[1-9][0-9]{1,3}[ /-][0-9]{3,8}(?:[ .-][0-9]{2,4}){0,2}"  # 030 1234567
        r")(?![\w-])"
    ),
    "card": re.compile(r"(?<![\w.-])[2-6](?:[ -]?[0-9]){12,18}(?![\w-])"),
    "iban": re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"),
    "api_key": re.compile(
        r"(?<![\w-])(?:"
        r"sk-[A-Za-z0-9_-]{16,}"  # several model providers
        r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}"  # Stripe
        r"|wald_[a-z]{3}_[A-Za-z0-9_]{16,}"
        r"|(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS
        r"|AIza[0-9A-Za-z_-]{35}"  # Google
        r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}"
        r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # Slack
        r"|hf_[A-Za-z0-9]{30,}"
        r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # JSON Web Token
        r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?s:.*?)"
        r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
        r")(?![\w-])"
    ),
}
