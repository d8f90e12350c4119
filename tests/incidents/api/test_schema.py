"""schemathesis over the whole API, as each role: no 500, and every answer is one that the OpenAPI document has.

Real: PostgreSQL, tokens, gunicorn, HTTP. The loop does not run.
"""

import os
import re
import subprocess

import pytest
import schemathesis
from django.conf import settings as settings_module
from django.contrib.auth.models import Group, User
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from byteport import seeds
from byteport.core.resource import ResourceRef
from incidents.models import ApiToken
from incidents.roles import Role, Scope
from runbooks.models import AgentSettings
from signals.models import SignalEvent
from tests.incidents import scenes
from tests.webserver import address_of_test_database, serving

pytestmark = pytest.mark.django_db(transaction=True)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 6


def token_of(role: Role) -> str:
    user = User.objects.create_user(role)
    user.groups.add(Group.objects.get(name=role))
    return ApiToken.objects.create(user, name="t", scopes=list(Scope))[1]


@pytest.mark.proof
def test_whatever_is_sent_is_answered_as_the_document_says():
    seeds.plant()
    scenes.planned("escalated")
    scenes.awaiting_approval(ResourceRef("host", "web-2", "mount", "/"))
    schema = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(public=True))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 20
    with serving(address_of_test_database()) as port:
        for role in Role:
            headers = {"Authorization": f"Bearer {token_of(role)}"}
            for operation in operations:
                every_case(operation, f"http://127.0.0.1:{port}", headers)


def every_case(operation, base_url: str, headers: dict[str, str]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def call(case):
        case.call_and_validate(base_url=base_url, headers=headers, checks=CHECKS)

    call()


def test_the_curl_examples_of_the_documentation_work_as_they_are_pasted():
    seeds.plant()
    text = (settings_module.BASE_DIR / "docs" / "api.md").read_text(encoding="utf-8")
    script = next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "curl" in block)
    with serving(address_of_test_database()) as port:
        environment = {**os.environ, "TOKEN": token_of(Role.ADMINISTRATOR), "BYTEPORT": f"http://127.0.0.1:{port}"}
        script = script.replace("curl ", "curl --silent --show-error --fail-with-body ")
        ran = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert SignalEvent.objects.count() == 1
    assert AgentSettings.objects.get().paused_reason == "we are moving racks"


def test_every_write_shows_an_example():
    paths = SchemaGenerator().get_schema(public=True)["paths"]
    writes = {(method, at): one for at, item in paths.items() for method, one in item.items() if "requestBody" in one}
    assert len(writes) >= 5
    shown = {at for at, one in writes.items() if one["requestBody"]["content"]["application/json"].get("examples")}
    assert shown == set(writes)
