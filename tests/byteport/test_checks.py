"""The system checks, each by its id. Real: the settings, registries and PostgreSQL as Django sees them in a process.

Not real: the settings are changed for one test at a time; a runbook that is wrong is the stand-in, bent.
"""

import pytest
from django.core.checks import run_checks
from django.db import connections

from byteport import checks
from runbooks.action import ACTIONS
from runbooks.runbook import RUNBOOKS
from tests.standin import Platform, StandInRunbook, installed


def found(**kwargs):
    """The ids of BytePort's own messages. Every one has a hint."""
    messages = [message for message in run_checks(**kwargs) if message.id.startswith("byteport.")]
    assert all(message.hint for message in messages)
    return {message.id.removeprefix("byteport.") for message in messages}


def faults(**bent):
    runbook = StandInRunbook(Platform())
    vars(runbook).update(signal="memory_pressure", verify_deadline_s=120)
    vars(runbook).update(bent)
    others = {name: each for name, each in RUNBOOKS.items() if each.signal != "memory_pressure"}
    runbooks = {**others, runbook.name: runbook}
    return {message.id for message in checks.runbook_faults(runbooks, [*ACTIONS, "standin.clean"])}


def test_the_product_as_it_ships_has_no_fault(settings):
    settings.SECRET_KEY, settings.DEBUG = "x" * 50, False
    assert found() == set()


def test_a_short_secret_key_is_pointed_out(settings):
    settings.SECRET_KEY = "x" * 31
    assert "W001" in found()


def test_debug_is_pointed_out(settings):
    settings.DEBUG = True
    assert "W002" in found()


def test_allowing_every_host_is_pointed_out(settings):
    settings.ALLOWED_HOSTS = ["*"]
    assert "W003" in found()


@pytest.mark.parametrize("url", ["", "byteport", "ftp://x", "http://", "http://x:y", "http://x:0", "http://a b", "//x"])
def test_a_public_url_that_is_none_is_a_fault(settings, url):
    settings.PUBLIC_URL = url
    assert "E001" in found()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://ops.example.com", {"W004"}),
        ("http://127.0.0.1:8000", set()),
        ("http://localhost:8000", set()),
        ("http://[::1]:8000", set()),
        ("https://other.example.com", {"W005", "W006"}),
        ("https://ops.example.com", {"W006"}),
        ("https://trusted.example.com:8443", set()),
    ],
)
def test_a_public_url_is_encrypted_allowed_and_known_to_the_forms(settings, url, told):
    settings.PUBLIC_URL = url
    settings.ALLOWED_HOSTS = ["ops.example.com", "trusted.example.com", "localhost", "127.0.0.1", "[::1]"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://trusted.example.com:8443"]
    assert found() & {"E001", "W004", "W005", "W006"} == told


def test_a_proxy_that_ends_tls_settles_it(settings):
    settings.PUBLIC_URL, settings.ALLOWED_HOSTS = "https://ops.example.com", ["ops.example.com"]
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert "W006" not in found()


@pytest.mark.parametrize(("lease_s", "is_fault"), [(239, True), (240, True), (241, False)])
def test_a_lease_outlives_its_task(settings, lease_s, is_fault):
    settings.TASK_TIMEOUT_S, settings.TASK_LEASE_S = 240, lease_s
    assert ("E002" in found()) is is_fault


def test_a_time_out_of_nothing_is_a_fault(settings):
    settings.TASK_TIMEOUT_S = 0
    assert "E003" in found()


def test_no_worker_at_all_is_a_fault(settings):
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "workers": 0}
    assert "E004" in found()


@pytest.mark.parametrize(
    ("name", "is_fault"),
    [
        ("web-1", False),
        ("web-1.example.com", False),
        ("a" * 63, False),
        ("", True),
        ("a" * 64, True),
        ("web 1", True),
        ("web/1", True),
        ("-web", True),
        ("web..example", True),
        ("web-1\n", True),
    ],
)
def test_a_host_name_is_one(settings, name, is_fault):
    settings.HOST_NAME = name
    assert ("E005" in found()) is is_fault


@pytest.mark.parametrize(
    ("names", "is_fault"),
    [(None, False), (frozenset(), False), (frozenset({"cleanup_logs"}), False), (frozenset({"clean_logs"}), True)],
)
def test_a_switch_for_a_runbook_that_is_none_is_a_fault(settings, names, is_fault):
    settings.RUNBOOKS_ON = names
    assert ("E016" in found()) is is_fault


def test_a_registry_with_two_entries_of_one_name_is_a_fault():
    with installed(Platform()):
        vars(ACTIONS).pop("_found")
        vars(ACTIONS)["_module_names"] = lambda: iter(["runbooks.actions.host", "runbooks.actions.host"])
        try:
            assert "E010" in found()
        finally:
            vars(ACTIONS).pop("_module_names")


def test_two_runbooks_for_one_signal_are_a_fault():
    assert faults(signal="disk_pressure") == {"byteport.E011"}  # as cleanup_logs is


def test_a_sound_runbook_beside_the_others_is_none():
    assert faults() == set()


@pytest.mark.parametrize(
    ("bent", "told"),
    [
        ({"actions": ("standin.clean", "host.drop_table")}, "E012"),
        ({"signal": "bad_weather"}, "E013"),
        ({"name": "memory_pressure"}, "E014"),
        ({"verify_deadline_s": 49}, "E015"),
    ],
)
def test_a_runbook_that_cannot_work_is_a_fault(bent, told):
    assert faults(**bent) == {f"byteport.{told}"}


def test_the_shortest_verification_is_that_of_the_default_policy():
    assert checks.shortest_verification_s() == 30 + 10 * 2


@pytest.mark.parametrize(("version", "is_fault"), [(150_013, True), (160_000, False), (180_003, False)])
def test_an_old_postgresql_is_a_fault(version, is_fault):
    assert bool(list(checks.version_faults(version))) is is_fault


@pytest.mark.django_db
def test_the_postgresql_of_the_tests_is_new_enough():
    assert found(databases=["default"]) & {"E020", "E021"} == set()


def test_a_postgresql_that_is_away_is_a_fault_and_not_a_crash(django_db_blocker):
    away = connections.create_connection("default")
    away.settings_dict = {**away.settings_dict, "HOST": "/nonexistent"}
    present = connections["default"]
    connections["default"] = away
    try:
        with django_db_blocker.unblock():
            messages = checks.check_postgres(None, databases=["default"])
            assert [message.id for message in messages] == ["byteport.E020"]
    finally:
        connections["default"] = present
