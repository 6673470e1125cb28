"""Layouts of stored totals: what the ledger measured of each unit, before and after a change. Pure.

Totals hold the sums of metrics by position. When the metrics of a running experiment change, the
next layout begins. Totals of earlier layouts stay readable until the backfill has measured every
unit in the present one.
"""

from typing import Final

import msgspec

from app.experiments.metrics import Metric
from app.experiments.plan import Segments


class Layout(msgspec.Struct, frozen=True):
    """An earlier layout, in which some totals may still be stored.

    `reward`: its rewards follow the present rule. `measured`: units were measured at all; without
    metrics, segments, covariates and stickiness only rewards are counted.
    """

    number: int
    metrics: tuple[Metric, ...]
    segments: Segments | None = None
    measured: bool = True
    reward: bool = True


class Layouts(msgspec.Struct, frozen=True):
    """The number of the present layout, and the earlier ones with stored totals, in order."""

    present: int = 1
    earlier: tuple[Layout, ...] = ()

    def following(
        self, metrics: tuple[Metric, ...], segments: Segments | None, *, measured: bool, same_reward: bool
    ) -> "Layouts":
        """Return the layouts after a change; the arguments describe the present one, which ends."""
        ended = Layout(self.present, metrics, segments, measured or self.present > 1)
        earlier = [
            msgspec.structs.replace(layout, reward=layout.reward and same_reward)
            for layout in (*self.earlier, ended)
        ]
        return Layouts(self.present + 1, tuple(earlier))


FIRST: Final = Layouts()
"""The layouts of an experiment whose metrics have never changed."""
