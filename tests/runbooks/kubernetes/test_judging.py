"""Quantities, limits, opt-in, other writers and Git's owners: the small pure parts."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbooks.kubernetes import gitops, memory, quantity
from runbooks.kubernetes.changes import changed_by_others
from runbooks.kubernetes.objects import Meta, Workload, read_as
from runbooks.kubernetes.optin import opt_in_of
from runbooks.runbook import CannotPlan
from tests.kubernetes.standin import recorded
from tests.runbooks.shop import ref

WEB = ref("deployment", "web")
KEY = "byteport.io/auto-remediate"


# --- quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("128Mi", 134217728), ("1Gi", 2**30), ("1.5Gi", 1610612736), ("1G", 10**9), ("500M", 5 * 10**8), ("1e9", 10**9),
        ("1E", 10**18), ("100", 100), ("250m", Decimal("0.25")), ("0", 0), (".5", Decimal("0.5")), ("12E6", 12 * 10**6),
        ("1500n", Decimal("0.0000015")), ("3u", Decimal("0.000003")), ("2k", 2000),
    ],
)  # fmt: skip
def test_a_quantity_is_read(text, value):
    assert quantity.parse(text) == value


@pytest.mark.parametrize(
    "text", ["", "Mi", "-1", "+1", "1 Mi", "1MiB", "1mi", "lots", "1e", "1e999", "9" * 99, "0x1", "١"]
)
def test_what_is_no_quantity_is_none(text):
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


@given(st.integers(1, 2**60))
def test_bytes_written_are_bytes_read(count):
    assert quantity.parse(quantity.memory(count)) == count


def test_bytes_are_written_in_the_unit_that_makes_them_shortest():
    assert [quantity.memory(count) for count in (2**28, 2**30, 10**9, 1535)] == ["256Mi", "1Gi", "1G", "1535"]


# --- memory


def limits(now: str = "128Mi", noted: str = "") -> memory.Limits:
    return memory.Limits(now, "64Mi", noted)


@pytest.mark.parametrize(
    ("now", "noted", "raised"),
    [
        ("128Mi", "", "256Mi"),
        ("1G", "", "2G"),
        ("128Mi", "128Mi", "256Mi"),
        ("200Mi", "128Mi", "256Mi"),
        ("64Mi", "128Mi", "128Mi"),
        ("128Mi", "not a number", "256Mi"),
    ],
)
def test_a_limit_goes_to_twice_what_it_is_and_to_twice_what_it_was_at_first(now, noted, raised):
    assert memory.raised(limits(now, noted), "app") == raised


@pytest.mark.parametrize("found", [None, limits(""), limits("256Mi", "128Mi"), limits("1Gi", "128Mi"), limits("lots")])
def test_a_limit_that_cannot_be_raised_is_a_matter_for_people(found):
    assert isinstance(memory.raised(found, "app"), CannotPlan)


def test_limits_are_those_of_the_workloads_own_container():
    raw = recorded("dry_run_patch_memory_limit")
    raw["metadata"]["annotations"]["byteport.io/original-memory-limits"] = '{"app": "128Mi"}'
    workload = read_as(Workload, raw)
    assert memory.limits_of(workload, "app") == memory.Limits("256Mi", "64Mi", "128Mi")
    assert memory.limits_of(workload, "istio-proxy") is None


# --- opt-in


@pytest.mark.parametrize(
    ("namespace", "own", "given"),
    [
        ("crashloop", None, True),
        (" scale , crashloop ", None, True),
        ("crashloop", "crashloop", True),
        ("crashloop", "scale, crashloop", True),
        ("crashloop", "off", False),
        ("crashloop", "scale", False),
        ("crashloop", "", False),
        ("scale", "crashloop", False),
        ("crashloops", None, False),
        ("off", None, False),
        ("crashloop,off", None, False),
        ("Off, crashloop", None, False),
        ("crashloop", "crashloop,off", False),
        (None, None, False),
    ],
)
def test_the_namespace_opts_in_and_a_workload_opts_out(namespace, own, given):
    annotations = [{} if words is None else {KEY: words} for words in (namespace, own)]
    assert opt_in_of("crashloop", WEB, *annotations).given is given


def test_a_pod_template_can_opt_out_as_well():
    assert not opt_in_of("crashloop", WEB, {KEY: "crashloop"}, {}, {KEY: "off"}).given


def test_the_remedy_keeps_the_words_that_are_there():
    remedy = opt_in_of("crashloop", WEB, {KEY: "scale"}).remedy
    assert remedy == f"kubectl annotate namespace shop {KEY}=scale,crashloop --overwrite"
    without_off = opt_in_of("crashloop", WEB, {KEY: "scale,crashloop,off"}).remedy
    assert without_off == f"kubectl annotate namespace shop {KEY}=scale,crashloop --overwrite"
    assert opt_in_of("crashloop", WEB, {KEY: "crashloop"}, {KEY: "off"}).remedy == (
        f"kubectl -n shop annotate deployment web {KEY}-"
    )


# --- other writers


SINCE = datetime(2026, 11, 23, 20, tzinfo=UTC)


def written(manager: str, seconds: float, subresource: str = "") -> Meta:
    at = f"{SINCE + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"
    entry = {"manager": manager, "time": at, "subresource": subresource}
    return read_as(Meta, {"name": "web", "uid": "1", "managedFields": [entry]})


@pytest.mark.parametrize(
    "manager", ["kubectl-edit", "kubectl-client-side-apply", "argocd-controller", "helm", "", "cmctl"]
)
def test_a_change_by_somebody_else_since_then_is_told(manager):
    assert "changed it at 20:00:05 UTC" in changed_by_others(written(manager, 5), SINCE)
    assert changed_by_others(written(manager, 0), SINCE) == ""
    assert changed_by_others(written(manager, -5), SINCE) == ""


@pytest.mark.parametrize(
    ("manager", "subresource"),
    [
        ("byteport", ""),
        ("kube-controller-manager", ""),
        ("kube-controller-manager", "scale"),
        ("kubelet", "status"),
        ("cert-manager-certificates-readiness", "status"),
        ("anything", "status"),
    ],
)
def test_controllers_and_byteport_itself_are_nobody_else(manager, subresource):
    assert changed_by_others(written(manager, 5, subresource), SINCE) == ""


def moved(manager: str, seconds: float, subresource: str = "", generation: int = 3) -> str:
    found = msgspec.structs.replace(written(manager, seconds, subresource), generation=generation)
    return changed_by_others(found, SINCE, 2)


def test_a_newer_generation_is_a_change_by_somebody_unless_a_controller_made_it():
    assert "kubectl-edit changed it" in moved("kubectl-edit", 0), "within the very second of the detection"
    assert "its generation was 2 and is 3" in moved("kubectl-edit", -60), "nobody is on record for it"
    assert "its generation was 2 and is 3" in moved("kube-controller-manager", 5, "status")
    assert moved("kube-controller-manager", 5, "scale") == ""
    assert moved("kubectl-edit", 0, generation=2) == ""


def test_what_is_being_deleted_is_in_somebodys_hands():
    meta = read_as(Meta, {"name": "web", "uid": "1", "deletionTimestamp": "2026-11-23T19:00:00Z"})
    assert "being deleted" in changed_by_others(meta, SINCE)


# --- Git


def meta(labels: dict | None = None, annotations: dict | None = None, manager: str = "") -> Meta:
    raw = {"name": "web", "uid": "1", "labels": labels or {}, "annotations": annotations or {}}
    return read_as(Meta, {**raw, "managedFields": [{"manager": manager}] if manager else []})


def application(automated: object = None, name: str = "shop", **more: object) -> dict:
    policy = {} if automated is None else {"syncPolicy": {"automated": automated}}
    return {"metadata": {"name": name}, "spec": policy, **more}


LABELLED = meta(labels={"app.kubernetes.io/instance": "shop"})
TRACKED = meta(annotations={"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"})
FOREIGN = meta(annotations={"argocd.argoproj.io/tracking-id": "team_shop:apps/Deployment:shop/web"})
APPLIED = meta(manager="argocd-controller")
HELM = meta(labels={"app.kubernetes.io/instance": "shop"}, annotations={"meta.helm.sh/release-name": "shop"})
HELD = {"resources": [{"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web"}]}


@pytest.mark.parametrize("found", [LABELLED, TRACKED, FOREIGN])
def test_what_argo_cd_syncs_by_itself_is_objected_to(found):
    for automated in ({}, {"prune": True}, {"enabled": True}, True, "odd"):
        assert "syncs it automatically" in gitops.objection(WEB, found, [application(automated)])


@pytest.mark.parametrize("found", [LABELLED, TRACKED, FOREIGN])
def test_what_argo_cd_syncs_only_when_told_to_is_not(found):
    for automated in (None, {"enabled": False}):
        assert gitops.objection(WEB, found, [application(automated)]) == ""


@pytest.mark.parametrize("found", [LABELLED, TRACKED, FOREIGN, APPLIED])
@pytest.mark.parametrize("applications", [None, [], [application({}, "another")]])
def test_an_application_that_cannot_be_seen_is_an_objection(found, applications):
    assert "cannot be read" in gitops.objection(WEB, found, applications)


def test_the_label_alone_may_be_helms_own():
    assert gitops.objection(WEB, HELM, []) == ""
    assert gitops.objection(WEB, HELM, None) == ""


def test_an_application_that_lists_it_counts_whatever_is_on_it():
    assert "Application shop" in gitops.objection(WEB, meta(), [application({}, status=HELD)])
    assert gitops.objection(WEB, meta(), [application({}, status={"resources": [{"name": "web"}, None, "x"]})]) == ""
    assert gitops.objection(WEB, meta(), None) == ""


def test_an_application_of_an_odd_shape_breaks_nothing():
    for odd in ({}, {"metadata": None, "spec": None, "status": None}, {"metadata": {"name": "shop"}, "spec": []}):
        assert isinstance(gitops.objection(WEB, TRACKED, [odd]), str)


@pytest.mark.parametrize("label", ["kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"])
def test_what_flux_manages_is_objected_to(label):
    assert "Flux" in gitops.objection(WEB, meta(labels={label: "shop"}), [])
