"""GitHub: an issue for each trouble, a comment when the same comes again within a day, the postmortem when it is over.

An issue says in its first line, which nobody sees, what it is about (fingerprint and severity) and which delivery has
written it; a comment says the latter. So BytePort recognises its own, also with a fresh database. Issues are listed by
label, not searched for: GitHub's search lags behind its record.

Limits and answers: docs.github.com/en/rest (rate limits, issues, labels); a title has 256 characters at most, a body
65,536.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import NoReturn
from uuid import UUID

import jwt
import msgspec
from django.core.exceptions import ImproperlyConfigured
from github import Auth, BadAttributeException, Github, GithubException, RateLimitExceededException
from github.GithubException import IncompletableObject
from github.Issue import Issue
from github.IssueComment import IssueComment
from github.Repository import Repository
from requests import RequestException

from byteport.core.clock import now
from byteport.core.errors import BytePortError, Permanent, Temporary
from byteport.environment import env, secret
from incidents.escalation.as_markdown import markdown
from incidents.escalation.channel import Kind, Limited, Message, Note, Receipt, Setup, Undeliverable, version_of
from incidents.escalation.contents import letter_of
from incidents.escalation.letter import fitting
from incidents.markup import http_address, line
from incidents.postmortem import render_within
from signals.models import ResolvedBy

TITLE_LIMIT = 200
BODY_LIMIT = 60_000  # with room for what stands before and after
LABEL_LIMIT = 50
LOOKED_THROUGH = 500  # issues, or comments of one
CLOCKS_DIFFER = timedelta(minutes=10)
TIMEOUT_S = 15
WRITE_PAUSE_S = 1.0  # between two changes, as GitHub asks for
PAUSE_S = 60.0  # where GitHub asks for one and does not say how long
LONGEST_PAUSE_S = 7_200.0

COLOURS: Mapping[str, str] = {
    "byteport": "3046b5",
    "severity:critical": "b60205",
    "severity:warning": "fbca04",
    "severity:info": "c5def5",
}
SIGNAL_COLOUR = "d4c5f9"
NOT_IN_A_LABEL = re.compile(r"[^\w.:/ -]")
REPO = re.compile(r"[\w.-]+/[\w.-]+")
CLOSES = ("byteport", "cleared", "never")
NEW = "new"
HEAD = re.compile(
    r"\A(?P<about><!-- byteport fingerprint=(?P<fingerprint>[0-9a-f]{32}) severity=(?P<severity>\w{1,20}) -->)\s{1,4}"
    r"<!-- byteport delivery=(?P<delivery>[0-9a-f]{32}) -->"
)


class Settings(msgspec.Struct, frozen=True):
    """As they are in the environment."""

    repo: str
    token: str
    app_id: str
    app_key: str
    installation_id: str
    url: str
    close: str


def read_settings() -> Settings:
    """Raises ImproperlyConfigured when a secret's file cannot be read."""
    return Settings(
        repo=env.str("BYTEPORT_GITHUB_REPO", ""),
        token=secret("BYTEPORT_GITHUB_TOKEN"),
        app_id=env.str("BYTEPORT_GITHUB_APP_ID", ""),
        app_key=secret("BYTEPORT_GITHUB_APP_KEY"),
        installation_id=env.str("BYTEPORT_GITHUB_INSTALLATION_ID", ""),
        url=env.str("BYTEPORT_GITHUB_URL", "https://api.github.com"),
        close=env.str("BYTEPORT_GITHUB_CLOSE", "byteport"),
    )


def setup_of(found: Settings) -> Setup:
    """What is missing, and what is wrong."""
    app = {
        "BYTEPORT_GITHUB_APP_ID": found.app_id,
        "BYTEPORT_GITHUB_APP_KEY": found.app_key,
        "BYTEPORT_GITHUB_INSTALLATION_ID": found.installation_id,
    }
    credentials = app if any(app.values()) else {"BYTEPORT_GITHUB_TOKEN": found.token}
    needed = {"BYTEPORT_GITHUB_REPO": found.repo, **credentials}
    given = any(needed.values())
    return Setup(
        given=given,
        missing=tuple(name for name, value in needed.items() if not value),
        faults=tuple(_faults(found)) if given else (),
        version=version_of(found),
    )


def _faults(found: Settings) -> Iterator[str]:
    if found.repo and not REPO.fullmatch(found.repo):
        yield f"BYTEPORT_GITHUB_REPO is not of the form owner/name: {found.repo!r}."
    if found.token and found.app_id:
        yield "BYTEPORT_GITHUB_TOKEN and BYTEPORT_GITHUB_APP_ID are both set; unset one of them."
    if found.installation_id and not found.installation_id.isdecimal():
        yield "BYTEPORT_GITHUB_INSTALLATION_ID is no number."
    if not http_address(found.url):
        yield f"BYTEPORT_GITHUB_URL is no address: {found.url!r}."
    if found.close not in CLOSES:
        yield f"BYTEPORT_GITHUB_CLOSE is none of {', '.join(CLOSES)}: {found.close!r}."


class GitHubIssues:
    """The channel."""

    name = "github"
    title = "GitHub"
    kinds = frozenset({Kind.ESCALATED, Kind.WORSENED, Kind.CLEARED})
    follows = ()
    settle_s = 20.0
    confirm_s = 0.0

    def setup(self) -> Setup:
        try:
            return setup_of(read_settings())
        except ImproperlyConfigured as error:
            return Setup(given=True, faults=(str(error),))

    def message(self, note: Note) -> Message:
        title = line(letter_of(note).title, TITLE_LIMIT)
        if note.kind == Kind.CLEARED:
            return Message(title, cleared_body(note))
        return Message(title, escalated_body(note))

    def aim(self, note: Note) -> str | None:
        with talking() as repo:
            issue = _issue_of(repo, note)
        if note.kind == Kind.CLEARED:
            return str(issue.number) if issue is not None and _wants_to_know(issue, note) else None
        if issue is None:
            return NEW
        return str(issue.number) if issue.state == "open" else f"{NEW} after {issue.number}"

    def probe(self, note: Note) -> Receipt | None:
        with talking() as repo:
            if note.target.startswith(NEW):
                opened = _find_issue(repo, note)
                return _opened(opened) if opened is not None else None
            issue = _read_issue(repo, note.target)
            comment = _find_comment(issue, note)
            return _commented(issue, comment, note) if comment is not None else None

    def send(self, note: Note) -> Receipt:
        message = self.message(note)
        with talking() as repo:
            if note.target.startswith(NEW):
                labels = labels_of(note)
                _make_labels(repo, labels)
                return _opened(repo.create_issue(message.title, message.markdown, labels=labels))
            issue = _read_issue(repo, note.target)
            if note.kind == Kind.WORSENED:
                _make_labels(repo, labels_of(note))
            return _commented(issue, issue.create_comment(message.markdown), note)

    def confirm(self, note: Note) -> str:
        return ""  # what GitHub has answered for is there

    def check(self) -> str:
        with talking() as repo:
            repo.complete()
            if not repo.has_issues:
                raise Undeliverable(f"{repo.full_name} has its issues switched off.", remedy=REMEDIES[410])
            return f"{repo.full_name} can be read, and has issues"


CHANNEL = GitHubIssues()


# ------------------------------------------------------------------------------------------------ what is said


def escalated_body(note: Note) -> str:
    """A new issue's body, or the comment on one that is open."""
    text = fitting(letter_of(note), markdown, BODY_LIMIT)
    if not note.target.startswith(NEW) and note.target:
        return f"{_signed(note)}\n### {_heading(note)}\n\n{text}"
    return f"{_marked(note)}\n{_signed(note)}\n{_linked(note)}{text}"


def _heading(note: Note) -> str:
    """Of a comment."""
    if note.kind == Kind.WORSENED:
        return f"It has grown worse: {_word(note.severity)}"
    return f"It happened again (incident {note.record.id})"


def _linked(note: Note) -> str:
    """Of a new issue: where the same was before."""
    closed = note.target.removeprefix(f"{NEW} after ")
    if closed.isdecimal():
        return f"The same was in #{closed}, which somebody has closed.\n\n"
    before = http_address(note.before.url.partition("#")[0]) if note.before else ""
    return f"The same was in {before} before.\n\n" if before else ""


def _marked(note: Note) -> str:
    return f"<!-- byteport fingerprint={note.fingerprint.hex} severity={_word(note.severity)} -->"


def cleared_body(note: Note) -> str:
    who = "BytePort has fixed it." if note.record.resolved_by == ResolvedBy.BYTEPORT else "The signal has cleared."
    return f"{_signed(note)}\n**{who}**\n\n{render_within(note.record, BODY_LIMIT)}"


def _signed(note: Note) -> str:
    return f"<!-- byteport delivery={note.id.hex} -->"


def labels_of(note: Note) -> list[str]:
    """`byteport`, the severity and the signal's name; a sender's own name is cut to what a label may be."""
    return ["byteport", f"severity:{_word(note.severity)}", NOT_IN_A_LABEL.sub("_", note.record.signal)[:LABEL_LIMIT]]


def _word(severity: str) -> str:
    return re.sub(r"\W", "_", severity)[:20]


# ------------------------------------------------------------------------------------------- what is there already


def _issue_of(repo: Repository, note: Note) -> Issue | None:
    """The issue in which people have this trouble: by BytePort's own record first, then by GitHub's."""
    if note.earlier is not None:
        try:
            issue = _read_issue(repo, note.earlier.target)
            if issue.html_url == note.earlier.url.partition("#")[0]:  # or else the repository is another one now
                return issue
        except GithubException as error:
            if error.status not in (404, 410):  # deleted, or moved to where BytePort cannot see it
                raise
    about = (note.fingerprint.hex, _word(note.severity))
    ours = [issue for issue in _listed(repo, labels_of(note), note.since) if _about(issue) == about]
    return max(ours, key=lambda issue: (issue.state == "open", issue.number), default=None)


def _read_issue(repo: Repository, number: str) -> Issue:
    issue = repo.get_issue(int(number))
    issue.complete()
    return issue


def _about(issue: Issue) -> tuple[str, str] | None:
    head = HEAD.match(issue.body or "")
    return (head["fingerprint"], head["severity"]) if head else None


def _wants_to_know(issue: Issue, note: Note) -> bool:
    """Who has this very incident; and who still has the same trouble open."""
    return note.record.was_escalated or issue.state == "open"


def _find_issue(repo: Repository, note: Note) -> Issue | None:
    written = _listed(repo, ["byteport"], (note.began_at or now()) - CLOCKS_DIFFER)
    return next((issue for issue in written if _delivery(issue.body) == note.id), None)


def _delivery(body: str | None) -> UUID | None:
    head = HEAD.match(body or "")
    return UUID(head["delivery"]) if head else None


def _find_comment(issue: Issue, note: Note) -> IssueComment | None:
    comments = issue.get_comments(since=(note.began_at or now()) - CLOCKS_DIFFER)
    signed = _signed(note)
    return next((each for each in islice(comments, LOOKED_THROUGH) if (each.body or "").startswith(signed)), None)


def _listed(repo: Repository, labels: list[str], since: datetime) -> Iterator[Issue]:
    """The latest first."""
    return islice(repo.get_issues(state="all", labels=labels, sort="created", since=since), LOOKED_THROUGH)


# --------------------------------------------------------------------------------------------- what is changed


def _make_labels(repo: Repository, labels: list[str]) -> None:
    for label in labels:
        try:
            repo.get_label(label).complete()
        except GithubException as error:
            if error.status != 404:
                raise
            _make_label(repo, label)


def _make_label(repo: Repository, label: str) -> None:
    try:
        repo.create_label(label, COLOURS.get(label, SIGNAL_COLOUR))
    except GithubException as error:
        if error.status != 422:  # somebody was faster
            raise


def _opened(issue: Issue) -> Receipt:
    words = f"Opened issue {issue.number} in {read_settings().repo}"
    return Receipt(words, str(issue.number), http_address(issue.html_url))


def _commented(issue: Issue, comment: IssueComment, note: Note) -> Receipt:
    """Grades or closes the issue too where that is due; to do so twice is to do it once."""
    words = f"Commented on issue {issue.number}"
    if note.kind == Kind.WORSENED:
        _grade(issue, note)
        words = f"{words}, which is {_word(note.severity)} now"
    if note.kind == Kind.CLEARED and issue.state == "open" and _closes(note):
        issue.edit(state="closed", state_reason="completed")
        words = f"{words} and closed it"
    return Receipt(words, str(issue.number), http_address(comment.html_url))


def _grade(issue: Issue, note: Note) -> None:
    """Its severity's label is another now, and so is the marker by which it is found. Other labels stay."""
    others = [label.name for label in issue.labels if not label.name.startswith("severity:")]
    body = issue.body or ""
    head = HEAD.match(body)
    marked = f"{_marked(note)}{body[head.end('about') :]}" if head else body
    issue.edit(labels=[*others, f"severity:{_word(note.severity)}"], body=marked)


def _closes(note: Note) -> bool:
    mode = read_settings().close
    return mode == "cleared" or (mode == "byteport" and note.record.resolved_by == ResolvedBy.BYTEPORT)


# -------------------------------------------------------------------------------------------- the way to GitHub


@contextmanager
def talking() -> Iterator[Repository]:
    """The repository. Whatever goes wrong meanwhile becomes one of BytePort's own errors."""
    try:
        with client_of(read_settings()) as (client, name):
            yield client.get_repo(name)
    except BytePortError:
        raise
    except IncompletableObject as error:  # nothing that GitHub has said
        raise Temporary(f"GitHub's answer makes no sense: {line(str(error), 300)}") from error
    except GithubException as error:
        _give_up(error)
    except RequestException as error:
        raise Temporary(f"GitHub cannot be reached: {line(str(error), 300)}") from error
    except (ImproperlyConfigured, jwt.PyJWTError) as error:
        remedy = "Look at the token or the App's key: docs/escalation.md."
        raise Undeliverable(f"GitHub's credentials cannot be used: {line(str(error), 300)}", remedy=remedy) from error
    except RuntimeError as error:  # PyGithub's word for a redirection to elsewhere
        raise Undeliverable(line(str(error), 300), remedy="Correct BYTEPORT_GITHUB_URL.") from error
    except (BadAttributeException, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise Temporary(f"GitHub's answer makes no sense: {type(error).__name__}: {line(str(error), 300)}") from error


@contextmanager
def client_of(found: Settings) -> Iterator[tuple[Github, str]]:
    """Without retries of its own: it cannot know whether a POST that failed has been carried out."""
    auth: Auth.Auth = Auth.Token(found.token) if found.token else _app_auth(found)
    with Github(
        auth=auth,
        base_url=found.url.rstrip("/"),
        timeout=TIMEOUT_S,
        retry=None,
        per_page=100,
        user_agent="BytePort",
        lazy=True,  # a repository is not asked for before something is asked of it
        seconds_between_requests=None,
        seconds_between_writes=WRITE_PAUSE_S,
    ) as client:
        yield client, found.repo


def _app_auth(found: Settings) -> Auth.Auth:
    return Auth.AppAuth(found.app_id, found.app_key).get_installation_auth(int(found.installation_id))


REMEDIES: Mapping[int, str] = {
    401: "Set a token that is valid: BYTEPORT_GITHUB_TOKEN, or the App's key (docs/escalation.md).",
    403: "Give the token (or the App) the permission `Issues: read and write` for the repository.",
    404: "Correct BYTEPORT_GITHUB_REPO, or let the token (or the App) see that repository.",
    410: "Switch on issues in the repository's settings, or name another in BYTEPORT_GITHUB_REPO.",
    422: "See what GitHub says of it; the incident's page has the text that it refused.",
}


def _give_up(error: GithubException) -> NoReturn:
    """What an answer means."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    said = f"GitHub answers {error.status}: {line(error.message or str(error.data or ''), 300)}"
    if _is_limit(error, headers):
        raise Limited(said, delay_s=_pause_s(headers)) from error
    if error.status >= 500 or error.status in (0, 408):
        raise Temporary(said) from error
    remedy = REMEDIES.get(error.status)
    raise (Undeliverable(said, remedy=remedy) if remedy else Permanent(said)) from error


def _is_limit(error: GithubException, headers: Mapping[str, str]) -> bool:
    told = "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0"
    return error.status == 429 or isinstance(error, RateLimitExceededException) or (error.status == 403 and told)


def _pause_s(headers: Mapping[str, str]) -> float:
    """By `Retry-After`, else until the limit's reset, else a minute."""
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    if after.isdecimal():
        wanted = float(after)
    elif headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        wanted = int(reset) - now().timestamp() + 1
    else:
        wanted = PAUSE_S
    return min(max(wanted, 1.0), LONGEST_PAUSE_S)
