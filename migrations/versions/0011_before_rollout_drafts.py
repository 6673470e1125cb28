"""rollout drafts before code

Runs before the code that needs it. Revision 0011, after 0010.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATES = "{{kind: {}running | paused | rolled_back | completed, ...}}"
KNOWN = "state ->> 'kind' IN ({}'running', 'paused', 'rolled_back', 'completed')"


def upgrade() -> None:
    _become("draft | ", "'draft', ", "; 0: a draft")


def downgrade() -> None:
    op.execute("DELETE FROM rollouts WHERE state ->> 'kind' = 'draft'")
    _become("", "", "")


def _become(state: str, known: str, epoch: str) -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_constraint(op.f("ck_rollouts_state_is_known"), "rollouts", type_="check")
    op.create_check_constraint(op.f("ck_rollouts_state_is_known"), "rollouts", KNOWN.format(known))
    op.alter_column("rollouts", "state", comment=STATES.format(state))
    op.alter_column("rollouts", "epoch", comment=f"the first one of its data{epoch}")
