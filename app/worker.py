"""Composition of `wald worker`: all that is not a request."""

import os
import random
import socket
from contextlib import AsyncExitStack
from typing import Final

from litestar import Litestar
from litestar.di import Provide

from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.loop import AllocationLoop
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.core import limits, operations
from app.core.clock import SystemClock
from app.core.health import Check, Readiness, beat
from app.core.http import EXCEPTION_HANDLERS
from app.core.loops import Loop, Loops
from app.core.postgres import create_engine
from app.core.serving import Ending, serve_http
from app.core.settings import Settings
from app.core.valkey import create_client

NAME: Final = f"{socket.gethostname()}:{os.getpid()}"
