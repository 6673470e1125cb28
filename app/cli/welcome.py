"""The keys that the first start of `wald up` creates, and the lines that every start prints."""

from pathlib import Path
from typing import Final

import rich_click as click
from rich.console import Console
from rich.markup import escape

from app.access.service import AccessService
from app.access.store import AccessStore
from app.core.agreement import agree
from app.core.clock import SystemClock
from app.core.errors import Unavailable
from app.core.postgres import create_engine
from app.core.settings import Settings
from app.core.valkey import create_client

KEY_FILE: Final = "admin-key"
_ERR: Final = Console(stderr=True, highlight=False)


async def ensure_keys(settings: Settings, valkey_url: str, database_url: str) -> None:
    """Create the signing key and the admin key if they are missing. Keep the admin key in the data folder.

    A new admin key is printed, once. Raises Conflict if a setting differs from that of the deployment;
    Unavailable if the data folder cannot be written.
    """
    engine, valkey = create_engine(database_url), create_client(valkey_url)
    try:
        await agree(engine, settings)
        access = AccessService(AccessStore(engine, valkey), SystemClock())
        await access.ensure_signing_key()
        made = await access.ensure_admin_key(settings.admin_key)
    finally:
        await valkey.aclose()
        await engine.dispose()
    if made is not None:
        _ERR.print(f"\n[bold]Admin key[/], shown only now: [bold green]{made}[/]", soft_wrap=True)
    if (key := made or settings.admin_key) is not None:
        _keep(settings.data_dir / KEY_FILE, key)


def _keep(path: Path, key: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)  # as the engines make it
        path.touch(mode=0o600)
        path.write_text(f"{key}\n")
    except OSError as error:
        raise Unavailable(
            f"cannot keep the admin key in {path}: {error.strerror}; choose another --data-dir"
        ) from error


def kept_key(settings: Settings) -> str | None:
    """Return the admin key of this data folder, if there is one."""
    path = settings.data_dir / KEY_FILE
    return path.read_text().strip() if path.is_file() else None


async def greet(settings: Settings, url: str, *, demo: bool) -> None:
    """Print the address, and lines to paste. With `demo`, send demo traffic until cancelled."""
    key = kept_key(settings)
    if demo and key:
        # These load as much as the rest of this process.
        from app.cli.client import WaldClient
        from app.cli.traffic.demo import TRICKLE_EXPERIMENT, trickle

        _tell(settings, url, key, TRICKLE_EXPERIMENT, define=False)
        async with WaldClient(url, key) as client:
            await trickle(client)
        return
    _tell(settings, url, key, "my-experiment", define=True)
    if demo:
        _ERR.print(f"No demo: {settings.data_dir / KEY_FILE} is missing; run `wald demo --key KEY`.")


def _tell(settings: Settings, url: str, key: str | None, experiment: str, *, define: bool) -> None:
    key_file = (settings.data_dir / KEY_FILE).resolve() if key else None
    where = f"sign in with the admin key in {key_file}" if key_file else "sign in with an API key"
    _ERR.print(f"\nWald is ready. The page: [bold]{url}/[/] ({escape(where)})\n", soft_wrap=True)
    for line in _lines(url, key_file, experiment, define=define):
        click.echo(line)
    _ERR.print("\nCtrl-C stops everything in order.")


def _lines(url: str, key_file: Path | None, experiment: str, *, define: bool) -> list[str]:
    """Return three calls: to define, start and assign; or to assign, give feedback and read the status."""
    key = f"$(cat '{key_file}')" if key_file else "$WALD_KEY"
    curl = f'curl -s -H "Authorization: Bearer {key}"'
    if define:
        variants = '[{"key": "control", "control": true}, {"key": "new"}]'
        definition = f'{{"key": "{experiment}", "variants": {variants}}}'
        return [
            f"{curl} -H 'Content-Type: application/json' {url}/experiments -d '{definition}'",
            f"{curl} -X POST {url}/experiments/{experiment}/start",
            f"{curl} '{url}/assign?experiment={experiment}&unit=user-1'",
        ]
    event = f'{{"experiment": "{experiment}", "unit": "user-1", "signal": "thumbs_up"}}'
    return [
        f"{curl} '{url}/assign?experiment={experiment}&unit=user-1'",
        f"{curl} -H 'Content-Type: application/json' {url}/feedback -d '{event}'",
        f"{curl} {url}/experiments/{experiment}/status",
    ]
