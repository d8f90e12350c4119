"""One call of a webhook. Real: the resolver, TCP, TLS with certificates made here, servers on this machine's loopback.

Not real: the far end's manners, which are as bad as each test needs.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from byteport.core.errors import Temporary
from incidents.escalation.channel import Undeliverable
from incidents.outgoing import post as post_module
from incidents.outgoing.post import Call, post

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def call(url: str, *, private: bool = True) -> Call:
    return Call(url, private, "secret", {"X-BytePort-Event": "test"}, b'{"version": 1}')


@contextmanager
def listening(manners: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection after another, whatever `manners` does with each. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        manners(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def certificate(name: str, folder) -> tuple[str, str]:
    """A self-signed one for this name; the files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC) - timedelta(days=1))
    builder = builder.not_valid_after(datetime.now(UTC) + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made, paths = builder.sign(key, hashes.SHA256()), (folder / "cert.pem", folder / "key.pem")
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return str(paths[0]), str(paths[1])


@pytest.fixture
def trusting(monkeypatch):
    """Has the system's trust be in one certificate."""

    def trust(path: str) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        post_module._trust.cache_clear()

    post_module._trust.cache_clear()
    yield trust
    post_module._trust.cache_clear()


def tls(files: tuple[str, str], asked_for: list[str | None]) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)

    def manners(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(65536)
            wrapped.sendall(OK)

    return manners


def test_over_tls_the_name_is_asked_for_and_proved_though_the_address_is_connected_to(tmp_path, trusting):
    files, asked_for = certificate("localhost", tmp_path), []
    trusting(files[0])
    with listening(tls(files, asked_for)) as port:
        assert post(call(f"https://localhost:{port}/x")) == "200 ok"
    assert asked_for == ["localhost"]


def test_a_certificate_of_nobody_is_not_trusted(tmp_path, trusting):
    with listening(tls(certificate("localhost", tmp_path), [])) as port, pytest.raises(Temporary, match="certificate"):
        post(call(f"https://localhost:{port}/x"))


def test_a_certificate_of_another_name_is_not_trusted(tmp_path, trusting):
    files = certificate("elsewhere.example", tmp_path)
    trusting(files[0])
    with listening(tls(files, [])) as port, pytest.raises(Temporary, match="certificate"):
        post(call(f"https://localhost:{port}/x"))


def drip(connection: socket.socket) -> None:
    """A byte now and then, for ever: no time-out of a socket ends that."""
    connection.recv(65536)
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 10_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def test_an_answer_that_drips_is_cut_off(monkeypatch):
    monkeypatch.setattr(post_module, "ANSWER_S", 0.4)
    with listening(drip) as port, pytest.raises(Temporary, match="in time"):
        post(call(f"http://localhost:{port}/"))


def silence(connection: socket.socket) -> None:
    connection.settimeout(10)
    while connection.recv(65536):
        pass


def test_silence_is_cut_off(monkeypatch):
    monkeypatch.setattr(post_module, "ANSWER_S", 0.3)
    with listening(silence) as port, pytest.raises(Temporary, match="in time"):
        post(call(f"http://localhost:{port}/"))


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 999999 ?\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"],
    ids=["hangs up", "no HTTP", "no status", "too many headers"],
)
def test_what_is_no_answer_may_become_one(answer):
    def manners(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with listening(manners) as port, pytest.raises(Temporary):
        post(call(f"http://localhost:{port}/"))


def test_an_answer_in_no_characters_is_shown_as_text():
    def manners(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 20\r\n\r\n\xff\x00\x1b[31m<b>\r\n\xe2\x80\xaeabcdef")

    with listening(manners) as port, pytest.raises(Undeliverable) as refused:
        post(call(f"http://localhost:{port}/"))
    assert str(refused.value).isprintable()


def test_no_proxy_is_asked(monkeypatch):
    asked: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))

    def manners(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK)

    with listening(proxy) as proxy_port, listening(manners) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy_port}")
        assert post(call(f"http://localhost:{port}/")) == "200 ok"
    assert asked == []
