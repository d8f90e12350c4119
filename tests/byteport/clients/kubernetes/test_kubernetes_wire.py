"""The client of clusters. Real: HTTP to the stand-in (tests/kubernetes), whose errors were recorded from a real server,
sockets that refuse, stall and break off, a kubeconfig with a token file."""

import json
import socket
import ssl
import threading
import time

import pytest

from byteport.clients.kubernetes import clusters, reader
from byteport.clients.kubernetes.call import JSON_PATCH, Call
from byteport.clients.kubernetes.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreadable,
    refusal,
)
from byteport.clients.kubernetes.paths import VERSION, path_of
from byteport.clients.kubernetes.wire import Wire
from byteport.core.errors import Permanent, Refused, Temporary
from tests.kubernetes.standin import PLACE, Fault, recorded

PODS = path_of("pod")
WEB = path_of("deployment", "shop", "web")


@pytest.fixture
def shop(cluster):
    cluster.store.put_list("pod", recorded("pods_crashloop_exit_1"))
    cluster.store.put("deployment", recorded("deployment_progress_deadline_exceeded"))
    return cluster


def anything(call):
    """Admits every call; for tests of what is beyond the fence."""


# --- reading


def test_an_object_is_read(shop):
    assert reader.get(PLACE, WEB)["status"]["conditions"]


def test_the_version_is_read(shop):
    assert "gitVersion" in reader.get(PLACE, VERSION)


def test_a_list_is_read_in_pages(cluster):
    for number in range(5):
        cluster.store.put("pod", {"metadata": {"namespace": "shop", "name": f"pod-{number}"}})
    pages = list(reader.list_pages(PLACE, PODS, page=2))
    assert [len(json.loads(page)["items"]) for page in pages] == [2, 2, 1]
    assert len(reader.list_items(PLACE, PODS)) == 5


def test_half_a_list_is_none(cluster):
    for number in range(3):
        cluster.store.put("pod", {"metadata": {"namespace": "shop", "name": f"pod-{number}"}})
    with pytest.raises(Unreadable, match="more than 2 objects"):
        reader.list_items(PLACE, PODS, most=2)


def test_of_a_long_log_only_the_beginning_is_read(shop):
    shop.store.put("pod", {"metadata": {"namespace": "shop", "name": "cart"}})
    shop.store.logs["shop", "cart", "app", True] = "x" * 1_000_000
    path = path_of("pod", "shop", "cart", "log")
    assert len(reader.get_text(PLACE, path, 1000, container="app", previous=True)) == 1000


def test_a_watch_gives_one_change_a_line_and_ends_when_it_is_closed(shop):
    lines = reader.watch(PLACE, PODS, resourceVersion="1")
    name = recorded("pods_crashloop_exit_1")["items"][0]["metadata"]["name"]
    assert json.loads(next(lines))["object"]["metadata"]["name"] == name
    ended = threading.Event()

    def wait() -> None:
        list(lines)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    lines.close()
    assert ended.wait(10)


def test_a_watch_that_is_closed_lets_go_of_its_connection(shop):
    for begun in (True, False):
        lines = reader.watch(PLACE, PODS, resourceVersion="1")
        if begun:
            next(lines)
        lines.close()
        lines.close()
    until = time.monotonic() + 10
    while shop.connections and time.monotonic() < until:
        time.sleep(0.01)
    assert shop.connections == 0


def test_a_watch_that_falls_silent_ends_as_unavailable(shop):
    with pytest.raises(Unavailable, match="timed out"):
        list(reader.watch(PLACE, path_of("event"), idle_s=0.1))


# --- the reading client reads, and nothing else


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "get", "OPTIONS"])
def test_the_reading_client_sends_nothing_but_get(shop, method):
    with pytest.raises(Refused):
        Wire(PLACE, reader.only_get).send(Call(method, WEB))
    assert shop.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/shop/pods/cart/exec",
        "/api/v1/namespaces/shop/pods/cart/proxy",
        "/api/v1/namespaces/shop/secrets/db",
        "/api/v1/namespaces/shop/services/db/proxy/x",
        "/apis/apps/v1/namespaces/shop/deployments/web/../../../secrets",
        "/healthz",
    ],
)
def test_the_reading_client_reads_only_what_it_knows(shop, path):
    with pytest.raises(Refused):
        reader.get(PLACE, path)
    assert shop.seen == []


@pytest.mark.parametrize("path", ["//evil", "/a/../b", "/a/./b", "/a%2fb", "/a b", "/a?x=1", "x", "/a\r\nHost: b", "/"])
def test_no_path_that_might_be_read_another_way_leaves(shop, path):
    with pytest.raises(Refused):
        Wire(PLACE, anything).send(Call("GET", path))
    assert shop.seen == []


def test_admit_is_asked_before_each_request_also_the_second_one_after_401(shop):
    shop.faults.append(Fault(status=401))
    asked = []
    Wire(PLACE, asked.append).send(Call.get(WEB))
    assert asked == [Call.get(WEB)] * 2


def test_a_redirect_is_not_followed(shop):
    shop.faults.append(Fault(status=307, body=b""))
    with pytest.raises(Permanent):
        reader.get(PLACE, WEB)
    assert len(shop.seen) == 1


# --- faults, each by its kind


def test_what_is_not_there(shop):
    with pytest.raises(NotFound, match=r'deployments\.apps "nope" not found'):
        reader.get(PLACE, path_of("deployment", "shop", "nope"))
    with pytest.raises(NotFound):
        reader.get(PLACE, path_of("podmetrics"))


def test_a_missing_right_is_named_with_the_rule_to_add(shop):
    shop.rights = {"pods: list"}
    with pytest.raises(Forbidden) as caught:
        reader.get(PLACE, path_of("deployment", "shop"))
    said = str(caught.value)
    assert "test forbids BytePort to list deployments in the namespace shop" in said
    assert '{apiGroups: ["apps"], resources: ["deployments"], verbs: [list]}' in said
    assert str(caught.value.permission) == "apps/deployments: list"


def test_a_failed_precondition_changes_nothing(shop):
    before = shop.store.get("deployment", "shop", "web")
    patch = [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}, {"op": "remove", "path": "/spec"}]
    with pytest.raises(Invalid):
        Wire(PLACE, anything).send(Call("PATCH", WEB, (), json.dumps(patch).encode(), JSON_PATCH))
    assert shop.store.get("deployment", "shop", "web") == before


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error_403_forbidden", Forbidden),
        ("error_404_not_found", NotFound),
        ("error_409_conflict_put", Conflict),
        ("error_422_json_patch_test_failed", Invalid),
        ("error_422_memory_limit_below_request", Invalid),
    ],
)
def test_each_recorded_refusal_has_its_error(name, kind):
    body = recorded(name)
    error = refusal("prod", Call.get(WEB), body["code"], {}, json.dumps(body).encode())
    assert type(error) is kind
    assert body["message"] in str(error)


@pytest.mark.parametrize(("code", "kind"), [(410, Gone), (500, Unavailable), (503, Unavailable), (400, Invalid)])
def test_an_error_of_the_servers_is_temporary_or_not(shop, code, kind):
    shop.faults.append(Fault(status=code))
    with pytest.raises(kind):
        reader.get(PLACE, WEB)


@pytest.mark.parametrize(("seconds", "delay_s"), [(7, 7.0), (0, 1.0), (86_400, 300.0), (None, 10.0)])
def test_too_many_requests_says_how_long_to_wait_within_bounds(shop, seconds, delay_s):
    shop.faults.append(Fault(status=429, retry_after_s=seconds))
    with pytest.raises(TooManyRequests) as caught:
        reader.get(PLACE, WEB)
    assert caught.value.delay_s == delay_s


def test_an_expired_token_is_read_anew_once(shop, tmp_path):
    reader.get(PLACE, WEB)
    shop.tokens = {"token-2"}
    (tmp_path / "token").write_text("token-2\n")
    reader.get(PLACE, WEB)
    shop.tokens = {"token-3"}
    shop.seen.clear()
    with pytest.raises(Unauthorized):
        reader.get(PLACE, WEB)
    assert len(shop.seen) == 2


def test_a_server_that_is_slow_is_not_waited_for(shop):
    shop.faults.append(Fault(delay_s=1.0))
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        reader.get(PLACE, WEB, timeout_s=0.1)
    assert time.monotonic() - begun < 0.9


def test_a_connection_that_breaks_off_is_temporary(shop):
    shop.faults.append(Fault(cut=True))
    with pytest.raises(Unavailable):
        reader.get(PLACE, WEB)
    reader.get(PLACE, WEB)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"\xff", b'{"items":', b"[" * 100_000])
def test_an_answer_that_is_no_object_is_unreadable(shop, body):
    shop.faults += [Fault(body=body), Fault(body=body)]
    with pytest.raises(Unreadable):
        reader.get(PLACE, WEB)
    if body != b'{"items":':
        with pytest.raises(Unreadable):
            reader.list_items(PLACE, PODS)


def test_an_answer_that_is_too_large_is_not_taken(shop):
    with pytest.raises(Unreadable, match="more than 100 bytes"):
        Wire(PLACE, reader.only_get).send(Call.get(WEB), limit_bytes=100)


@pytest.fixture
def dead(tmp_path, settings):
    """A kubeconfig whose server is to be filled in."""

    def write(server: str) -> str:
        config = {
            "current-context": "dead",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [],
            "contexts": [{"name": "dead", "context": {"cluster": "c", "user": ""}}],
        }
        path = tmp_path / "dead"
        path.write_text(json.dumps(config))
        settings.KUBECONFIG, settings.KUBE_CONTEXTS = str(path), []
        clusters.forget("dead")
        return "dead"

    return write


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_server_that_is_down_is_temporary(dead):
    with pytest.raises(Unavailable, match="refused"):
        reader.get(dead(f"http://127.0.0.1:{free_port()}"), VERSION)


def test_a_server_without_tls_where_tls_is_expected_is_temporary(dead, cluster):
    with pytest.raises(Unavailable) as caught:
        reader.get(dead(cluster.url.replace("http:", "https:")), VERSION)
    assert isinstance(caught.value.__cause__.__cause__ or caught.value.__cause__, ssl.SSLError | Exception)


@pytest.mark.parametrize("junk", [b"", b"\x00\x01\x02\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
def test_a_server_that_speaks_no_http_is_temporary(dead, junk):
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = dead(f"http://127.0.0.1:{server.getsockname()[1]}")

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(junk)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Temporary):
            reader.get(place, VERSION, timeout_s=5)


# --- which clusters there are


def test_each_listed_context_is_a_cluster_by_its_name(cluster, tmp_path, settings):
    settings.KUBECONFIG = str(cluster.write_kubeconfig(tmp_path, "prod", "staging", "arn:aws:eks:x:1:cluster/y"))
    assert clusters.cluster_names() == ["prod"]
    settings.KUBE_CONTEXTS = ["staging", "arn:aws:eks:x:1:cluster/y"]
    assert clusters.cluster_names() == ["staging", "arn:aws:eks:x:1:cluster/y"]
    assert clusters.is_known("staging")
    assert not clusters.is_known("prod")
    assert reader.get("arn:aws:eks:x:1:cluster/y", VERSION)
    with pytest.raises(Permanent, match="knows no cluster 'prod'"):
        reader.get("prod", VERSION)


def test_without_a_kubeconfig_there_is_none(settings):
    settings.KUBECONFIG = ""
    assert clusters.cluster_names() == []


@pytest.mark.parametrize(
    "text", ["", "[]", "contexts: 5", "current-context: x\ncontexts: []\n", "a: [", '{"contexts": [{}]}', "\x00"]
)
def test_a_kubeconfig_that_cannot_be_read_is_told(tmp_path, settings, text):
    path = tmp_path / "broken"
    path.write_text(text)
    settings.KUBECONFIG = str(path)
    with pytest.raises(Permanent, match="BYTEPORT_KUBECONFIG"):
        clusters.cluster_names()


def test_a_context_that_is_not_there_is_told(cluster, settings):
    settings.KUBE_CONTEXTS = ["nope"]
    with pytest.raises(Permanent, match="no context 'nope'; it has: test"):
        clusters.cluster_names()


def test_an_exec_plugin_gives_the_token_and_one_that_hangs_is_not_waited_for(cluster, tmp_path, monkeypatch):
    path = tmp_path / "kubeconfig"
    config = json.loads(path.read_text())
    script = tmp_path / "plugin"
    api = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": api, "kind": "ExecCredential", "status": {"token": "token-1"}}
    script.write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    script.chmod(0o755)
    config["users"][0]["user"] = {"exec": {"apiVersion": api, "command": str(script), "interactiveMode": "Never"}}
    path.write_text(json.dumps(config))
    assert reader.get(PLACE, VERSION)
    script.write_text("#!/bin/sh\nexec sleep 5\n")
    clusters.forget(PLACE)
    monkeypatch.setattr(clusters, "CREDENTIALS_TIMEOUT_S", 0.1)
    with pytest.raises(Unavailable, match="not given within"):
        reader.get(PLACE, VERSION)
