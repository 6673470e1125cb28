"""Configuration from the environment."""

from pathlib import Path

import pytest

from app.core.errors import InvalidInput
from app.core.settings import Durability, Settings


def test_networks_and_ports_are_separated_by_commas():
    settings = Settings.load(
        {"WALD_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/8, fd00::/8,", "WALD_WEBHOOK_ALLOWED_PORTS": "443,9093"}
    )
    assert settings.webhook_allowed_networks == ("10.0.0.0/8", "fd00::/8")
    assert settings.webhook_allowed_ports == (443, 9093)


def test_without_any_only_the_port_of_https_is_allowed():
    settings = Settings.load({})
    assert (settings.webhook_allowed_networks, settings.webhook_allowed_ports) == ((), (443,))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            data_dir=Path("/a b"),
            valkey_url="redis://v",
            durability=Durability.ACCEPTED,
            workers=3,
            admin_key="1234567890123456",
            webhook_allowed_networks=("10.0.0.0/8", "fd00::/8"),
            webhook_allowed_ports=(443, 9093),
            trusted_proxies=("127.0.0.1/32", "10.0.0.0/8"),
            operations_port=9_100,
            access_log=True,
        ),
    ],
)
def test_children_read_the_settings_that_their_parent_passes(settings):
    assert Settings.load(settings.environment()) == settings


@pytest.mark.parametrize(
    "environment",
    [
        {"WALD_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.1/8"},
        {"WALD_WEBHOOK_ALLOWED_NETWORKS": "everything"},
        {"WALD_WEBHOOK_ALLOWED_PORTS": "0"},
        {"WALD_WEBHOOK_ALLOWED_PORTS": "443,x"},
        {"WALD_TRUSTED_PROXIES": "10.0.0.1/8"},
        {"WALD_OPERATIONS_PORT": "65536"},
        {"WALD_ACCESS_LOG": "perhaps"},
        {"WALD_LOG_LEVEL": "loud"},
        {"WALD_DATABASE_URL": "mysql://h/db"},
        {"WALD_VALKEY_URL": "redis://h:port"},
    ],
)
def test_a_value_that_cannot_be_used_is_refused_at_start(environment):
    with pytest.raises(InvalidInput, match="configuration"):
        Settings.load(environment)
