"""Add the tables of reviews and the scope `review` of API keys, before the code that uses them."""

from pathlib import Path

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_TABLES = Path(__file__).with_suffix(".sql")
_SCOPES = "ALTER TABLE api_keys ADD CONSTRAINT ck_api_keys_scopes_are_known CHECK (scopes <@ ARRAY[{}])"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("ALTER TABLE api_keys DROP CONSTRAINT ck_api_keys_scopes_are_known")
    op.execute(_SCOPES.format("'assign', 'feedback', 'read', 'review', 'admin'"))
    op.execute(_TABLES.read_text())


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(
        "DROP TABLE review_leases, reviews, review_items, review_strata, review_sampling, review_settings"
    )
    op.execute("UPDATE api_keys SET scopes = array_remove(scopes, 'review')")
    op.execute("ALTER TABLE api_keys DROP CONSTRAINT ck_api_keys_scopes_are_known")
    op.execute(_SCOPES.format("'assign', 'feedback', 'read', 'admin'"))
