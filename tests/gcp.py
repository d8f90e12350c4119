"""Google Cloud at the far end of the wire: Cloud Monitoring over gRPC and TLS, with the service's own messages, and
Compute Engine's instances over HTTP.

Monitoring knows series of raw measurements, and does with them what Google does: filters, aligns from the end of what
is asked for, tells the newest point first, and cuts pages by points, also through a series. The account's key is of the
tests' own making; the client library signs its tokens with it and checks the certificate, for real.
"""

import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud.monitoring_v3 import ListTimeSeriesRequest, ListTimeSeriesResponse
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from byteport.clients import gcp as client
from byteport.clients import gcp_compute, gcp_monitoring

PROJECT, ACCOUNT = "shop-prod-1", "byteport@shop-prod-1.iam.gserviceaccount.com"
PEM, PKCS8, PLAIN = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
CLAUSE = re.compile(r'(metric|resource)\.(type|labels\.\w+) = "([^"]*)"')


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def certificate() -> bytes:
    begin, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key().public_key())
        .serial_number(1).not_valid_before(begin).not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key(), hashes.SHA256())
    )  # fmt: skip
    return built.public_bytes(PEM)


@cache
def roots() -> str:
    """gRPC reads the certificates that it trusts once a process."""
    path = Path(mkdtemp()) / "roots.pem"
    path.write_bytes(certificate())
    os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(path)
    return str(path)


def key_file(folder: Path) -> str:
    pem = key().private_bytes(PEM, PKCS8, PLAIN).decode()
    given = {"type": "service_account", "project_id": PROJECT, "private_key_id": "1", "private_key": pem,
             "client_email": ACCOUNT, "client_id": "1", "token_uri": "http://127.0.0.1:1/token"}  # fmt: skip
    path = folder / "key.json"
    path.write_text(json.dumps(given))
    return str(path)


class Monitoring:
    """What it knows, by metric: labels, unit, measurements; and what was asked of it."""

    def __init__(self) -> None:
        self.series, self.asked, self.tokens = {}, [], []
        self.refusal, self.raw, self.points_a_page = None, None, 0

    def add(self, metric, *values, at, unit="%", resource="gce_instance", instance_id="4520031799277581759", **labels):
        """`values`: a measurement a minute, each in the middle of its minute; the last one's minute began `at`."""
        times = [at + timedelta(seconds=30) - timedelta(minutes=len(values) - 1 - n) for n in range(len(values))]
        told = {"project_id": PROJECT, "zone": "europe-west3-a", "instance_id": instance_id}
        series = (resource, told, labels, unit, list(zip(times, values, strict=True)))
        self.series.setdefault(metric, []).append(series)

    def refuse(self, code, message, retry_s=None):
        self.refusal = (code, message, retry_s)

    def list_time_series(self, request, context):
        self.asked.append(request)
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer "))
        if self.refusal:
            refuse(context, *self.refusal)
        if self.raw is not None:
            return self.raw
        clauses = {f"{what}.{name}": value for what, name, value in CLAUSE.findall(request.filter)}
        known = self.series.get(clauses["metric.type"])
        if known is None:
            told = f'Cannot find metric(s) that match type = "{clauses["metric.type"]}".'
            context.abort(grpc.StatusCode.NOT_FOUND, told)
        return paged([aligned(each, request) for each in known if matches(each, clauses)], known[0][3], request,
                     self.points_a_page)  # fmt: skip


def refuse(context, code, message, retry_s):
    if retry_s is None:
        context.abort(code, message)
    detail = Any()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=retry_s)))
    context.abort_with_status(rpc_status.to_status(Status(code=RESOURCE_EXHAUSTED, message=message, details=[detail])))


def matches(series, clauses) -> bool:
    resource, told, labels, _, _ = series
    has = {"resource.type": resource, **{f"resource.labels.{k}": v for k, v in told.items()},
           **{f"metric.labels.{k}": v for k, v in labels.items()}}  # fmt: skip
    return all(has.get(name) == value for name, value in clauses.items() if name != "metric.type")


def aligned(series, request):
    """Its averages, the newest first. A period is (end - length, end], and they are counted from the end."""
    resource, told, labels, _, measured = series
    length = request.aggregation.alignment_period
    assert request.aggregation.per_series_aligner.name == "ALIGN_MEAN"
    points, end = [], request.interval.end_time
    while end > request.interval.start_time:
        values = [value for at, value in measured if end - length < at <= end]
        if values:
            when = {"start_time": end, "end_time": end}
            points.append({"interval": when, "value": {"double_value": sum(values) / len(values)}})
        end -= length
    return resource, told, labels, points


def paged(listed, unit, request, points_a_page):
    size, skipped = points_a_page or request.page_size, int(request.page_token or 0)
    flat = [(n, point) for n, (_, _, _, points) in enumerate(listed) for point in points]
    answer = ListTimeSeriesResponse(unit=unit)
    for n in sorted({n for n, _ in flat[skipped : skipped + size]}):
        resource, told, labels, _ = listed[n]
        answer.time_series.append({
            "metric": {"type": "x", "labels": labels}, "resource": {"type": resource, "labels": told},
            "points": [point for m, point in flat[skipped : skipped + size] if m == n],
        })  # fmt: skip
    answer.next_page_token = str(skipped + size) if skipped + size < len(flat) else ""
    return answer


@contextmanager
def monitoring(folder: Path) -> Iterator[Monitoring]:
    """The service, and this process pointing at it, with the key of an account that is let in."""
    roots()
    far = Monitoring()
    handler = grpc.unary_unary_rpc_method_handler(
        far.list_time_series, ListTimeSeriesRequest.deserialize, ListTimeSeriesResponse.serialize
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("google.monitoring.v3.MetricService", {"ListTimeSeries": handler})]
    )
    pair = (key().private_bytes(PEM, PKCS8, PLAIN), certificate())
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    server.start()
    with account(folder) as monkeypatch:
        monkeypatch.setattr(gcp_monitoring, "ENDPOINT", f"localhost:{port}")
        yield far
    server.stop(None).wait(10)


class Compute:
    """Instances, by their paths; and what was asked: path, fields and token."""

    def __init__(self) -> None:
        self.instances, self.asked, self.refusal = {}, [], None

    def answer(self, target: str, token: str) -> tuple[int, bytes]:
        url = urlsplit(target)
        path = url.path.removeprefix("/compute/v1/")
        self.asked.append((path, url.query, token.removeprefix("Bearer ")))
        if self.refusal:
            return self.refusal
        if path not in self.instances:
            told = {"error": {"code": 404, "message": f"The resource '{path}' was not found"}}
            return 404, json.dumps(told).encode()
        return 200, json.dumps(self.instances[path]).encode()


@contextmanager
def compute(folder: Path) -> Iterator[Compute]:
    """The instances, and this process pointing at them, with the key of an account that is let in."""
    far = Compute()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = far.answer(self.path, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    with account(folder) as monkeypatch:
        monkeypatch.setattr(gcp_compute, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield far
    server.shutdown()
    server.server_close()
    thread.join(10)


@contextmanager
def account(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """This process with the key of an account, and with no credentials that it had before."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file(folder))
        client.forget()
        yield monkeypatch
    client.forget()


def claims(token: str) -> dict:
    """Of a token that the account's key has signed."""
    return jwt.decode(token, key().public_key(), algorithms=["RS256"], options={"verify_aud": False})
