"""Settings that all processes share: the first start decides, and a difference is not silent."""

import asyncio

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete

from app.core import schema
from app.core.agreement import agree, agreed_settings, differences, read_agreed, store_agreed
from app.core.errors import Conflict
from app.core.migrations import head
from app.core.postgres import create_engine
from app.core.settings import Settings

pytestmark = pytest.mark.anyio


async def test_one_number_of_shards_wins_among_concurrent_starts(database_url):
    engines = [create_engine(database_url, pool_size=1) for _ in range(8)]
    try:
        shards = [2, 3, 2, 5, 2, 3, 2, 7]
        outcomes = await asyncio.gather(
            *(agree(engine, Settings(stream_shards=n)) for engine, n in zip(engines, shards, strict=True)),
            return_exceptions=True,
        )
        agreed = (await read_agreed(engines[0]))["stream_shards"]
        assert agreed in {str(n) for n in shards}
        for n, outcome in zip(shards, outcomes, strict=True):
            assert (outcome is None) == (str(n) == agreed)
            if outcome is not None:
                assert isinstance(outcome, Conflict)
                assert f"WALD_STREAM_SHARDS is {n} here, but {agreed} in the database" in outcome.detail
                assert f"wald settings set stream_shards {n}" in outcome.detail
    finally:
        for engine in engines:
            await engine.dispose()


async def test_the_same_start_again_changes_nothing(engine):
    for _ in range(3):
        await agree(engine, Settings(stream_shards=4))
    assert (await read_agreed(engine))["stream_shards"] == "4"
    assert differences(Settings(stream_shards=4), await read_agreed(engine)) == []


@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    starts=st.lists(
        st.builds(
            Settings,
            stream_shards=st.integers(1, 3),
            webhook_allowed_networks=st.sampled_from([(), ("10.0.0.0/8",), ("10.0.0.0/8", "fd00::/8")]),
            webhook_allowed_ports=st.sampled_from([(443,), (443, 9093)]),
        ),
        min_size=1,
        max_size=5,
    )
)
async def test_a_process_with_another_value_than_the_newest_start_reports_it(engine, starts):
    async with engine.begin() as connection:
        await connection.execute(delete(agreed_settings))
    accepted = []
    for one in starts:
        try:
            await agree(engine, one)
        except Conflict:
            assert one.stream_shards != accepted[0].stream_shards
        else:
            accepted.append(one)
    stored = await read_agreed(engine)
    assert differences(accepted[-1], stored) == []
    for one in accepted:
        differing = sum(
            getattr(one, name) != getattr(accepted[-1], name)
            for name in ("webhook_allowed_networks", "webhook_allowed_ports")
        )
        assert len(differences(one, stored)) == differing


async def test_the_next_start_must_match_a_changed_setting(engine):
    await agree(engine, Settings(stream_shards=2))
    await store_agreed(engine, "stream_shards", "4")
    await agree(engine, Settings(stream_shards=4))
    with pytest.raises(Conflict, match="but 4 in the database"):
        await agree(engine, Settings(stream_shards=2))


def test_revisions_are_read_from_the_names_of_the_migrations():
    assert schema.revisions()[-1] == head()
    assert schema.lacking(head()) is None
    assert schema.lacking("9999") is None  # of a newer version
    assert "run `wald migrate`" in (schema.lacking(None) or "")
    for older in schema.revisions()[:-1]:
        assert f"at revision {older}" in (schema.lacking(older) or "")
