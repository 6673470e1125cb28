"""Time that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta


class SettableClock:
    """Shows `at`, which may be set at will."""

    def __init__(self, at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def now_ms(self) -> int:
        return self.now_us() // 1_000

    def now_us(self) -> int:
        return round(self.at.timestamp() * 1_000_000)

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
