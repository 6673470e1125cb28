"""A new key is known to every server at once, and a revoked one refused by every server within seconds."""

from pathlib import Path

import httpx2

from tests.support.polling import wait_until
from tests.support.server import up

REVOKED_WITHIN_S = 5


def test_a_revoked_key_is_refused_by_all_servers_within_five_seconds(tmp_path: Path):
    with up(tmp_path / "data", workers=2) as wald, wald.client() as client:
        for _ in range(20):
            made = client.post("/keys", json={"name": "k", "kind": "srv"}).raise_for_status().json()
            header = {"Authorization": f"Bearer {made['secret']}"}
            answer = httpx2.get(f"{wald.url}/experiments", headers=header, timeout=5, verify=False)
            assert answer.status_code == 200

        def status() -> int:
            """Of a new connection, which any of the servers may take."""
            address = f"{wald.url}/experiments"
            return httpx2.get(address, headers=header, timeout=5, verify=False).status_code

        assert {status() for _ in range(10)} == {200}
        client.delete(f"/keys/{made['key']['id']}").raise_for_status()
        wait_until(lambda: {status() for _ in range(10)} == {401}, within_s=REVOKED_WITHIN_S)
        assert {status() for _ in range(50)} == {401}
