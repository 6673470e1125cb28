"""Cost of a call. Pure."""

from typing import Annotated

import msgspec

from app.judging.judges import limits

Usd = Annotated[float, msgspec.Meta(ge=0, le=limits.PRICE_USD_MAX)]


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens. A server of your own costs 0 and 0."""

    input_usd: Usd
    output_usd: Usd

    def cost_usd(self, tokens_in: int, tokens_out: int) -> float:
        """Return the cost of these tokens."""
        return (tokens_in * self.input_usd + tokens_out * self.output_usd) / 1e6
