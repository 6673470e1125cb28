"""Reader of responses and of waiting feedback for people, and the erasure of a unit's texts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from app.experiments.tables import experiments
from app.responses.model import Texts, id_hash, key_of
from app.responses.tables import response_erasures, response_feedback, response_keys, responses
from app.responses.texts import unpack

_KEYS = response_keys.c
_TEXTS = responses.c
_SAME = (_TEXTS.expires_on == _KEYS.expires_on) & (_TEXTS.response_key == _KEYS.response_key)
_COLUMNS = [column for column in _TEXTS if column.name not in {"expires_on", "experiment_id", "unit_hash"}]
_SHOWN = select(
    _KEYS.seq,
    _KEYS.response_key.label("known_key"),
    _KEYS.experiment_id,
    experiments.c.key.label("experiment"),
    experiments.c.definition["variants"].label("variants"),
    *_COLUMNS,
).join_from(response_keys, experiments, experiments.c.id == _KEYS.experiment_id)


class ReadingStore:
    """SQL of the pages of responses. Raises what SQLAlchemy raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def by_id(self, response_id: str) -> list[dict[str, Any]]:
        """Return the responses with this id, of all experiments; expired ones have no texts."""
        statement = _SHOWN.outerjoin(responses, _SAME).where(_KEYS.id_hash == id_hash(response_id))
        return [
            row
            for row in await self._read(statement)
            if row["known_key"] == key_of(row["experiment_id"], response_id)
        ]

    async def page(
        self, experiment_id: int, filters: Mapping[str, Any], *, before: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return responses of an experiment with these values of columns, newest first.

        `since` and `until` bound the time of arrival; `before` is the `seq` to go on from.
        """
        statement = _SHOWN.join(responses, _SAME).where(
            _KEYS.experiment_id == experiment_id, _KEYS.seq.is_not(None)
        )
        for name, value in filters.items():
            match name:
                case "since":
                    statement = statement.where(_TEXTS.received_at >= value)
                case "until":
                    statement = statement.where(_TEXTS.received_at < value)
                case _:
                    statement = statement.where(_TEXTS[name] == value)
        if before is not None:
            statement = statement.where(_KEYS.seq < before)
        return await self._read(statement.order_by(_KEYS.seq.desc()).limit(limit))

    async def waiting_feedback(self, *, limit: int) -> list[Row[Any]]:
        """Return the newest signals by `response_id` that do not count yet, or not at all."""
        columns = response_feedback.c
        statement = (
            select(response_feedback, experiments.c.key.label("experiment"))
            .outerjoin(experiments, experiments.c.id == columns.experiment_id)
            .order_by(columns.received_at.desc())
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return list(await connection.execute(statement))

    async def counts(self) -> dict[str, int]:
        """Return the number of signals by `response_id` in each state."""
        columns = response_feedback.c
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(columns.state, func.count()).group_by(columns.state))
            return {state: int(n) for state, n in rows}

    async def salts(self, key: str | None) -> dict[int, bytes]:
        """Return the salt of each experiment, or of the one with this key."""
        statement = select(experiments.c.id, experiments.c.salt)
        if key is not None:
            statement = statement.where(experiments.c.key == key)
        async with self._engine.connect() as connection:
            return {row.id: row.salt for row in await connection.execute(statement)}

    async def erase(self, unit_hashes: Mapping[int, int], at: datetime) -> int:
        """Delete the texts of a unit, given its hash in each experiment; return their number.

        What arrived before `at` and is stored later is stored without texts.
        """
        if not unit_hashes:
            return 0
        rows = [
            {"experiment_id": experiment_id, "unit_hash": unit_hash, "erased_at": at}
            for experiment_id, unit_hash in unit_hashes.items()
        ]
        note = postgresql.insert(response_erasures).values(rows)
        columns = response_erasures.c
        async with self._engine.begin() as connection:
            # Before the texts: a transaction that stores some meanwhile sees the note, or we see
            # its texts.
            await connection.execute(
                note.on_conflict_do_update(
                    index_elements=[columns.experiment_id, columns.unit_hash],
                    set_={"erased_at": func.greatest(columns.erased_at, note.excluded.erased_at)},
                )
            )
        async with self._engine.begin() as connection:
            erased = await connection.execute(
                update(responses)
                .where(_TEXTS.unit_hash.in_(list(unit_hashes.values())), _TEXTS.body.is_not(None))
                .where(_TEXTS.received_at <= at)
                .values(body=None, unit=None, session_id=None)
            )
            return int(erased.rowcount)

    async def _read(self, statement: Select[Any]) -> list[dict[str, Any]]:
        async with self._engine.connect() as connection:
            return [_shown(row) for row in await connection.execute(statement)]


def _shown(row: Row[Any]) -> dict[str, Any]:
    """Return the columns of a row with its texts and the key of its variant."""
    columns = row._asdict()
    frame = columns.pop("body")
    texts = Texts("") if frame is None else unpack(frame)
    variants: Sequence[Mapping[str, Any]] = columns.pop("variants")
    position = columns.pop("variant")
    return columns | {
        "variant": None if position is None else variants[position]["key"],
        "response": texts.response if frame is not None else None,
        "prompt": texts.prompt,
        "error": texts.error,
        "metadata": texts.metadata,
        "redacted": list(texts.redacted),
        "expired": columns["response_key"] is None,
        "erased": columns["response_key"] is not None and frame is None,
    }
