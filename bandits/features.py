"""Contexts as feature vectors: a schema declared with the experiment says what each entry means.

Entries are whole multiples of 1 / UNIT within [-8, 8], so that sums of their products can be kept
as exact 64-bit integers, whatever the order of rows. Rounding moves an entry by at most 2**-13 =
0.00012, that is a score x . theta by at most 0.00012 times the sum of |theta|.
"""

import math
import zlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandits.totals import FloatArray
from stats import checks
from stats.errors import InvalidInput

IntArray = NDArray[np.int64]

UNIT: Final = 2**12
"""An entry of 1 in fixed point."""
ENTRY_MAX: Final = 8 * UNIT
REWARD_UNIT: Final = 2**20
"""A reward is a whole number of this part of 1."""
COLUMNS_MAX: Final = 64
"""Number of columns of all features together, without the intercept."""
TEXT_MAX: Final = 256
"""Characters of a category."""


class ContextError(InvalidInput):
    """A context that does not fit its schema. `expected` says what would have fitted `feature`."""

    def __init__(self, feature: str, expected: str, got: object) -> None:
        shown = repr(got)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        super().__init__(f"context {feature!r} must be {expected}, got {shown}")
        self.feature = feature
        self.expected = expected


class Numeric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="numeric"):
    """A number v as (v - location) / scale, clipped to [-8, 8].

    Choose location and scale so that usual values lie within [-1, 1] or so. A missing value counts
    as the location; with `missing_column` a second column is 1 where it is missing, so that it has
    an effect of its own.

    Raises InvalidInput unless location is finite, and scale positive and finite.
    """

    name: str
    location: float = 0.0
    scale: float = 1.0
    missing_column: bool = False

    def __post_init__(self) -> None:
        checks.finite(self.location, f"location of {self.name!r}")
        checks.positive(self.scale, f"scale of {self.name!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.name, f"{self.name} missing") if self.missing_column else (self.name,)

    def entries(self, value: object) -> list[float]:
        """Return the entries in fixed point, not yet rounded.

        Raises ContextError unless `value` is None or a finite number.
        """
        if value is None:
            return [0, UNIT] if self.missing_column else [0]
        if type(value) is not float and type(value) is not int:
            raise ContextError(self.name, "a number", value)
        try:
            scaled = (value - self.location) * (UNIT / self.scale)
        except OverflowError:
            raise ContextError(self.name, "a number that binary64 can hold", value) from None
        if not -ENTRY_MAX <= scaled <= ENTRY_MAX:
            if not math.isfinite(value):
                raise ContextError(self.name, "a finite number", value)
            scaled = math.copysign(ENTRY_MAX, scaled)
        return [scaled, 0] if self.missing_column else [scaled]


class Boolean(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="boolean"):
    """True as 1, False as -1, missing as 0."""

    name: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.name,)

    def entries(self, value: object) -> list[float]:
        """Return the entry in fixed point.

        Raises ContextError unless `value` is None, True or False.
        """
        if value is None:
            return [0]
        if type(value) is not bool:
            raise ContextError(self.name, "true or false", value)
        return [UNIT] if value else [-UNIT]


class Categorical(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="categorical"):
    """One of the declared values, one column each: 1 in its own, 0 elsewhere.

    What is missing or not declared is 0 in all of them, that is, scored by the intercept alone;
    with `other_column` it is 1 in a column of its own.

    Raises InvalidInput unless there are values, all different and at most TEXT_MAX characters long.
    """

    name: str
    values: tuple[str, ...]
    other_column: bool = False

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise InvalidInput(f"values of {self.name!r} must be different and at least one")
        if max(map(len, self.values)) > TEXT_MAX:
            raise InvalidInput(f"values of {self.name!r} must have at most {TEXT_MAX} characters")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        values = tuple(f"{self.name} = {value}" for value in self.values)
        return (*values, f"{self.name} other") if self.other_column else values

    def entries(self, value: object) -> list[float]:
        """Return the entries in fixed point.

        Raises ContextError unless `value` is None or a text of at most TEXT_MAX.
        """
        row: list[float] = [0] * (len(self.values) + self.other_column)
        if value is not None and _text(self.name, value) in self.values:
            row[self.values.index(value)] = UNIT
        elif self.other_column:
            row[-1] = UNIT
        return row


class Hashed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="hashed"):
    """A category of an open set, put into one of `buckets` columns by its hash.

    A missing value is 0 in all columns. Categories that share a column share an effect: of n
    categories one is alone in its column with probability (1 - 1 / buckets)^(n - 1). The column is
    CRC-32 of the UTF-8 text modulo `buckets`, the same everywhere.

    Raises InvalidInput unless 2 <= buckets <= COLUMNS_MAX.
    """

    name: str
    buckets: int

    def __post_init__(self) -> None:
        if not 2 <= self.buckets <= COLUMNS_MAX:
            raise InvalidInput(f"buckets of {self.name!r} must be in [2, {COLUMNS_MAX}], got {self.buckets}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(f"{self.name} # {bucket}" for bucket in range(self.buckets))

    def entries(self, value: object) -> list[float]:
        """Return the entries in fixed point.

        Raises ContextError unless `value` is None or a text of at most TEXT_MAX.
        """
        row: list[float] = [0] * self.buckets
        if value is not None:
            text = _text(self.name, value).encode("utf-8", "surrogatepass")
            row[zlib.crc32(text) % self.buckets] = UNIT
        return row


Feature = Numeric | Boolean | Categorical | Hashed


class Schema(msgspec.Struct, frozen=True, dict=True):
    """A map from contexts to vectors: the intercept, 1, then the columns of each feature.

    Undeclared names are ignored: a context may hold more than the policy reads.

    Raises InvalidInput if two features share a name or there are more than COLUMNS_MAX columns.

    Worked by hand: with Numeric("age", location=40, scale=20) and Categorical("device", ("phone",
    "desktop")) the context {"age": 50, "device": "phone"} is (1, 0.5, 1, 0), and {"device":
    "watch"} is (1, 0, 0, 0).
    """

    features: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if len(set(names)) < len(names):
            raise InvalidInput(f"features must have different names, got {names}")
        if self.d > COLUMNS_MAX + 1:
            raise InvalidInput(f"features must have at most {COLUMNS_MAX} columns, got {self.d - 1}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the entries of a vector."""
        return ("intercept", *(column for feature in self.features for column in feature.columns))

    @property
    def d(self) -> int:
        """Length of a vector."""
        return len(self.columns)

    def vector_fixed(self, context: Mapping[str, Any]) -> IntArray:
        """Return the vector in units of 1 / UNIT, shape (d,).

        Raises ContextError if the context does not fit.
        """
        return self._rounded(context).astype(np.int64)

    def vector(self, context: Mapping[str, Any]) -> FloatArray:
        """Return the vector, shape (d,): exactly `vector_fixed` / UNIT.

        Raises ContextError if the context does not fit.
        """
        vector = self._rounded(context)
        vector *= 1 / UNIT
        return vector

    @cached_property
    def _plan(self) -> tuple[tuple[str, float, float, Feature], ...]:
        """Name, location and factor of each feature.

        The factor is 0 if `entries` has to be called.
        """
        return tuple(
            (feature.name, feature.location, UNIT / feature.scale, feature)
            if isinstance(feature, Numeric) and not feature.missing_column
            else (feature.name, 0.0, 0.0, feature)
            for feature in self.features
        )

    def _rounded(self, context: Mapping[str, Any]) -> FloatArray:
        row: list[float] = [UNIT]
        for name, location, factor, feature in self._plan:
            value = context.get(name)
            # What `Numeric.entries` does, without a call for the usual case.
            if factor and type(value) is float:
                entry = (value - location) * factor
                if -ENTRY_MAX <= entry <= ENTRY_MAX:
                    row.append(entry)
                    continue
            row += feature.entries(value)
        return np.rint(np.array(row, dtype=np.float64))


def whole_rewards(contexts: IntArray, rewards: FloatArray) -> IntArray:
    """Round rewards to the nearest 1 / REWARD_UNIT, and return them in that unit.

    Raises InvalidInput unless contexts are of the shape (n, d) within [-ENTRY_MAX, ENTRY_MAX] and
    begin with the intercept, UNIT, and rewards are of the shape (n,) in [0, 1].
    """
    if contexts.ndim != 2 or rewards.shape != contexts.shape[:1]:
        raise InvalidInput(f"contexts {contexts.shape} and rewards {rewards.shape} do not belong together")
    if not (abs(contexts) <= ENTRY_MAX).all() or not (contexts[:, :1] == UNIT).all():
        raise InvalidInput(f"contexts must begin with {UNIT} and be within [-{ENTRY_MAX}, {ENTRY_MAX}]")
    if not ((rewards >= 0) & (rewards <= 1)).all():
        raise InvalidInput("rewards must be in [0, 1]")
    whole: IntArray = np.rint(rewards * REWARD_UNIT).astype(np.int64)
    return whole


def _text(name: str, value: object) -> str:
    if type(value) is not str:
        raise ContextError(name, "a text", value)
    if len(value) > TEXT_MAX:
        raise ContextError(name, f"a text of at most {TEXT_MAX} characters", value)
    return value
