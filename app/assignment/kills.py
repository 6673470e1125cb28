"""What one server knows of killed experiments, and from where. Pure."""

from collections.abc import Mapping

from app.assignment.snapshot import PublishedExperiment


class KnownKills:
    """Kills from three sources: the hash in Valkey, the database, and this process.

    A kill in Valkey or of this process holds until the database says that it is over. What the database says
    holds for the revision of the experiment that it spoke of: a newer published experiment knows better.
    """

    def __init__(self) -> None:
        self.in_valkey: dict[str, bytes] = {}
        self.made_here: dict[str, bytes] = {}
        self._over: dict[str, bytes] = {}
        self._recorded: dict[str, int] = {}
        self._revived: dict[str, int] = {}

    @property
    def pending(self) -> dict[str, bytes]:
        """Kills that the database may not know yet, encoded, by the keys of their experiments."""
        known = self.made_here | self.in_valkey
        return {key: kill for key, kill in known.items() if self._over.get(key) != kill}

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the experiments that are killed, whatever their published form says."""
        return frozenset(self.pending) | self._recorded.keys()

    def kills(self, published: PublishedExperiment) -> bool:
        """Return whether the control is served instead of what `published` says."""
        key, revision = published.key, published.revision
        if key in self.pending or self._recorded.get(key, -1) >= revision:
            return True
        return published.killed and self._revived.get(key) != revision

    def revive(self, key: str, published: PublishedExperiment | None) -> None:
        """Note that the database has ended the kill of this experiment."""
        known = self.made_here | self.in_valkey
        if key in known:
            self._over[key] = known[key]
        self.made_here.pop(key, None)
        self._recorded.pop(key, None)
        if published is not None and published.killed:
            self._revived[key] = published.revision

    def know_recorded(
        self, recorded: Mapping[str, int], over: Mapping[str, bytes], killed_before: Mapping[str, int]
    ) -> bool:
        """Note what the database says; returns whether it is news.

        `recorded`: revisions of the experiments that are killed. `over`: pending kills that have ended.
        `killed_before`: revisions of the published experiments that said they were killed, taken before the
        database was asked; those that the database does not call killed are revived.
        """
        known = self._recorded, self._over, self._revived, len(self.made_here)
        self._recorded = dict(recorded)
        self._over = dict(over)
        self._revived = {key: revision for key, revision in killed_before.items() if key not in recorded}
        for key in [key for key in self.made_here if key in recorded or key in over]:
            del self.made_here[key]
        return known != (self._recorded, self._over, self._revived, len(self.made_here))

    def know_valkey(self, kills: Mapping[str, bytes], *, whole: bool) -> None:
        """Note what the hash in Valkey holds; one that is not `whole` may have lost some."""
        self.in_valkey = dict(kills) if whole else self.in_valkey | dict(kills)
        for key in [key for key in self.made_here if self.made_here[key] == kills.get(key)]:
            del self.made_here[key]
