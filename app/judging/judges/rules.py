"""Definitions of the rules that need no model. Each passes (1) or fails (0) a response. Pure."""

from typing import Annotated, Literal

import msgspec

from app.judging.judges import limits

Characters = Annotated[int, msgspec.Meta(ge=0, le=limits.TEXT_LENGTH_MAX)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
LanguageCode = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}$(?!\n)")]
PersonalData = Literal["email", "phone", "card", "iban", "api_key"]


class NotEmpty(msgspec.Struct, frozen=True, tag_field="rule", tag="empty", forbid_unknown_fields=True):
    """A response without a visible character fails."""


class NoRefusal(msgspec.Struct, frozen=True, tag_field="rule", tag="refusal", forbid_unknown_fields=True):
    """A response that begins by refusing the request fails, in English and six other languages."""


class Length(msgspec.Struct, frozen=True, tag_field="rule", tag="length", forbid_unknown_fields=True):
    """A response with fewer or more characters fails; white space at its ends does not count.

    Raises ValueError unless there is a bound, and `characters_min <= characters_max`.
    """

    characters_min: Characters = 0
    characters_max: Characters | None = None

    def __post_init__(self) -> None:
        if self.characters_max is None and self.characters_min == 0:
            raise ValueError("length needs characters_min above 0, or characters_max")
        if self.characters_max is not None and self.characters_max < self.characters_min:
            raise ValueError(
                f"characters_max must be at least characters_min ({self.characters_min}); "
                f"got {self.characters_max}"
            )


class ValidJson(msgspec.Struct, frozen=True, tag_field="rule", tag="json", forbid_unknown_fields=True):
    """A response that is not one JSON value fails. `fence` admits a code fence around it."""

    fence: bool = False


class NoRepetition(
    msgspec.Struct, frozen=True, tag_field="rule", tag="repetition", forbid_unknown_fields=True
):
    """A response that repeats itself fails: more than `share_max` of its runs of words are repeats.

    A run has `run_words` words. Texts with fewer than `words_min` words pass. Words of languages
    that write without spaces are single characters.
    """

    share_max: Share = 0.4
    run_words: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    words_min: Annotated[int, msgspec.Meta(ge=4, le=10_000)] = 40


class SpokenLanguage(
    msgspec.Struct, frozen=True, tag_field="rule", tag="language", forbid_unknown_fields=True
):
    """A response in any other language than `languages` fails; without them, than its prompt's.

    Texts with fewer than `letters_min` letters, and texts whose language is less sure than
    `confidence_min`, are unscored. Code in fences and URLs do not count.
    """

    languages: Annotated[tuple[LanguageCode, ...], msgspec.Meta(max_length=limits.LANGUAGES_MAX)] = ()
    letters_min: Annotated[int, msgspec.Meta(ge=10, le=10_000)] = 40
    confidence_min: Share = 0.5


class NoPersonalData(msgspec.Struct, frozen=True, tag_field="rule", tag="pii", forbid_unknown_fields=True):
    """A response that holds personal data of one of these kinds fails."""

    kinds: Annotated[tuple[PersonalData, ...], msgspec.Meta(min_length=1, max_length=5)] = (
        "email",
        "phone",
        "card",
        "iban",
        "api_key",
    )


Rule = NotEmpty | NoRefusal | Length | ValidJson | NoRepetition | SpokenLanguage | NoPersonalData
"""A rule, by its field `rule`."""
