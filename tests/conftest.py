"""What all tests share: a real PostgreSQL, BytePort's own embedded one unless DATABASE_URL says otherwise."""

import os
from collections.abc import Iterator

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from hypothesis import settings

from byteport import embedded

pytest_plugins = ("tests.kubernetes.standin", "tests.monitored")

# Over the eight kinds of webhooks that is 100,000 payloads (tests/signals/test_hostile_payloads.py).
settings.register_profile("thorough", max_examples=12_500, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Starts (or joins) the server before Django's test database is made; it stops with its last user."""
    if os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE"):
        return
    server = embedded.running()
    server.__enter__()
    config.add_cleanup(lambda: server.__exit__(None, None, None))


@pytest.fixture(scope="session", autouse=True)
def _what_would_only_take_time() -> Iterator[None]:
    """A password is hashed once instead of a million times over, in the same way; and the static files are looked for
    when they are asked for, not whenever a test makes a client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PBKDF2PasswordHasher, "iterations", 1)
        patch.setattr(django_settings, "WHITENOISE_AUTOREFRESH", True, raising=False)
        yield


@pytest.fixture(autouse=True)
def _nothing_is_remembered_of_sources() -> Iterator[None]:
    """What this process keeps of sources and mappings for a second ends with each test."""
    from signals import health

    health.forget()
    yield
    health.forget()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Lets several test runs on one machine have a database each (BYTEPORT_TEST_DB=test_something)."""
    from django.db import connection

    name = os.environ.get("BYTEPORT_TEST_DB")
    if name:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        connection.settings_dict["TEST"]["NAME"] = f"{name}_{worker}" if worker else name
