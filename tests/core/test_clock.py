"""The shared time: whatever wall clocks do, it advances by the counters, and all processes agree on it."""

from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import limits
from app.core.clock import Reading, SharedClock, SystemClock, Timekeeping, Timeline, WallClock

SECOND = 1_000_000
HOUR = 3_600 * SECOND
T0 = 1_790_000_000 * SECOND


class Member:
    """A process with a counter of its own, whose wall clock is wrong from the start."""

    def __init__(self, world: "World", name: str, *, boot: str, counter_us: int, wall_us: int) -> None:
        self.world = world
        self.counter_offset_us = counter_us - world.true_us
        self.timeline = Timeline(wall_us, counter_us)
        self.timekeeping = Timekeeping(self.timeline, name=name, boot=boot)

    @property
    def counter_us(self) -> int:
        return self.world.true_us + self.counter_offset_us

    @property
    def now_us(self) -> int:
        return self.timeline.present(self.counter_us)

    def sync(self, error_us: int = 0) -> None:
        world = self.world
        reading = Reading(self.counter_us, abs(error_us), world.database_us + error_us, world.row)
        row = self.timekeeping.take(reading)
        if row is not None and world.row.beat == reading.row.beat:
            world.row = row


class World:
    """PostgreSQL with its clock and the row, and members on machines of their own."""

    def __init__(self) -> None:
        self.true_us = T0
        self.database_ahead_us = 0
        self.row = SharedClock()
        self.members: list[Member] = []
        self.started = 0

    @property
    def database_us(self) -> int:
        return self.true_us + self.database_ahead_us

    def join(self, *, machine: int = 0, wall_us: int = 0) -> Member:
        """Start a process, and wait until it knows the time."""
        self.started += 1
        counter_us = self.true_us - T0 + (machine + 1) * 1_000 * SECOND
        member = Member(
            self,
            f"process {self.started}",
            boot=f"boot {machine}",
            counter_us=counter_us,
            wall_us=wall_us,
        )
        self.members.append(member)
        for _ in range(40):
            member.sync()
            if member.timekeeping.synchronised:
                break
            self.true_us += SECOND // 4
            for other in self.members[:-1]:
                other.sync()
        assert member.timekeeping.synchronised
        return member

    def seconds(self, count: int, rng: Random | None = None) -> None:
        for _ in range(count):
            self.true_us += SECOND
            for member in self.members:
                member.sync(rng.randint(-2_000, 2_000) if rng else 0)

    def spread_us(self) -> int:
        now = [member.now_us for member in self.members]
        return max(now) - min(now)


class Event(NamedTuple):
    """An event, and the seconds until the next one."""

    kind: str
    size_s: float
    seconds: int


events = st.lists(
    st.builds(
        Event,
        st.sampled_from(["database jumps", "a process starts", "the keeper dies"]),
        st.sampled_from([-86_400.0, -3_600.0, -10.0, -0.3, 0.3, 10.0, 3_600.0, 86_400.0]),
        st.integers(0, 12),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(events, st.integers(0, 2**32))
def test_shared_time_advances_by_the_counters_whatever_databases_and_walls_say(history, seed) -> None:
    """Off by what may be followed: a hundredth of the time, and less than a jump for each step."""
    world, rng = World(), Random(seed)
    world.join(machine=0, wall_us=5)
    world.join(machine=1, wall_us=T0 + HOUR)
    small_us = 0
    for event in history:
        if event.kind == "database jumps":
            world.database_ahead_us += round(event.size_s * SECOND)
            small_us += round(min(abs(event.size_s), limits.CLOCK_JUMP_US / SECOND) * SECOND)
        elif event.kind == "a process starts":
            world.join(machine=rng.randrange(3), wall_us=T0 + rng.randint(-HOUR, HOUR))
        else:
            others = [one for one in world.members if one.timekeeping._name != world.row.keeper]
            world.members = others or world.members
        world.seconds(event.seconds, rng)
    passed_us = world.true_us - T0
    for member in world.members:
        assert abs(member.now_us - world.true_us) <= passed_us // 100 + small_us + 10_000
        assert member.timekeeping.steps == 0
    world.seconds(120)
    assert world.spread_us() <= 2 * limits.CLOCK_STEP_US


def test_a_process_that_starts_during_a_jump_takes_the_time_of_the_others() -> None:
    world = World()
    world.join()
    world.seconds(3)
    world.database_ahead_us = HOUR
    late = world.join(machine=1, wall_us=T0 + HOUR)
    assert abs(late.now_us - world.true_us) < SECOND // 10


@pytest.mark.parametrize("ahead_s", [-3_600, 3_600])
def test_a_whole_restart_on_one_machine_goes_on_by_its_counter(ahead_s) -> None:
    world = World()
    world.join()
    world.seconds(3)
    world.members.clear()
    world.true_us += 20 * SECOND
    world.database_ahead_us = ahead_s * SECOND
    again = world.join(wall_us=T0 + ahead_s * SECOND)
    assert abs(again.now_us - world.true_us) < SECOND // 10


def test_a_restart_on_another_machine_never_goes_back() -> None:
    world = World()
    before = world.join()
    world.seconds(3)
    reached_us = before.now_us
    world.members.clear()
    world.true_us += 20 * SECOND
    world.database_ahead_us = -HOUR
    assert world.join(machine=1).now_us >= reached_us
    world.members.clear()
    world.true_us += 600 * SECOND
    world.database_ahead_us = 0
    assert abs(world.join(machine=2).now_us - world.true_us) < SECOND // 10


def test_after_a_jump_the_shared_time_returns_by_a_two_hundredth() -> None:
    world = World()
    world.join()
    world.join(machine=1)
    world.seconds(2)
    world.database_ahead_us = 10 * SECOND
    world.seconds(200)
    assert world.row.ahead_us == pytest.approx(-9 * SECOND, abs=SECOND // 10)
    world.seconds(2_000)
    assert world.row.ahead_us == 0
    assert world.spread_us() <= limits.CLOCK_STEP_US


def test_a_process_whose_counter_stopped_follows_the_others() -> None:
    """As that of a virtual machine that was paused."""
    world = World()
    keeper = world.join()
    paused = world.join(machine=1)
    world.seconds(8)
    paused.counter_offset_us -= 60 * SECOND
    world.seconds(10)
    assert paused.timekeeping.steps == 1
    assert keeper.timekeeping.jumps == 0
    assert world.spread_us() <= limits.CLOCK_STEP_US


@given(st.lists(st.integers(-50_000, 50_000), max_size=50))
def test_a_timeline_never_goes_back_and_moves_in_bounded_steps(nudges) -> None:
    timeline, counter_us = Timeline(T0, 0), 0
    before_us = timeline.present(0)
    for nudge in nudges:
        counter_us += 1_000
        timeline.nudge(nudge)
        now_us = timeline.present(counter_us)
        assert before_us <= now_us <= before_us + 1_000 + limits.CLOCK_STEP_US
        before_us = now_us


def test_the_parts_of_a_moment_agree() -> None:
    for clock in (SystemClock(), WallClock()):
        before_us = clock.now_us()
        assert before_us <= clock.now().timestamp() * 1e6 + 1
        assert before_us // 1_000 <= clock.now_ms() <= before_us // 1_000 + 10_000
