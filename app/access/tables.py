"""Tables of access: hashed API keys, signing secrets, their changes, and ended sessions."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY

from app.core.postgres import METADATA

api_keys = Table(
    "api_keys",
    METADATA,
    Column("id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="where it may be held: cli | srv | adm"),
    Column("hint", Text, nullable=False, comment="its first letters and last four, to tell keys apart"),
    Column("digest", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the key"),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("octet_length(digest) = 32", name="digest_is_sha256"),
    CheckConstraint("kind IN ('cli', 'srv', 'adm')", name="kind_is_known"),
    CheckConstraint(
        "scopes <@ ARRAY['assign', 'feedback', 'read', 'review', 'admin']", name="scopes_are_known"
    ),
)

signing_keys = Table(
    "signing_keys",
    METADATA,
    Column(
        "id", SmallInteger, primary_key=True, autoincrement=False, comment="stands in every assignment id"
    ),
    Column("secret", LargeBinary, nullable=False, comment="AES-128 key of the CMAC"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("retired_at", DateTime(timezone=True), comment="from then on its signatures are refused"),
    CheckConstraint("id BETWEEN 1 AND 255", name="id_fits_a_byte"),
    CheckConstraint("octet_length(secret) = 16", name="secret_is_aes128"),
)

access_changes = Table(
    "access_changes",
    METADATA,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one row"),
    Column("revision", BigInteger, nullable=False, comment="+1 with every change; its lock orders them"),
    CheckConstraint("id = 1", name="one_row"),
)

ended_sessions = Table(
    "ended_sessions",
    METADATA,
    Column("digest", LargeBinary, primary_key=True, comment="SHA-256 of the session's token"),
    Column("ends_at", DateTime(timezone=True), nullable=False, comment="then it would have ended by itself"),
    Index(None, "ends_at"),
    CheckConstraint("octet_length(digest) = 32", name="digest_is_sha256"),
)
"""Sessions of the pages that were signed out."""
