"""Prometheus and Alertmanager themselves, as Debian ships them, fire a rule at a running BytePort, and resolve it.

Real: both programs, their configuration by BytePort's own snippet, gunicorn, PostgreSQL, ingest. The metric is a number
that this test serves."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from byteport.sealing import seal
from signals.models import SignalEvent, Source
from signals.sources.alertmanager import SOURCE
from tests.webserver import address_of_test_database, free_port, serving

PATIENCE_S = 60.0
SECRET = "s3cret"
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("prometheus-alertmanager")),
        reason="Debian's prometheus and prometheus-alertmanager are not installed",
    ),
]

RULES = """
groups:
  - name: disks
    rules:
      - alert: NodeFilesystemAlmostOutOfSpace
        expr: used_percent > 85
        labels: {severity: critical, mountpoint: /var, fstype: ext4}
        annotations: {summary: "{{ $value }} % used"}
"""
PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs:
  - job_name: disks
    static_configs: [{{targets: ["127.0.0.1:{metrics}"], labels: {{instance: "web-1:9100"}}}}]
"""


class Disk:
    """Serves how full it is, as node-exporter would."""

    def __init__(self) -> None:
        self.percent = 97.0
        disk = self

        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f"used_percent {disk.percent}\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Metrics)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextmanager
def program(*argv: str) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def alertmanager_config(port: int) -> str:
    """BytePort's snippet as it is pasted, made into the whole configuration, and quick."""
    snippet = SOURCE.snippet(f"http://127.0.0.1:{port}/hooks/alerts", SECRET)
    quick = "  receiver: byteport\n  group_wait: 0s\n  group_interval: 1s\n  repeat_interval: 1m\n"
    return snippet.replace("route:\n", "route:\n" + quick, 1)


def wait_for(what: Callable[[], object]) -> object:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not come to that")


def test_a_real_rule_that_fires_opens_an_incident_and_clears_it_when_it_resolves(tmp_path: Path):
    Source.objects.create(slug="alerts", kind="alertmanager", sealed_secret=seal(SECRET))
    disk, alertmanager, prometheus = Disk(), free_port(), free_port()
    with serving(address_of_test_database()) as port:
        (tmp_path / "alertmanager.yml").write_text(alertmanager_config(port))
        (tmp_path / "rules.yml").write_text(RULES)
        configured = PROMETHEUS.format(rules=tmp_path / "rules.yml", alertmanager=alertmanager, metrics=disk.port)
        (tmp_path / "prometheus.yml").write_text(configured)
        with (
            program(
                "prometheus-alertmanager", f"--config.file={tmp_path}/alertmanager.yml",
                f"--storage.path={tmp_path}/am",
                f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address=",
            ),
            program(
                "prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ),
        ):  # fmt: skip
            event = wait_for(SignalEvent.objects.first)
            assert (event.signal, event.resource) == ("disk_pressure", "host/web-1/mount/%2Fvar")
            assert (event.severity, event.source) == ("critical", "alerts")
            assert event.labels["summary"] == "97 % used"
            disk.percent = 20.0
            wait_for(lambda: SignalEvent.objects.get().cleared_at)
    disk.server.shutdown()
    assert SignalEvent.objects.count() == 1
