"""Where a drill says that its postmortem is. Real: PostgreSQL."""

import pytest

from byteport.heartbeats import farewell, heartbeat
from byteport.management.commands.drill import console_url

pytestmark = pytest.mark.django_db


def test_the_address_is_the_one_that_the_running_watcher_knows(settings):
    settings.PUBLIC_URL = "http://127.0.0.1:8000"
    heartbeat("watch", {"sources": [], "console": "http://127.0.0.1:8123"})
    assert console_url() == "http://127.0.0.1:8123"
    farewell("watch")
    assert console_url() == "http://127.0.0.1:8000"


def test_a_watcher_of_an_earlier_version_leaves_it_to_the_settings(settings):
    settings.PUBLIC_URL = "https://byteport.example.com"
    heartbeat("watch", {"sources": []})
    assert console_url() == "https://byteport.example.com"
