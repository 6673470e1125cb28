"""Embedded engines: real Valkey and real PostgreSQL on one data folder, as our own children."""

from app.core.engines.embedded import EmbeddedEngines
from app.core.engines.postgres_server import PostgresServer
from app.core.engines.valkey_server import ValkeyServer

__all__ = ["EmbeddedEngines", "PostgresServer", "ValkeyServer"]
