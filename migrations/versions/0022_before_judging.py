"""Judge versions and their trust, judging rules, and judgements.

Before the code. The statements are those of app/judging/tables.py at this revision.
"""

from pathlib import Path

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_DROP = """
    DROP TABLE
        judgement_attempts, judgements, judging_spending, judging_counts, judging_reservoirs,
        judging_windows, judging_rules, judge_transitions, judge_versions
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_DROP)
