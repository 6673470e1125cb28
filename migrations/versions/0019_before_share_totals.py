"""Keep units by the stratum of their shares, for comparisons under policies that react to outcomes.

Before the code, which writes the new columns and the table. `wald rebuild` fills them for what is stored.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(
        "ALTER TABLE unit_totals ADD COLUMN stratum SMALLINT, ADD COLUMN weight BIGINT;"
        " COMMENT ON COLUMN unit_totals.stratum"
        " IS 'of its first exposed assignment; null, -1: shares follow no outcome';"
        " COMMENT ON COLUMN unit_totals.weight IS '1 / propensity of its first exposed assignment, nano'"
    )
    op.execute(
        "ALTER TABLE epochs ADD COLUMN n_variants SMALLINT;"
        " COMMENT ON COLUMN epochs.n_variants IS 'null: as many as the experiment has now'"
    )
    op.execute(
        "CREATE TABLE share_totals ("
        " experiment_id INTEGER NOT NULL, epoch INTEGER NOT NULL, stratum SMALLINT NOT NULL,"
        " variant SMALLINT NOT NULL, body BYTEA NOT NULL,"
        " CONSTRAINT pk_share_totals PRIMARY KEY (experiment_id, epoch, stratum, variant));"
        " COMMENT ON COLUMN share_totals.body"
        " IS 'exact sums of each metric and 1 / propensity; empty: none'"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE share_totals")
    op.execute("ALTER TABLE epochs DROP COLUMN n_variants")
    op.execute("ALTER TABLE unit_totals DROP COLUMN stratum, DROP COLUMN weight")
