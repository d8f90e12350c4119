"""The admin in Debian's Chromium. Real: the browser with its content security policy, HTTP, PostgreSQL, every page.

Not real: the loop does not run; incidents are the rows of `tests.incidents.scenes`. Skipped without Chromium.
"""

import shutil
from collections.abc import Iterator

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse
from playwright.sync_api import Page, expect, sync_playwright

from byteport import seeds
from byteport.core.resource import ResourceRef
from byteport.models import AuditEntry
from runbooks.models import AgentSettings
from signals.models import OutgoingWebhook, Source
from tests.incidents import scenes

CHROMIUM = shutil.which("chromium") or ""
HOSTILE = ResourceRef("host", '"><script>alert(1)</script>', "mount", "<img src=x onerror=alert(2)>")

pytestmark = [
    pytest.mark.proof,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (apt-get install chromium)"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def page(live_server, monkeypatch) -> Iterator[Page]:
    """Signed in through the admin's own form. The test fails when the browser has complained of anything."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright keeps an event loop in this thread
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=live_server.url, viewport={"width": 1360, "height": 900})
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        seeds.plant()
        User.objects.create_superuser("anna", password="right-horse-9")
        page.goto(reverse("admin:index"))
        page.fill("[name=username]", "anna")
        page.fill("[name=password]", "right-horse-9")
        page.click("[type=submit]")
        expect(page.locator("#nav-sidebar-apps")).to_be_visible()
        yield page
        browser.close()
    assert complaints == []


def test_no_page_makes_the_browser_complain_whatever_the_record_holds(page):
    event = scenes.planned("escalated", HOSTILE, reason="<script>alert(3)</script>")
    scenes.action(event, "journal", "failed", "<script>alert(4)</script>")
    AuditEntry.objects.create(actor="<b>x", action="y", target="z", before={}, after={"a": "<script>alert(5)</script>"})
    for model in admin.site._registry:
        page.goto(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
        for row in model._default_manager.all()[:1]:
            page.goto(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.pk]))
    expect(page.locator("#main")).to_be_visible()


def test_tabs_and_filters_work_under_the_content_security_policy(page):
    event = scenes.planned("escalated")
    scenes.gates(event, 1, opt_in="no word")
    page.goto(reverse("admin:signals_signalevent_change", args=[event.pk]))
    expect(page.get_by_text("no word")).to_be_hidden()
    page.get_by_role("link", name="Gate verdicts").last.click()
    expect(page.get_by_text("no word")).to_be_visible()
    page.goto(reverse("admin:signals_signalevent_changelist"))
    page.locator("a", has_text="Filters").first.click()
    page.locator("select[name=signal]").select_option("memory_pressure")
    page.get_by_role("button", name="Apply Filters").click()
    page.wait_for_url("**signal=memory_pressure**")


def test_a_switch_is_switched_and_saved(page):
    page.goto(reverse("admin:runbooks_agentsettings_changelist"))
    page.locator("[name=dry_run]").uncheck(force=True)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was changed successfully")).to_be_visible()
    assert not AgentSettings.objects.get().dry_run


def test_a_switch_shows_that_it_has_the_focus(page):
    page.goto(reverse("admin:runbooks_agentsettings_changelist"))
    page.locator("#id_paused_reason").focus()
    page.keyboard.press("Shift+Tab")
    ring = "const it = getComputedStyle(document.activeElement); return [document.activeElement.id, it.outlineStyle]"
    assert page.evaluate(f"() => {{ {ring} }}") == ["id_paused", "solid"]


CONTRAST = """it => {
    const light = colour => {
        const part = document.createElement("canvas").getContext("2d");
        part.fillStyle = colour; part.fillRect(0, 0, 1, 1);
        const [r, g, b] = Array.from(part.getImageData(0, 0, 1, 1).data, each => each / 255)
            .map(each => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const solid = node => {
        const colour = getComputedStyle(node).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" && node.parentElement ? solid(node.parentElement) : colour;
    };
    const [front, back] = [light(getComputedStyle(it).color), light(solid(it))];
    return Math.max(front, back) / Math.min(front, back);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_links_stand_out_from_what_they_stand_on(page, scheme):
    page.emulate_media(color_scheme=scheme)
    row = Source.objects.create(slug="shop", kind="generic")
    page.goto(reverse("admin:signals_source_at_the_sender", args=[row.pk]))
    assert page.locator("a", has_text="Done: back to shop").evaluate(CONTRAST) >= 4.5


def test_a_webhook_is_made_and_its_secret_shown(page):
    page.goto(reverse("admin:signals_source_add"))
    page.fill("[name=slug]", "pager")
    page.locator("[name=kind]").select_option("generic")
    page.get_by_role("button", name="Save", exact=True).click()
    first = page.locator("#webhook-secret").inner_text()
    page.goto(reverse("admin:signals_source_change", args=[Source.objects.get(slug="pager").pk]))
    page.get_by_role("link", name="Make a new secret").click()
    page.get_by_role("button", name="Make a new secret").click()
    expect(page.locator("#webhook-secret")).not_to_have_text(first)


def test_an_outgoing_webhook_is_made_and_its_secret_shown(page):
    page.goto(reverse("admin:signals_outgoingwebhook_add"))
    page.fill("[name=name]", "pager")
    page.fill("[name=url]", "https://example.com/hook")
    page.get_by_label("incident.acted").uncheck()
    page.get_by_role("button", name="Save", exact=True).click()
    first = page.locator("#webhook-secret").inner_text()
    row = OutgoingWebhook.objects.get()
    assert row.kinds == ["incident.opened", "incident.escalated", "incident.resolved"]
    page.goto(reverse("admin:signals_outgoingwebhook_change", args=[row.pk]))
    page.get_by_role("link", name="Send a test event").click()
    page.get_by_role("button", name="Send a test event").click()
    expect(page.locator("#tests")).to_contain_text("waiting")
    page.goto(reverse("admin:signals_outgoingwebhook_change", args=[row.pk]))
    page.get_by_role("link", name="Make a new secret").click()
    page.get_by_role("button", name="Make a new secret").click()
    expect(page.locator("#webhook-secret")).not_to_have_text(first)
