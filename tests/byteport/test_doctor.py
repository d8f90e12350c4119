"""What `manage.py doctor` says of databases, hosts and clouds. Real: PostgreSQL, the monitored server, its roles, this
host, the clouds' own libraries and where they look for credentials."""

from datetime import timedelta

import pytest

from byteport.clients import gcp as google
from byteport.clients.hosts.inventory import local_name
from byteport.core.clock import now
from byteport.management.commands.doctor import credentials, databases, fix_of, hosts, reads_of
from byteport.management.commands.doctor import sources as sources_found
from byteport.models import Host, MonitoredDatabase
from byteport.sealing import seal
from signals import health
from signals.models import Source
from tests import gcp
from tests.monitored import PASSWORD


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("dsn", "state", "told"),
    [
        ({}, "ok", "as byteport_agent; opted in: shop"),
        ({"user": "bare", "password": None}, "fail", "without pg_read_all_stats and pg_signal_backend"),
        ({"user": "postgres", "password": None}, "warn", "a superuser, which BytePort need not be"),
        ({"host": "/nonexistent"}, "fail", "prod: connection"),
    ],
)
def test_each_server_is_looked_at(server, monkeypatch, dsn, state, told):
    server.admin("CREATE ROLE bare LOGIN")
    monkeypatch.setenv("PROD_DSN", server.agent_dsn(**dsn))
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN")
    [finding] = databases()
    server.admin("DROP ROLE bare")
    assert (finding.name, finding.state) == ("database prod", state)
    assert told in finding.detail
    assert PASSWORD not in finding.detail
    assert bool(finding.fix) == (state != "ok")


@pytest.mark.django_db
def test_a_role_without_the_rights_is_told_the_statement_that_gives_them(server, monkeypatch):
    server.admin("CREATE ROLE bare LOGIN")
    monkeypatch.setenv("PROD_DSN", server.dsn(user="bare", dbname="shop"))
    MonitoredDatabase.objects.create(name="prod", connection_variable="PROD_DSN")
    [finding] = databases()
    server.admin("DROP ROLE bare")
    assert finding.fix == 'As a superuser: GRANT pg_read_all_stats, pg_signal_backend TO "bare";'


def test_the_rights_that_are_asked_for_are_those_of_the_process(settings):
    watch, worker = set(reads_of("watch")), set(reads_of("worker"))
    assert "events: list, watch" in watch - worker
    assert "pods/log: get" in worker - watch
    assert set(reads_of("")) == watch | worker
    settings.RUNBOOKS_ON = frozenset()
    assert set(reads_of("worker")) == set()


@pytest.mark.django_db(transaction=True)  # hosts are looked at in threads
def test_each_host_has_a_line_and_those_that_are_only_seen_share_one():
    Host.objects.create(name="away", way="ssh", address="127.0.0.1", port=1, user="root", key_file="/nowhere")
    Host.objects.create(name="seen")
    found = {finding.name: finding for finding in hosts()}
    assert found[f"host {local_name()}"].state == "ok"
    assert (found["host away"].state, found["host away"].fix) == (
        "fail", "docs/hosts.md says what the way “ssh” needs."
    )  # fmt: skip
    assert "/nowhere cannot be read" in found["host away"].detail
    assert "host away, opt-in" not in found
    assert found["hosts"].detail.endswith(": seen")


@pytest.fixture
def bare(monkeypatch):
    """An environment in which no cloud's credentials are to be found."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "DD_API_KEY",
        "DD_APP_KEY",
        "DD_APP_KEY_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    google.forget()
    return monkeypatch


def sources(**kinds):
    for kind, options in kinds.items():
        Source.objects.create(slug=kind, kind=kind, options=options)


CLOUDS = {"cloudwatch": {"region": "eu-central-1"}, "datadog": {}, "gcp_monitoring": {"project": gcp.PROJECT}}


@pytest.mark.django_db
def test_each_cloud_source_without_credentials_is_told_what_to_set(bare):
    sources(**CLOUDS, host={})
    Source.objects.create(slug="off", kind="datadog", enabled=False)
    found = {finding.name: finding for finding in credentials()}
    assert {finding.state for finding in found.values()} == {"fail"}
    assert {name: next(word for word in finding.detail.split() if "_" in word) for name, finding in found.items()} == {
        "source cloudwatch, credentials": "AWS_ACCESS_KEY_ID",
        "source datadog, credentials": "DD_API_KEY",
        "source gcp_monitoring, credentials": "GOOGLE_APPLICATION_CREDENTIALS.",
    }
    assert all("docs/clouds.md" in finding.fix for finding in found.values())


@pytest.mark.django_db
def test_each_cloud_source_with_credentials_says_whose_and_no_secret(bare, tmp_path):
    secrets = ("aws-secret-1", "dd-api-1", "dd-app-1")
    bare.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    for name, secret in zip(("AWS_SECRET_ACCESS_KEY", "DD_API_KEY", "DD_APP_KEY"), secrets, strict=True):
        bare.setenv(name, secret)
    sources(**CLOUDS)
    with gcp.account(tmp_path):
        found = list(credentials())
    assert [(finding.state, finding.detail) for finding in found] == [
        ("ok", "AWS', by boto3's env, for eu-central-1"),
        ("ok", "an API key and an application key of Datadog's, for datadoghq.com"),
        ("ok", f"Google Cloud's, of {gcp.ACCOUNT}, for the project {gcp.PROJECT}"),
    ]
    assert not any(secret in str(found) for secret in (*secrets, "PRIVATE KEY"))


@pytest.mark.django_db
def test_a_cloud_source_whose_options_are_none_says_so(bare):
    sources(cloudwatch={"region": "mars"})
    [finding] = credentials()
    assert (finding.state, "region" in finding.detail) == ("fail", True)


@pytest.mark.django_db
def test_a_secret_that_the_present_key_does_not_open_is_told_before_a_sender_calls(settings):
    Source.objects.create(slug="shop", kind="generic", sealed_secret=seal("s"), last_success_at=now())
    assert [finding.state for finding in sources_found()] == ["ok"]
    settings.SECRET_KEY = "another one, as after the state folder was lost"
    [finding] = sources_found()
    assert (finding.state, finding.fix) == ("fail", "In the admin, on the source's page: Make a new secret.")
    assert "BYTEPORT_SECRET_KEY has changed" in finding.detail


@pytest.mark.django_db
@pytest.mark.parametrize(("kind", "state"), [("generic", "ok"), ("host", "warn"), ("kubernetes_events", "warn")])
def test_what_is_asked_all_the_time_may_not_be_silent_for_an_hour(kind, state):
    Source.objects.create(slug="quiet", kind=kind, last_success_at=now() - timedelta(hours=1))
    [finding] = sources_found()
    assert (finding.state, bool(finding.fix)) == (state, state == "warn")
    assert "1 h ago" in finding.detail


@pytest.mark.django_db
def test_a_webhook_whose_call_was_refused_is_a_warning_and_nothing_that_could_be_asked():
    sources(generic={})
    health.refused("generic", at=now(), why="A call was refused with 401: the clock is 400 s off")
    [finding] = sources_found()
    assert (finding.state, finding.detail) == ("warn", "A call was refused with 401: the clock is 400 s off")
    assert "docs/webhooks.md" in finding.fix
    assert "manage.py" not in finding.fix


@pytest.mark.parametrize(("kind", "told"), [("datadog", "poll it"), ("kubernetes_events", "watch")])
def test_what_byteport_asks_or_follows_is_tried_by_command(kind, told):
    assert told in fix_of(Source(slug="it", kind=kind))
