"""GitHub's side of the wire: a small server that keeps issues, comments and labels, and speaks HTTP.

Every request and answer is checked against GitHub's own description of its API, `github_openapi.json`: an extract of
https://github.com/github/rest-api-description, version 23.0.2 (MIT licence: github_openapi.LICENSE). What it
does not describe (an App's token, rate limits as 429, gateways' errors) is not checked. A breach of the contract, by
either side, is kept in `breaches`, and looked at in the end.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from openapi_core import OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

from tests.incidents.escalation.wire import Answer, Asked, Wire, served

DESCRIPTION = Path(__file__).with_name("github_openapi.json")
DOCUMENTED_HOST = "https://api.github.com"
REPO = "acme/ops"
TOKEN = "github_pat_test"
DESCRIBED = OpenAPI.from_dict(json.loads(DESCRIPTION.read_text(encoding="utf-8")))
BODY_LIMIT, TITLE_LIMIT = 65_536, 256
USER = {
    "login": "byteport-bot", "id": 1, "node_id": "U_1", "gravatar_id": "", "type": "User", "site_admin": False,
    **{f"{name}_url": f"{DOCUMENTED_HOST}/users/byteport-bot/{name}" for name in (
        "avatar", "followers", "following", "gists", "starred", "subscriptions", "organizations", "repos", "events",
        "received_events",
    )}, "url": f"{DOCUMENTED_HOST}/users/byteport-bot", "html_url": "https://github.com/byteport-bot",
}  # fmt: skip


@dataclass
class State(Wire):
    """What this GitHub has on record, and what was asked of it."""

    issues: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    has_issues: bool = True

    def answer(self, asked: Asked) -> Answer:
        is_app = asked.path.startswith("/app/")
        if not is_app and asked.headers.get("Authorization", "").partition(" ")[2] not in self.tokens:
            return Answer(401, {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest"})
        for method, pattern, deed in ROUTES:
            found = re.fullmatch(pattern, asked.path)
            if found and method == asked.method:
                request = None if is_app else checked(self, asked)
                answer = deed(self, asked.query, asked.body, *found.groups())
                check_answer(self, request, answer)
                return answer
        return not_found()


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ------------------------------------------------------------------------------------------- what it can do


def not_found(*_: Any) -> Answer:
    return Answer(404, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"})


def invalid(message: str, **error: str) -> Answer:
    body = {"message": message, "documentation_url": "https://docs.github.com/rest", "errors": [error]}
    return Answer(422, body)


def the_repo(state: State, query: dict[str, str], body: Any) -> Answer:
    urls = {name: "" for name in schema("full-repository")["required"] if name.endswith("_url")}
    counts = {
        name: 0
        for name in schema("full-repository")["required"]
        if name.endswith(("count", "s")) and "_url" not in name
    }
    texts = dict.fromkeys(("description", "homepage", "language", "mirror_url"))
    flags = dict.fromkeys(
        ("private", "fork", "has_projects", "has_wiki", "has_pages", "has_discussions", "archived", "disabled"), False
    )
    return Answer(200, {
        **counts, **{name: f"{state.base}/{name}" for name in urls}, **texts, **flags, "id": 1, "node_id": "R_1",
        "name": REPO.split("/")[1], "full_name": REPO, "owner": USER, "url": f"{state.base}/repos/{REPO}",
        "default_branch": "main", "license": None, "has_issues": state.has_issues, "size": 1, "forks": 0,
        "created_at": stamp(), "updated_at": stamp(), "pushed_at": stamp(), "open_issues": len(state.issues),
    })  # fmt: skip


def list_issues(state: State, query: dict[str, str], body: Any) -> Answer:
    wanted = set(filter(None, query.get("labels", "").split(",")))
    found = [
        issue
        for issue in state.issues.values()
        if query.get("state", "open") in ("all", issue["state"])
        and wanted <= {label["name"] for label in issue["labels"]}
        and issue["updated_at"] >= query.get("since", "")
    ]
    return page(sorted(found, key=lambda issue: -issue["number"]), query)


def page(rows: list[Any], query: dict[str, str]) -> Answer:
    size, number = int(query.get("per_page", 30)), int(query.get("page", 1))
    return Answer(200, rows[(number - 1) * size : number * size])


def create_issue(state: State, query: dict[str, str], body: Any) -> Answer:
    if not state.has_issues:
        return Answer(410, {"message": "Issues has been disabled in this repository.", "documentation_url": "x"})
    if len(body["title"]) > TITLE_LIMIT or len(body.get("body") or "") > BODY_LIMIT:
        return invalid("Validation Failed", resource="Issue", code="custom", field="body", message="body is too long")
    number = max(state.issues, default=0) + 1
    for name in body.get("labels", ()):
        state.labels.setdefault(name, "ededed")
    state.issues[number] = {
        "id": 1000 + number, "node_id": f"I_{number}", "number": number, "state": "open",
        "title": body["title"], "body": body.get("body"), "user": USER, "assignee": None, "assignees": [],
        "milestone": None, "locked": False, "comments": 0, "closed_at": None, "created_at": stamp(),
        "updated_at": stamp(), "labels": [label(state, name) for name in body.get("labels", ())],
        "author_association": "OWNER", "repository_url": f"{state.base}/repos/{REPO}",
        "html_url": f"https://github.com/{REPO}/issues/{number}", "url": f"{state.base}/repos/{REPO}/issues/{number}",
        **{
            f"{name}_url": f"{state.base}/repos/{REPO}/issues/{number}/{name}{tail}"
            for name, tail in (("labels", "{/name}"), ("comments", ""), ("events", ""))
        },
    }  # fmt: skip
    return Answer(201, state.issues[number])


def one_issue(state: State, query: dict[str, str], body: Any, number: str) -> Answer:
    issue = state.issues.get(int(number))
    return Answer(200, issue) if issue else not_found()


def edit_issue(state: State, query: dict[str, str], body: Any, number: str) -> Answer:
    issue = state.issues.get(int(number))
    if issue is None:
        return not_found()
    issue.update({name: value for name, value in body.items() if name in ("state", "state_reason", "title", "body")})
    if "labels" in body:
        issue["labels"] = [label(state, name) for name in body["labels"]]
    issue.update(updated_at=stamp(), closed_at=stamp() if issue["state"] == "closed" else None)
    return Answer(200, issue)


def list_comments(state: State, query: dict[str, str], body: Any, number: str) -> Answer:
    if int(number) not in state.issues:
        return not_found()
    found = [each for each in state.comments.get(int(number), []) if each["updated_at"] >= query.get("since", "")]
    return page(found, query)


def create_comment(state: State, query: dict[str, str], body: Any, number: str) -> Answer:
    issue = state.issues.get(int(number))
    if issue is None:
        return not_found()
    if len(body["body"]) > BODY_LIMIT:
        return invalid("Validation Failed", resource="IssueComment", code="custom", field="body")
    comments = state.comments.setdefault(int(number), [])
    ident = 5000 + sum(map(len, state.comments.values()))
    url = f"{state.base}/repos/{REPO}/issues"
    comments.append({
        "id": ident, "node_id": f"IC_{ident}", "body": body["body"], "user": USER, "created_at": stamp(),
        "updated_at": stamp(), "author_association": "OWNER", "issue_url": f"{url}/{number}",
        "url": f"{url}/comments/{ident}", "html_url": f"{issue['html_url']}#issuecomment-{ident}",
    })  # fmt: skip
    issue.update(updated_at=stamp(), comments=len(comments))
    return Answer(201, comments[-1])


def label(state: State, name: str) -> dict[str, Any]:
    return {
        "id": 1, "node_id": "L_1", "url": f"{state.base}/repos/{REPO}/labels/{name}", "name": name, "description": None,
        "color": state.labels.setdefault(name, "ededed"), "default": False,
    }  # fmt: skip


def one_label(state: State, query: dict[str, str], body: Any, name: str) -> Answer:
    return Answer(200, label(state, unquote(name))) if unquote(name) in state.labels else not_found()


def create_label(state: State, query: dict[str, str], body: Any) -> Answer:
    if body["name"] in state.labels:
        return invalid("Validation Failed", resource="Label", code="already_exists", field="name")
    state.labels[body["name"]] = body["color"]
    return Answer(201, label(state, body["name"]))


def installation_token(state: State, query: dict[str, str], body: Any, number: str) -> Answer:
    token = f"ghs_{len(state.tokens)}"
    state.tokens.add(token)
    return Answer(201, {"token": token, "expires_at": "2099-01-01T00:00:00Z", "permissions": {"issues": "write"}})


BASE = f"/repos/{REPO}"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", BASE, the_repo),
    ("GET", f"{BASE}/issues", list_issues),
    ("POST", f"{BASE}/issues", create_issue),
    ("GET", rf"{BASE}/issues/(\d+)", one_issue),
    ("PATCH", rf"{BASE}/issues/(\d+)", edit_issue),
    ("GET", rf"{BASE}/issues/(\d+)/comments", list_comments),
    ("POST", rf"{BASE}/issues/(\d+)/comments", create_comment),
    ("GET", rf"{BASE}/labels/([^/]+)", one_label),
    ("POST", f"{BASE}/labels", create_label),
    ("POST", r"/app/installations/(\d+)/access_tokens", installation_token),
]


def told(error: OpenAPIError) -> str:
    causes = getattr(error.__cause__, "schema_errors", ())
    return "; ".join([type(error).__name__, *(f"{list(each.path)}: {each.message[:200]}" for each in causes)])


def schema(name: str) -> dict[str, Any]:
    return json.loads(DESCRIPTION.read_text(encoding="utf-8"))["components"]["schemas"][name]


# ---------------------------------------------------------------------------------------------- the contract


def checked(state: State, asked: Asked) -> MockRequest:
    kind = asked.headers.get("Content-Type", "application/json")
    request = MockRequest(
        DOCUMENTED_HOST, asked.method.lower(), asked.path, args=asked.query, data=asked.raw or None, content_type=kind
    )
    try:
        DESCRIBED.validate_request(request)
    except OpenAPIError as error:
        state.breaches.append(f"request {asked.method} {asked.path}: {told(error)}")
    return request


def check_answer(state: State, request: MockRequest | None, answer: Answer) -> None:
    if request is None:
        return
    response = MockResponse(json.dumps(answer.body).encode(), answer.status, content_type="application/json")
    try:
        DESCRIBED.validate_response(request, response)
    except OpenAPIError as error:
        state.breaches.append(f"answer {answer.status} to {request.path}: {told(error)}")


@contextmanager
def github() -> Iterator[State]:
    """Runs it until the end of the block."""
    state = State()
    with served(state, state):
        yield state
