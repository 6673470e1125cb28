"""Kills of a server from Valkey, PostgreSQL and its own answers, in any order of their arrival."""

from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.assignment.kills import KnownKills
from tests.support.registry import experiment


@dataclass
class World:
    """The truth, of one experiment, and a server that hears of it late."""

    revision: int = 1
    killed: bool = False
    times: int = 0
    ended_at: int = 0
    valkey: dict[str, bytes] = field(default_factory=dict)
    known: KnownKills = field(default_factory=KnownKills)
    served: int = 1  # revision of the published experiment that the server has
    served_killed: bool = False

    def kill(self, *, recorded: bool, in_valkey: bool, here: bool) -> None:
        self.times += 1
        body = str(self.times).encode()
        if here:
            self.known.made_here["exp"] = body
        if in_valkey:
            self.valkey["exp"] = body
        if recorded and not self.killed:
            self.killed, self.revision = True, self.revision + 1

    def revive(self, *, here: bool) -> None:
        """PostgreSQL ends every kill before this moment; Valkey may keep a copy of it for a while."""
        self.times += 1
        self.ended_at = self.times
        if self.killed:
            self.killed, self.revision = False, self.revision + 1
        if here:
            self.known.revive("exp", self.published())

    def look_at_database(self) -> None:
        over = {pair for pair in self.known.pairs if int(pair[1]) <= self.ended_at}
        recorded = {"exp": self.revision} if self.killed else {}
        before = {"exp": self.served} if self.served_killed else {}
        self.known.know_recorded(recorded, over, before)

    def look_at_valkey(self) -> None:
        self.known.know_valkey(self.valkey, whole=True)

    def load(self) -> None:
        self.served, self.served_killed = self.revision, self.killed

    def published(self):
        return msgspec.structs.replace(experiment(revision=self.served), killed=self.served_killed)

    def serves_control(self) -> bool:
        return self.known.kills(self.published())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("kill"), st.booleans(), st.booleans(), st.booleans()),
        st.tuples(st.just("revive"), st.booleans()),
        st.sampled_from([("load",), ("database",), ("valkey",)]),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_the_newest_state_of_postgresql_decides_for_any_order_of_events(steps) -> None:
    world = World()
    for step, *how in steps:
        match step:
            case "kill":
                recorded, in_valkey, here = how
                if recorded or in_valkey or here:
                    world.kill(recorded=recorded, in_valkey=in_valkey, here=here)
                    assert not here or world.serves_control(), "a kill made here is in force at once"
            case "revive":
                world.revive(here=how[0])
                assert not how[0] or not world.serves_control(), "and so is its end"
            case "load":
                world.load()
            case "database":
                world.look_at_database()
            case "valkey":
                world.look_at_valkey()
    world.look_at_valkey()
    waits = any(int(body) > world.ended_at for _, body in world.known.pairs)
    world.look_at_database()
    assert world.serves_control() == (world.killed or waits)
    world.load()
    world.look_at_database()
    assert world.serves_control() == (world.killed or waits)


def test_a_newer_publication_wins_over_an_older_statement_of_postgresql() -> None:
    """A server that PostgreSQL does not reach any more hears of a revival, and of a new kill, by Valkey."""
    known = KnownKills()
    known.know_recorded({"exp": 2}, (), {})
    assert known.kills(experiment(revision=1))
    assert known.kills(experiment(revision=2))
    assert not known.kills(experiment(revision=3))
    killed = msgspec.structs.replace(experiment(revision=4), killed=True)
    known.know_recorded({}, (), {"exp": 4})
    assert not known.kills(killed)
    assert known.kills(msgspec.structs.replace(killed, revision=6))
