"""E-values: evidence against a null that stays valid at every look.

An e-value is a number >= 0 whose expectation under the null is at most 1; an e-process is a
sequence of numbers that is an e-value at every stopping time. By Ville's inequality the chance that
an e-process *ever* reaches 1 / alpha is at most alpha, so its inverse is a p-value that holds at
every look. Everything is kept as a logarithm: strong evidence does not overflow, and a p-value does
not become 0.

Sources: Ville (1939); Vovk & Wang (2021), Annals of Statistics 49(3); Ramdas et al. (2023),
Statistical Science 38(4).
"""

import math
from typing import Final

import msgspec

from stats import checks
from stats.errors import InvalidInput

_SMALLEST: Final = 5e-324


class EValue(msgspec.Struct, frozen=True):
    """Evidence against a null, by its natural logarithm; minus infinity is an e-value of 0.

    Worked by hand: an e-value of 20 (log 2.9957) is an anytime-valid p of 1 / 20 = 0.05.

    Raises InvalidInput if the logarithm is not a number.
    """

    log_value: float

    def __post_init__(self) -> None:
        if math.isnan(self.log_value):
            raise InvalidInput("log_value must be a number, got nan")

    @property
    def value(self) -> float:
        """The e-value; infinite beyond the largest double."""
        return math.exp(self.log_value) if self.log_value < 709 else math.inf

    @property
    def p_value(self) -> float:
        """The p-value min(1, 1 / e), valid at every look.

        It is at least the smallest positive double, so it is never 0.
        """
        return max(math.exp(min(-self.log_value, 0.0)), _SMALLEST)

    def rejects(self, alpha: float) -> bool:
        """Return whether the evidence reaches 1 / alpha."""
        checks.open_unit(alpha, "alpha")
        return self.log_value >= -math.log(alpha)


class AlwaysValid(msgspec.Struct, frozen=True):
    """The smallest p-value so far: what an e-process has proven, it does not take back.

    The record is all that has to be kept between looks. Records of the same e-process, kept by
    different processes, merge in any order. It stays valid because Ville's inequality bounds the
    *largest* e-value.

    Worked by hand: e-values 2, 25, 10 leave p = 1/2, then 1/25, and still 1/25.

    Raises InvalidInput if the logarithm is positive or not a number.
    Source: Johari, Koomen, Pekelis & Walsh (2022), Operations Research 70(3), eq. 8.
    """

    log_p_value: float = 0.0

    def __post_init__(self) -> None:
        if not self.log_p_value <= 0:
            raise InvalidInput(f"log_p_value must be at most 0, got {self.log_p_value:g}")

    @property
    def p_value(self) -> float:
        """The p-value in (0, 1]. Below the smallest double it is that double: never 0."""
        return max(math.exp(self.log_p_value), _SMALLEST)

    def after(self, look: EValue) -> "AlwaysValid":
        """Return the state with one more look at the e-process."""
        return AlwaysValid(min(self.log_p_value, -look.log_value))

    def merge(self, other: "AlwaysValid") -> "AlwaysValid":
        """Return the record of both sets of looks at the same e-process."""
        return AlwaysValid(min(self.log_p_value, other.log_p_value))
