"""The console in Debian's Chromium. Real: the browser, HTTP, static files, PostgreSQL, every view and script.

Not real: the loop does not run; the tests write what it would write (`tests.incidents.scenes`).
Without Chromium all of this is skipped: `apt-get install chromium fonts-dejavu-core` brings it.
"""

import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from runbooks.models import AgentSettings, Approval
from signals.models import SignalEvent, Source
from tests.incidents import scenes

CHROMIUM = shutil.which("chromium") or ""
DESKTOP, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 844}
PAGES = (
    "/",
    "/incidents/?group=all",
    "/incidents/?group=simulated&q=nothing",
    "/incidents/{}/",
    "/incidents/{}/postmortem",
    "/postmortems/",
    "/postmortems/?q=nothing",
    "/agent/",
    "/agent/dry-run/",
    "/runbooks/",
    "/runbooks/cleanup_logs/",
    "/incidents/999999/",
)
COLOURS = """() => [...document.querySelectorAll("body, body *")].map((element) => {
  const style = getComputedStyle(element);
  return [style.color, style.backgroundColor, style.borderTopColor, style.stroke, style.boxShadow];
})"""
HOSTILE = ResourceRef("host", '"><script>alert(1)</script>', "mount", "<img src=x onerror=alert(2)>")

pytestmark = [
    pytest.mark.proof,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt-get install chromium)"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Playwright keeps an event loop in this thread, which Django takes for asynchronous code.
    with pytest.MonkeyPatch.context() as environment, sync_playwright() as playwright:
        environment.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """A browser window in which an operator is signed in; it notes every complaint of the browser's."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.context = context
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _note(self, message: object) -> None:
        if message.type in ("error", "warning") and "404 (Not Found)" not in message.text:
            self.complaints.append(message.text)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def look_again(self) -> None:
        """As when one comes back to the tab: every live part asks anew, at once."""
        with self.page.expect_response(lambda answer: "/top/" not in answer.url):
            self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.fixture
def make_desk(browser: Browser, live_server) -> Iterator[object]:
    opened: list[BrowserContext] = []

    def make(**options: object) -> Desk:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(5000)
        context.set_default_navigation_timeout(30_000)  # the first page of all waits for a server that has just begun
        opened.append(context)
        client = Client()
        client.force_login(User.objects.get_or_create(username="ada", is_staff=True, is_superuser=True)[0])
        session = {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}
        context.add_cookies([session])
        return Desk(context, live_server.url)

    yield make
    for context in opened:
        context.close()


@pytest.fixture
def desk(make_desk) -> Desk:
    return make_desk()


@pytest.fixture
def night() -> SignalEvent:
    """Something of everything; returns the escalated one."""
    scenes.alive("worker")
    Source.objects.get_or_create(slug="host", defaults={"kind": "host"})
    for status in ("acting", "simulated", "resolved"):
        scenes.planned(status)
    scenes.incident("escalated", HOSTILE, reason="<b>why</b>")
    scenes.awaiting_approval()
    event = scenes.planned("escalated", severity="critical", reason="The gate `opt_in` refused.", postmortem_md="#")
    scenes.gates(event, 1, opt_in="Not opted in.")
    scenes.gates(event, 2)
    scenes.action(event, "journal", "done", "Freed.", result={"freed_bytes": 10**9})
    scenes.look(event, 60, 91.0, "bad")
    issue = "https://github.com/acme/ops/issues/5#issuecomment-1234567890"
    body = "| Fact | On record |\n| --- | --- |\n| **Signal** | Disk |\n\n### What you can do\n\n```sh\ndf -h\n```"
    scenes.delivery(event, "github", "sent", sent_at=now(), url=issue, title="Disk pressure", body=body)
    scenes.delivery(event, "postmark", "failed", error="Inactive: a@example.com", remedy="Reactivate the address.")
    scenes.delivery(event, "postmark", "held", kind="reminder", error="The agent is in dry-run: nobody is told.")
    return event


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_quiet_and_fits(make_desk, night: SignalEvent, scheme: str, size: object) -> None:
    desk = make_desk(color_scheme=scheme, viewport=size)
    for path in PAGES:
        page = desk.open(path.format(night.pk))
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        found = Axe().run(page).response["violations"]
        assert [(path, each["id"], [node["target"] for node in each["nodes"]]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
    assert desk.complaints == []


def test_the_login_page_is_accessible_and_leads_on(browser: Browser, live_server) -> None:
    User.objects.create_user("ada", password="a-good-password-1")
    page = browser.new_page()
    page.goto(f"{live_server.url}/incidents/")
    assert Axe().run(page).response["violations"] == []
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill("a-good-password-1")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Incidents")).to_be_visible()
    page.context.close()


def test_a_change_appears_without_a_reload_and_disturbs_nothing(desk: Desk) -> None:
    event = scenes.planned("acting")
    scenes.gates(event, 1)
    scenes.gates(event, 2)
    page = desk.open(f"/incidents/{event.pk}/")
    page.evaluate("window.notReloaded = true")
    page.locator("#round-1 summary").click()
    page.locator("#facts summary").focus()
    SignalEvent.objects.filter(pk=event.pk).update(status="verifying", reason="Now it is looked at.")
    desk.look_again()
    expect(page.get_by_text("Now it is looked at.").first).to_be_visible()
    expect(page.locator("#announce")).to_contain_text("Verifying")
    assert page.evaluate("window.notReloaded")
    assert page.evaluate("document.activeElement.parentElement.id") == "facts"
    assert page.locator("#round-1").get_attribute("open") is not None


def test_what_is_being_typed_stays_while_the_page_goes_on(desk: Desk) -> None:
    event = scenes.awaiting_approval()
    page = desk.open("/")
    page.locator(f"#why-{event.pk}").fill("backup is run")
    page.locator("#h-now").click()
    scenes.incident("escalated", ResourceRef("host", "new-one", "mount", "/"))
    desk.look_again()
    expect(page.get_by_text("/ on new-one")).to_be_visible()
    assert page.locator(f"#why-{event.pk}").input_value() == "backup is run"


def test_a_hidden_tab_asks_for_nothing(desk: Desk) -> None:
    page = desk.open("/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("document.querySelectorAll('[data-poll]').forEach((each) => { each.dataset.poll = '0.2'; })")
    page.wait_for_timeout(1500)
    assert asked
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(1500)
    assert asked == []


def test_a_page_that_cannot_be_renewed_says_so_until_it_can(desk: Desk) -> None:
    page = desk.open("/")
    page.route("**/*", lambda route: route.abort())
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#offline")).to_contain_text("may be out of date")
    page.unroute("**/*")
    desk.look_again()
    expect(page.locator("#offline")).to_be_hidden()


def test_an_ended_session_leads_to_the_login_not_into_the_page(desk: Desk) -> None:
    page = desk.open("/incidents/?group=all")
    Session.objects.all().delete()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_url("**/login/?next=%2Fincidents%2F%3Fgroup%3Dall")


def test_the_number_that_need_a_person_stands_in_the_title(desk: Desk) -> None:
    page = desk.open("/agent/")
    expect(page).to_have_title("Agent · BytePort")
    scenes.incident("escalated")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page).to_have_title("(1) Agent · BytePort")


def test_approving_asks_again_and_cancel_changes_nothing(desk: Desk) -> None:
    event = scenes.awaiting_approval()
    page = desk.open("/")
    approve, dialog = page.locator(f"#approve-{event.pk}"), page.locator("#confirm")
    approve.click()
    expect(dialog).to_contain_text("vacuum the journal; delete rotated logs.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert Approval.objects.get().approved is None
    approve.click()
    dialog.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("You approved the plan")).to_be_visible()
    assert Approval.objects.get().approved is True


def test_everything_essential_works_without_javascript(make_desk) -> None:
    event = scenes.awaiting_approval()
    page = make_desk(java_script_enabled=False).open("/")
    page.locator(f"#approve-{event.pk}").click()
    expect(page.get_by_text("You approved the plan")).to_be_visible()
    page.get_by_role("link", name="Switch off…").click()
    page.get_by_role("button", name="Switch dry-run off").click()
    expect(page.get_by_text("Dry-run is off: BytePort acts from now on")).to_be_visible()
    page.get_by_label("Why BytePort is paused").fill("moving racks")
    page.get_by_role("button", name="Pause").click()
    assert AgentSettings.objects.get().paused_reason == "moving racks"
    page.get_by_role("button", name="Theme: auto").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("link", name="Incidents").click()
    page.get_by_label("Search in resources").fill("web-1")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("link", name="Disk pressure /var on web-1")).to_be_visible()
    page.get_by_role("button", name="Sign out ada").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("path", ["/runbooks/", "/agent/", "/incidents/?group=resolved"])
def test_on_a_phone_the_present_page_is_in_sight_among_the_links(make_desk, path: str) -> None:
    page = make_desk(viewport=PHONE).open(path)
    for here in page.locator(".nav [aria-current], .tabs [aria-current]").all():
        box = here.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


def test_the_list_is_walked_and_opened_by_keys(desk: Desk) -> None:
    older, newer = scenes.incident("acting"), scenes.incident("escalated")
    page = desk.open("/incidents/")

    def focused() -> str:
        return page.evaluate("document.activeElement.getAttribute('href')")

    page.keyboard.press("j")
    assert focused() == f"/incidents/{newer.pk}/"
    page.keyboard.press("j")
    assert focused() == f"/incidents/{older.pk}/"
    page.keyboard.press("ArrowUp")
    assert focused() == f"/incidents/{newer.pk}/"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/incidents/{newer.pk}/")


def test_keys_go_search_and_help(desk: Desk) -> None:
    page = desk.open("/")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.wait_for_url("**/agent/")
    page.keyboard.press("/")
    page.wait_for_url("**/incidents/#q")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("g o?")
    expect(page.locator("#q")).to_have_value("g o?")


def test_the_keys_can_be_switched_off(desk: Desk) -> None:
    page = desk.open("/agent/")
    page.get_by_role("button", name="Keyboard help").click()
    page.get_by_label("Use these keys in this browser").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_hidden()
    assert page.url.endswith("/agent/")


def test_the_theme_stays_chosen(desk: Desk) -> None:
    page = desk.open("/")
    page.get_by_role("button", name="Theme: auto").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Theme: dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


@pytest.mark.parametrize(("theme", "system"), [("dark", "light"), ("light", "dark")])
def test_a_chosen_theme_has_the_very_colours_of_a_system_that_is_set_so(
    make_desk, night: SignalEvent, theme: str, system: str
) -> None:
    """So what is found accessible by the system's setting is accessible by the switch."""
    by_system, by_switch = make_desk(color_scheme=theme), make_desk(color_scheme=system)
    by_switch.context.add_cookies([{"name": "byteport_theme", "value": theme, "url": by_switch.url}])
    for path in ("/", f"/incidents/{night.pk}/"):
        colours = [desk.open(path).evaluate(COLOURS) for desk in (by_system, by_switch)]
        assert colours[0] == colours[1], path
    assert len({colour for element in colours[0] for colour in element}) > 10


def test_a_command_is_copied_as_it_stands(make_desk) -> None:
    event = scenes.planned("escalated", ResourceRef("host", "web-1", "mount", "/srv/it's <here>"))
    desk = make_desk(permissions=["clipboard-read", "clipboard-write"])
    page = desk.open(f"/incidents/{event.pk}/")
    page.get_by_role("button", name="Copy command 2").click()
    expect(page.locator("#announce")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#command-2").text_content()
    assert "<here>" in copied


def test_relative_times_go_on_by_the_servers_clock(desk: Desk) -> None:
    event = scenes.incident("escalated")
    desk.page.add_init_script("Date.now = ((real) => () => real() + 7200000)(Date.now)")
    page = desk.open(f"/incidents/{event.pk}/")
    time = page.locator("dt:has-text('Detected') + dd time")
    assert time.get_attribute("title").endswith("UTC")
    page.wait_for_timeout(5500)  # the script has written the times anew, with a clock that is two hours fast
    expect(time).to_have_text("10 min ago")
    page.route("**/*", lambda route: route.abort())
    page.evaluate("Date.now = ((real) => () => real() + 120000)(Date.now)")
    expect(time).to_have_text("12 min ago", timeout=8000)


def test_a_postmortem_on_paper_is_light_and_nothing_but_the_text(make_desk, night: SignalEvent) -> None:
    page = make_desk(color_scheme="dark").open(f"/incidents/{night.pk}/postmortem")
    colour = "getComputedStyle(document.querySelector('.postmortem')).color"
    on_screen = page.evaluate(colour)
    page.emulate_media(media="print")
    assert (page.evaluate(colour), on_screen) == ("rgb(22, 32, 43)", "rgb(227, 232, 238)")
    assert not any(page.locator(part).is_visible() for part in ("#top", ".postmortem-nav"))
    assert page.locator(".postmortem-trend svg").is_visible()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF-")
