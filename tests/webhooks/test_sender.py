"""Requests to real receivers, some of them hostile, and connections that must not be made."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.webhooks import limits
from app.webhooks.adapters import Post
from app.webhooks.destination import NetworkPolicy
from app.webhooks.schedule import Answer
from app.webhooks.sender import Sender
from tests.support.receiver import answer
from tests.support.receiver import receiver as running_receiver

pytestmark = pytest.mark.anyio

POST = Post({"Content-Type": "application/json", "webhook-id": "msg_1"}, b'{"type":"a"}')
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SOON_S = 0.3


class Recorder(httpcore2.AsyncNetworkBackend):
    """Notes where it should connect to, and does not."""

    def __init__(self):
        self.addresses = []

    async def connect_tcp(self, host, port, *_):
        self.addresses.append((host, port))
        raise httpcore2.ConnectError("nobody is there")


class Names:
    """Answers one list of addresses after the other for whatever name."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append(host)
        return self.answers.pop(0)


async def test_the_post_arrives_as_it_was_made_and_the_status_comes_back(sender, receiver):
    assert await sender.send(receiver.url + "?a=b", POST) == Answer(204)
    (received,) = receiver.received
    assert (received.method, received.target, received.body) == ("POST", "/hook?a=b", POST.body)
    assert received.headers["webhook-id"] == "msg_1"
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_a_redirect_is_an_answer_and_not_followed(sender, receiver):
    for status in (301, 302, 303, 307, 308):
        receiver.replies = [answer(status, f"Location: {receiver.url}/other\r\n")]
        assert (await sender.send(receiver.url, POST)).status == status
    assert len(receiver.received) == receiver.connections == 5


async def test_retry_after_of_the_receiver_is_read(sender, receiver, clock):
    in_a_minute = (clock.now() + timedelta(minutes=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    receiver.replies = [answer(503, "Retry-After: 7\r\n"), answer(429, f"retry-after: {in_a_minute}\r\n")]
    assert await sender.send(receiver.url, POST) == Answer(503, "answered 503", 7.0)
    assert await sender.send(receiver.url, POST) == Answer(429, "answered 429", 60.0)


async def test_a_body_without_end_is_cut_off_and_its_status_counts(sender, receiver):
    written, cut_off = 0, asyncio.Event()

    async def gigabyte(writer):
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while written < 1_000_000_000:
                writer.write(bytes(65_536))
                await writer.drain()
                written += 65_536
        except ConnectionError:
            cut_off.set()

    receiver.replies = [gigabyte]
    assert await sender.send(receiver.url, POST) == Answer(200)
    async with asyncio.timeout(10):
        await cut_off.wait()
    assert written < 50_000_000  # what the kernel's buffers took


async def test_no_more_than_the_limit_is_read_from_the_connection(receiver, policy, clock):
    """In whatever pieces it comes: here some headers first, and the rest after they were read."""
    taken, some_read = 0, asyncio.Event()

    class Counting(httpcore2.AnyIOBackend):
        async def connect_tcp(self, *arguments):
            stream = await super().connect_tcp(*arguments)
            read = stream.read

            async def counted(*arguments):
                nonlocal taken
                data = await read(*arguments)
                taken += len(data)
                some_read.set()
                return data

            stream.read = counted
            return stream

    for head in (b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n80000\r\n", b"X: "):
        taken = 0
        some_read.clear()

        async def long(writer, head=head):
            writer.write(b"HTTP/1.1 500 No\r\n")
            await some_read.wait()
            writer.write(head + b"a" * 600_000)
            await writer.drain()

        receiver.replies = [long]
        got = await Sender(policy, clock, network=Counting()).send(receiver.url, POST)
        assert got.status == (None if head == b"X: " else 500)
        assert taken == limits.WEBHOOK_ANSWER_BYTES_MAX


async def test_a_body_that_drips_does_not_hold_the_worker_and_its_status_counts(receiver, policy, clock):
    async def drip(writer):
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.01)

    receiver.replies = [drip]
    got = await Sender(policy, clock, timeout_s=SOON_S).send(receiver.url, POST)
    assert got == Answer(500, "answered 500")


async def test_slow_headers_are_no_answer(receiver, policy, clock):
    async def drip(writer):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)

    receiver.replies = [drip]
    got = await Sender(policy, clock, timeout_s=SOON_S).send(receiver.url, POST)
    assert got == Answer(None, "no answer within 0.3 s")


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.6\r\n", b"\0" * 100]
)
async def test_a_reply_that_is_not_http_is_no_answer(sender, receiver, reply):
    async def write(writer):
        writer.write(reply)

    receiver.replies = [write]
    got = await sender.send(receiver.url, POST)
    assert got.status is None
    assert got.error


async def test_an_absent_receiver_gives_no_answer(policy, clock):
    async with running_receiver() as gone:
        url, allowed = gone.url, frozenset({gone.port})
    got = await Sender(NetworkPolicy(LOOPBACK, allowed), clock).send(url, POST)
    assert got.status is None
    assert "ConnectError" in got.error


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127。0。0。1",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_no_connection_is_opened_to_this_machine(clock, host, scheme):
    """Also when the check of the URL has missed something: nothing but the connection is asked here."""
    async with running_receiver("127.0.0.1") as four, running_receiver("::1") as six:
        for listening in (four, six):
            policy = NetworkPolicy(ports=frozenset({listening.port}))
            got = await Sender(policy, clock).send(f"{scheme}://{host}:{listening.port}/", POST)
            assert got.status is None
            assert got.error.startswith("not sent: ")
        assert four.connections == six.connections == 0


async def test_the_metadata_address_is_not_connected_to(clock):
    network = Recorder()
    for host in ("169.254.169.254", "2852039166", "[fd00:ec2::254]", "[::ffff:a9fe:a9fe]"):
        got = await Sender(NetworkPolicy(), clock, network=network).send(f"https://{host}/latest", POST)
        assert "not allowed" in got.error
    assert network.addresses == []


async def test_a_name_with_one_private_address_among_public_ones_is_refused(clock):
    network, names = Recorder(), Names(["93.184.216.34", "127.0.0.1"])
    sender = Sender(NetworkPolicy(), clock, resolve=names, network=network)
    got = await sender.send("https://rebind.example/", POST)
    assert got.error == "not sent: rebind.example has the address 127.0.0.1, which is not allowed"
    assert network.addresses == []


async def test_a_name_is_resolved_only_once(clock):
    """The connection goes to the address that was checked, whatever the name says a moment later."""
    network, names = Recorder(), Names(["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"])
    sender = Sender(NetworkPolicy(), clock, resolve=names, network=network)
    await sender.send("https://rebind.example/", POST)
    assert names.asked == ["rebind.example"]
    assert network.addresses == [("93.184.216.34", 443)]
    await sender.send("https://rebind.example/", POST)
    assert network.addresses == [("93.184.216.34", 443)]


async def test_when_one_address_does_not_answer_the_next_is_tried(clock):
    network, names = Recorder(), Names(["2606:4700::1111", "1.1.1.1"])
    got = await Sender(NetworkPolicy(), clock, resolve=names, network=network).send(
        "https://a.example/", POST
    )
    assert got.error == "ConnectError: nobody is there"
    assert [address for address, _ in network.addresses] == ["2606:4700::1111", "1.1.1.1"]


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b", "nowhere.invalid"])
async def test_a_name_without_an_address_gives_no_answer(clock, host):
    network = Recorder()
    got = await Sender(NetworkPolicy(), clock, network=network).send(f"https://{host}/", POST)
    assert got.status is None
    assert network.addresses == []


async def test_a_port_that_is_not_allowed_is_not_connected_to(clock):
    network = Recorder()
    got = await Sender(NetworkPolicy(), clock, network=network).send("https://1.1.1.1:6379/", POST)
    assert got.error == "not sent: port 6379 is not allowed"
    assert network.addresses == []


async def test_proxies_of_the_environment_are_not_used(sender, receiver, monkeypatch):
    async with running_receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await sender.send(receiver.url, POST)).status == 204
        assert proxy.connections == 0


async def test_https_is_to_the_name_with_a_certificate_that_is_valid_for_it(clock, tmp_path):
    server, client = certified("hooks.example", tmp_path)
    async with running_receiver(tls=server) as secure:
        policy = NetworkPolicy(LOOPBACK, frozenset({secure.port}))
        sender = Sender(policy, clock, resolve=Names(["127.0.0.1"], ["127.0.0.1"]), tls=client)
        assert (await sender.send(f"https://hooks.example:{secure.port}/", POST)).status == 204
        got = await sender.send(f"https://other.example:{secure.port}/", POST)
        assert "CERTIFICATE_VERIFY_FAILED" in got.error
        assert len(secure.received) == 1


def certified(name, folder):
    """Contexts of a server with a certificate for `name`, and of a client that trusts its issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "certificate.pem", folder / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, private)
    return server, ssl.create_default_context(cafile=str(chain))
