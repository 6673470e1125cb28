"""Which URLs may be given, and which addresses are connected to."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInput
from app.webhooks.destination import Destination, NetworkPolicy, is_public, literal, unmapped

PUBLIC_ONLY = NetworkPolicy()
INTERNAL = NetworkPolicy.of(["10.1.0.0/16", "fd00::/8"], [443, 9093])

NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",  # metadata of clouds
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
OF_SOMEBODY = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_private_addresses_are_not_connected_to(address):
    assert not PUBLIC_ONLY.permits(address, secure=True)


@pytest.mark.parametrize("address", OF_SOMEBODY)
def test_public_addresses_are_connected_to_by_https_only(address):
    assert PUBLIC_ONLY.permits(address, secure=True)
    assert not PUBLIC_ONLY.permits(address, secure=False)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::1"])
def test_an_allowed_network_is_also_reached_by_http(address):
    assert INTERNAL.permits(address, secure=True)
    assert INTERNAL.permits(address, secure=False)


@pytest.mark.parametrize("address", ["10.2.0.1", "127.0.0.1", "::1", "169.254.169.254", "nonsense", ""])
def test_an_allowed_network_allows_no_other_address(address):
    assert not INTERNAL.permits(address, secure=True)


@given(st.ip_addresses(v=4))
def test_an_ipv6_address_with_an_ipv4_inside_is_checked_as_ipv4(address):
    number = int(address)
    disguises = [
        ip_address((0xFFFF << 32) + number),  # ::ffff:0:0/96
        ip_address((0x64FF9B << 96) + number),  # 64:ff9b::/96
        ip_address((0x2002 << 112) + (number << 80) + 1),  # 2002::/16
    ]
    for disguise in disguises:
        assert unmapped(disguise) == address
        assert PUBLIC_ONLY.permits(str(disguise), secure=True) == is_public(address)


@given(st.ip_addresses())
def test_no_private_address_is_ever_public(address):
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not is_public(unmapped(address)) or unmapped(address) != address


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
    ],
)
def test_the_loopback_is_recognised_in_every_spelling(host):
    assert literal(host) == "127.0.0.1"
    with pytest.raises(InvalidInput, match=r"not a public address|Invalid IPv4 address") as caught:
        PUBLIC_ONLY.check_url(f"https://{host}/hook")
    assert caught.value.errors[0].field == "url"


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4.5", "a", "127.0.0.1.example.com", "0x"])
def test_a_name_is_not_an_address(host):
    assert literal(host) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://[::1]/", "not a public address"),
        ("https://[::ffff:127.0.0.1]/", "not a public address"),
        ("https://[64:ff9b::7f00:1]/", "not a public address"),
        ("https://169.254.169.254/latest/meta-data", "not a public address"),
        ("https://127。0。0。1/", "not a public address"),
        ("http://example.com/", "must be https"),
        ("ftp://example.com/", "absolute https URL"),
        ("unix:/var/run/docker.sock", "absolute https URL"),
        ("http+unix://%2Fvar%2Frun%2Fdocker.sock/", "absolute https URL"),
        ("file:///etc/passwd", "absolute https URL"),
        ("//example.com/", "absolute https URL"),
        ("example.com", "absolute https URL"),
        ("", "absolute https URL"),
        ("https:///path", "absolute https URL"),
        ("https://user:secret@example.com/", "user name or password"),
        ("https://example.com\\@127.0.0.1/", "user name or password"),
        ("https://example.com/#fragment", "fragment"),
        ("https://example.com:8443/", "port 8443 is not allowed; 443 is"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "port 99999"),
        ("https://exa mple.com/", "valid host"),
        ("https://%31%32%37.0.0.1/", "valid host"),
        ("https://[fe80::1%25eth0]/", "valid host"),
        ("https://example.com/\n", "not a URL"),
        ("https://example.com:x/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://example.com/" + "a" * 3_000, "at most 2048"),
    ],
)
def test_a_url_that_is_not_permitted_is_refused_with_the_reason(url, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        PUBLIC_ONLY.check_url(url)
    assert caught.value.errors[0].field == "url"


@pytest.mark.parametrize(
    "url",
    ["https://example.com", "https://example.com:443/a?b=c", "HTTPS://8.8.8.8/", "https://exämple.de/ä"],
)
def test_a_public_https_url_is_fine(url):
    assert PUBLIC_ONLY.check_url(url).port == 443


@given(st.text(max_size=50) | st.text(max_size=50).map("https://".__add__))
def test_any_text_is_a_destination_or_refused_by_name(url):
    try:
        destination = PUBLIC_ONLY.check_url(url)
    except InvalidInput as error:
        refused = error
    else:
        assert destination.scheme == "https"
        assert destination.target.startswith("/")
        return
    assert [one.field for one in refused.errors] == ["url"]


def test_http_is_for_allowed_networks_and_their_ports():
    assert INTERNAL.check_url("http://10.1.2.3:9093/api/v2/alerts") == Destination(
        "http", "10.1.2.3", 9093, "/api/v2/alerts"
    )
    assert INTERNAL.check_url("http://alertmanager.internal:9093/").host == "alertmanager.internal"
    with pytest.raises(InvalidInput, match="not a public address"):
        INTERNAL.check_url("http://8.8.8.8:9093/")


def test_a_policy_is_made_of_networks():
    assert INTERNAL.allowed == (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    with pytest.raises(ValueError, match=r"10\.1\.0\.1/16"):
        NetworkPolicy.of(["10.1.0.1/16"], [443])
