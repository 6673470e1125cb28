"""initial schema before code

Runs before the code that needs it. Revision 0017, the first. It replaces revisions 0001 to 0017 from before
the first release, so a database at revision 0017 is up to date.
"""

from pathlib import Path

from alembic import op

revision = "0017"
down_revision = None
branch_labels = None
depends_on = None


_DROP = """
    DROP TABLE
        webhook_attempts, rollout_decisions, webhook_deliveries, warm_starts, rollouts, readouts,
        published_experiments, publications, kills, freezes, epochs, allocations, webhook_messages,
        webhook_endpoints, unit_totals, unit_signals, totals, stream_positions, signing_keys, signals,
        signal_totals, shared_clock, policy_totals, overdue_assignments, metric_totals, metric_series,
        horizons, experiments, ended_sessions, draws, dead_letters, assignments, api_keys,
        agreed_settings, access_changes
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_DROP)
