"""The worker's loops of judging: plan, judge, send signals, and watch trust."""

from app.core.loops import Loop
from app.jobs.dispatch import JobRunner
from app.judging import limits
from app.judging.dispatch import Done, JudgingDispatcher, Work
from app.judging.planning_service import Planner
from app.judging.signal_sender import JudgeSignalSender
from app.judging.trust_service import TrustService


class JudgingLoops:
    """Loops that may be cancelled at any point and may run in several workers."""

    def __init__(
        self, planner: Planner, dispatcher: JudgingDispatcher, sender: JudgeSignalSender, trust: TrustService
    ) -> None:
        self._planner = planner
        self._dispatcher = dispatcher
        self._sender = sender
        self._trust = trust
        self._calls: JobRunner[Work, Done] = JobRunner(
            dispatcher.claim_calls,
            dispatcher.attempt,
            dispatcher.record,
            jobs_max=limits.JUDGING_JOBS_MAX,
            poll_s=limits.JUDGING_POLL_S,
            finish_s=limits.JUDGING_FINISH_S,
        )
        self._batches: JobRunner[Work, Done] = JobRunner(
            dispatcher.claim_batches,
            dispatcher.attempt,
            dispatcher.record,
            jobs_max=limits.JUDGING_BATCHES_MAX,
            poll_s=limits.JUDGING_POLL_S,
            finish_s=limits.JUDGING_FINISH_S,
        )

    @property
    def errors(self) -> dict[str, str]:
        """Errors of the rules and judge versions that fail at present, by name."""
        return {**self._planner.errors, **self._trust.errors}

    def all(self) -> list[Loop]:
        """Return the loops."""
        return [
            Loop("judging plan", self._planner.plan, pause_s=limits.PLANNING_PAUSE_S),
            Loop("judge calls", self._calls.run),
            Loop("judge batches", self._batches.run),
            Loop("judging leases", self._dispatcher.renew, pause_s=limits.JUDGING_RENEW_S),
            Loop("judging sweep", self._dispatcher.sweep, pause_s=limits.JUDGING_SWEEP_S),
            Loop("judge signals", self._sender.send, pause_s=limits.JUDGE_SIGNALS_PAUSE_S),
            Loop("judge trust", self._trust.review, pause_s=limits.TRUST_PAUSE_S),
        ]
