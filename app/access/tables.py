"""Tables of access: API keys (hashed) and the secrets that sign assignment ids."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    Identity,
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
    Column("hint", Text, nullable=False, comment="its first letters and last four, to tell keys apart"),
    Column("digest", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the key"),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("octet_length(digest) = 32", name="digest_is_sha256"),
    CheckConstraint("scopes <@ ARRAY['assign', 'feedback', 'read', 'admin']", name="scopes_are_known"),
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
