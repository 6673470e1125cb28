"""Killed experiments that one server knows, by source. Pure."""

from collections.abc import Collection, Mapping

from app.assignment.snapshot import PublishedExperiment


class KnownKills:
    """Kills from three sources: the hash in Valkey, the database, and this process.

    A kill in Valkey or of this process holds until the database says that it is over. A statement
    of the database holds for that revision of the experiment; a newer published revision wins.
    """

    def __init__(self) -> None:
        self.in_valkey: dict[str, bytes] = {}
        self.made_here: dict[str, bytes] = {}
        self._over: set[tuple[str, bytes]] = set()  # never removed: a stale copy in Valkey must stay over
        self._recorded: dict[str, int] = {}
        self._revived: dict[str, int] = {}

    @property
    def pending(self) -> dict[str, bytes]:
        """Encoded kills that the database may not have yet, by experiment key."""
        return dict(sorted(self.pairs))

    @property
    def pairs(self) -> set[tuple[str, bytes]]:
        """Pending kills as pairs: a server may know two of one experiment."""
        return (self.made_here.items() | self.in_valkey.items()) - self._over

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the killed experiments, whatever their published form says."""
        return frozenset(key for key, _ in self.pairs) | self._recorded.keys()

    def kills(self, published: PublishedExperiment) -> bool:
        """Return whether an experiment is killed, so that every unit gets the control."""
        key, revision = published.key, published.revision
        if self._recorded.get(key, -1) >= revision:
            return True
        for known in (self.made_here, self.in_valkey):
            if key in known and (key, known[key]) not in self._over:
                return True
        return published.killed and self._revived.get(key) != revision

    def revive(self, key: str, published: PublishedExperiment | None) -> None:
        """Note that the database has ended the kill of this experiment."""
        self._over |= {pair for pair in self.pairs if pair[0] == key}
        self.made_here.pop(key, None)
        self._recorded.pop(key, None)
        if published is not None and published.killed:
            self._revived[key] = published.revision

    def know_recorded(
        self,
        recorded: Mapping[str, int],
        over: Collection[tuple[str, bytes]],
        killed_before: Mapping[str, int],
    ) -> bool:
        """Note the state of the database; return whether anything changed.

        `recorded` has the revisions of killed experiments, `over` the pending kills that have
        ended. `killed_before` has the revisions that were published as killed, read before the
        query; those that the database does not call killed are revived.
        """
        known = self._recorded, len(self._over), self._revived, len(self.made_here)
        self._recorded = dict(recorded)
        self._over.update(over)
        self._revived = {key: revision for key, revision in killed_before.items() if key not in recorded}
        ended = {key for key, kill in self.made_here.items() if key in recorded or (key, kill) in self._over}
        for key in ended:
            del self.made_here[key]
        return known != (self._recorded, len(self._over), self._revived, len(self.made_here))

    def know_valkey(self, kills: Mapping[str, bytes], *, whole: bool) -> None:
        """Note the kills in Valkey. A Valkey that is not `whole` may have lost some."""
        self.in_valkey = dict(kills) if whole else self.in_valkey | dict(kills)
        for key in [key for key in self.made_here if self.made_here[key] == kills.get(key)]:
            del self.made_here[key]
