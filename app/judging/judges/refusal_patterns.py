"""Recognition of refusals by how a response begins. Pure.

A refusal says that the speaker can't or won't, and names an act of helping. An apology alone is
none ("Sorry for the delay, your parcel arrives today"), and neither is "I can't believe it". A rule
cannot see a refusal in the middle of an answer: that takes a model.
"""

import re
from typing import Final

_BEGINNING: Final = 400  # characters
_STRAIGHT: Final = str.maketrans("’‘`´", "''''")  # noqa: RUF001 - the signs that texts have

_HELP: Final = (
    r"help|assist|provide|answer|comply|fulfil|generat|creat|writ|discuss|shar|support|engag"
    r"|complet|do that|do this|offer|continue|participat|respond|produc|give|advis|promot|process"
    r"|accommodat|recommend|describ|explain|translat|disclos|access|browse|view"
)
_CANNOT: Final = (
    r"can't|cannot|can not|won't|will not|unable to|not able to|not going to|not comfortable"
    r"|not allowed to|not permitted to|couldn't|must decline|have to decline|decline to"
)
_ENGLISH: Final = (
    rf"\bi(?:'m| am)? (?:{_CANNOT})[^.!?\n]{{0,60}}?"
    rf"(?:\b(?:{_HELP})|\bwith (?:that|this|your request)|\brequest)"
    r"|\bi(?:'m| am) (?:sorry|afraid),? (?:but )?"
    r"(?:that(?:'s| is) (?:not )?something i can(?:'t|not)|i (?:can't|cannot|won't))"
    r"|\bi (?:must|have to|need to) (?:respectfully )?(?:decline|refuse)"
    r"|\b(?:this|that|your) (?:request|question|content) (?:violates|goes against|is against)"
    r"|\bas an ai(?: language)?(?: model| assistant)?,? "
    r"i (?:can't|cannot|am unable|am not able|do not|don't)"
)
_GERMAN: Final = (
    r"\b(?:ich kann|ich darf|kann ich|darf ich|ich werde)\b[^.!?\n]{0,60}?"
    r"\b(?:nicht|keine?n?|leider)\b[^.!?\n]{0,60}?"
    r"\b(?:helfen|beantworten|unterstützen|bereitstellen|erstellen|schreiben|anbieten|weiterhelfen)"
)
_FRENCH: Final = (
    r"\bje (?:ne peux|ne suis|ne pourrai|refuse)[^.!?\n]{0,40}?"
    r"(?:aider|répondre|fournir|assister|créer|écrire|en mesure)"
)
_SPANISH: Final = (
    r"\bno (?:puedo|podré|me es posible)[^.!?\n]{0,30}?"
    r"(?:ayudar|responder|proporcionar|asistir|crear|escribir|ofrecer)"
)
_PORTUGUESE: Final = (
    r"\bnão (?:posso|poderei|consigo)[^.!?\n]{0,30}?"
    r"(?:ajudar|responder|fornecer|criar|escrever|auxiliar|oferecer)"
)
_ITALIAN: Final = (
    r"\bnon (?:posso|sono in grado)[^.!?\n]{0,30}?"
    r"(?:aiutar|rispondere|fornire|creare|scrivere|assister|offrire)"
)
_DUTCH: Final = (
    r"\bik kan\b[^.!?\n]{0,40}?\b(?:niet|geen)\b[^.!?\n]{0,40}?"
    r"(?:helpen|beantwoorden|geven|maken|schrijven)"
)
_PATTERNS: Final = (_ENGLISH, _GERMAN, _FRENCH, _SPANISH, _PORTUGUESE, _ITALIAN, _DUTCH)
_REFUSAL: Final = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE)


def refusal(text: str) -> str | None:
    """Return the words by which a response refuses, or None if its beginning does not refuse."""
    match = _REFUSAL.search(text.lstrip()[:_BEGINNING].translate(_STRAIGHT))
    return None if match is None else match.group()
