"""The worker's loops of analysis: they read changed experiments, and freeze learning on broken data."""

import msgspec
import structlog

from app.analysis import limits
from app.analysis.service import ReadoutKeeper
from app.core.loops import Loop
from app.ledger.units.measures import UnreadableTotals

_LOG = structlog.get_logger(__name__)


class AnalysisLoops:
    """The loops, which may be cancelled at any point and run in several workers at once.

    Two workers may keep one readout more. `errors` names the experiments that cannot be read at
    present, with the reason.
    """

    def __init__(self, keeper: ReadoutKeeper) -> None:
        self.errors: dict[str, str] = {}
        self._keeper = keeper

    def all(self) -> list[Loop]:
        """Return the loops: read changed experiments, and thin the history."""
        return [
            Loop("readouts", self._read_due, pause_s=limits.READOUT_CHECK_S),
            Loop("readout_history", self._keeper.thin, pause_s=limits.READOUT_THIN_INTERVAL_S),
        ]

    async def _read_due(self) -> None:
        for experiment_id in await self._keeper.due():
            name = f"readout of experiment {experiment_id}"
            try:
                await self._keeper.read(experiment_id)
                self.errors.pop(name, None)
            except (UnreadableTotals, msgspec.MsgspecError, ValueError, ArithmeticError) as error:
                # Other experiments must not wait for one with unusable numbers.
                if name not in self.errors:
                    _LOG.error("experiment_not_read", experiment_id=experiment_id, reason=str(error))
                self.errors[name] = str(error)
