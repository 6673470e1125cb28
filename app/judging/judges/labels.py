"""Closed sets of labels. Pure."""

from typing import Annotated, Final

import msgspec

from app.judging.judges import limits

Meaning = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MEANING_LENGTH_MAX)]


class LabelSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Consecutive whole numbers from `lowest`, each with its meaning, from worst to best.

    Raises ValueError unless there are `LABELS_MIN` to `LABELS_MAX` different meanings.
    """

    meanings: tuple[Meaning, ...] = (
        "does not meet the criterion",
        "meets the criterion in part",
        "meets the criterion in full",
    )
    lowest: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1

    def __post_init__(self) -> None:
        count = len(self.meanings)
        if not limits.LABELS_MIN <= count <= limits.LABELS_MAX:
            bound = f"{limits.LABELS_MIN} to {limits.LABELS_MAX}"
            raise ValueError(f"meanings must be {bound} texts, from worst to best; got {count}")
        seen: set[str] = set()
        for meaning in self.meanings:
            if not meaning.strip():
                raise ValueError("meanings must not be blank: say what each label means")
            if meaning.strip().casefold() in seen:
                raise ValueError(f"meanings must differ; {meaning!r} is there twice")
            seen.add(meaning.strip().casefold())

    @property
    def numbers(self) -> tuple[int, ...]:
        """The labels, from worst to best."""
        return tuple(range(self.lowest, self.lowest + len(self.meanings)))

    def score(self, label: int) -> float:
        """Return the label's place between worst (0) and best (1).

        Worked by hand: with the labels 1, 2 and 3, label 2 is 0.5.
        """
        assert label in self.numbers
        return (label - self.lowest) / (len(self.meanings) - 1)

    def nearest(self, score: float) -> int:
        """Return the label whose score is nearest; of two, the better."""
        return self.lowest + int(score * (len(self.meanings) - 1) + 0.5)


PASS_OR_FAIL: Final = LabelSet(meanings=("fails", "passes"), lowest=0)
"""Labels of a yes-or-no judge."""
