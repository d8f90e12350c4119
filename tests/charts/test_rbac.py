"""What the chart's service accounts may do: what the code declares for what is switched on, no verb more, none less.

Real: Helm renders the chart, the declarations are those of the code. No cluster.
"""

from itertools import chain, combinations

import pytest

from byteport.clients.hosts.node import PERMISSIONS
from byteport.core.permissions import cluster_permissions
from runbooks import rbac
from runbooks.chart import built_in, switch_of
from tests.charts.rendering import EVERYTHING, NAMESPACE, NOTHING, PROCESSES, environment, one, pods, render

NAMES = built_in()
COMBINATIONS = list(chain.from_iterable(combinations(NAMES, count) for count in range(len(NAMES) + 1)))


def switched(names):
    return {"runbooks": {switch_of(name): {"enabled": name in names} for name in NAMES}}


def triples(rules):
    """Each right on its own. A wildcard stays one, and so equals no right that is declared."""
    return [
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def declared(needs):
    return {(one.group, one.resource, verb) for one in rbac.union(needs) for verb in one.verbs}


def granted(objects, process):
    """The rights of a process, from its pod's account over the binding to the role."""
    account = pods(objects)[f"byteport-{process}"]["spec"]["serviceAccountName"]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    bound = [each for each in objects if each["kind"] == "ClusterRoleBinding" and subject in each["subjects"]]
    roles = [one(objects, "ClusterRole", each["roleRef"]["name"]) for each in bound]
    found = triples(chain.from_iterable(role["rules"] for role in roles))
    assert len(found) == len(set(found)), "a right is granted twice"
    return set(found)


@pytest.mark.parametrize("names", COMBINATIONS, ids=lambda names: "+".join(names) or "none")
def test_the_worker_may_do_what_the_runbooks_that_are_on_declare_and_nothing_else(names):
    objects = render(switched(names))
    assert granted(objects, "worker") == declared(rbac.of_runbooks(names))
    assert granted(objects, "watch") == declared(rbac.of_sources())
    told = environment(pods(objects)["byteport-worker"], objects)["BYTEPORT_RUNBOOKS"]
    assert told == (",".join(sorted(names)) or "none")


def test_a_switch_that_an_older_releases_values_do_not_have_is_off():
    objects = render({"runbooks": dict.fromkeys(map(switch_of, NAMES))})
    assert granted(objects, "worker") == set()
    assert environment(pods(objects)["byteport-worker"], objects)["BYTEPORT_RUNBOOKS"] == "none"


def test_the_web_process_may_do_nothing_and_has_no_token():
    objects = render()
    assert granted(objects, "web") == set()
    assert pods(objects)["byteport-web"]["spec"]["automountServiceAccountToken"] is False


def test_the_setup_may_do_nothing_and_has_no_token():
    spec = pods(render())["byteport-setup"]["spec"]
    assert "serviceAccountName" not in spec
    assert spec["automountServiceAccountToken"] is False


def test_without_rbac_no_right_is_given_at_all():
    assert [each for each in render(NOTHING) if "Role" in each["kind"]] == []


def test_a_runbook_of_another_package_adds_the_rules_that_are_given_for_it():
    rule = EVERYTHING["extraRunbooks"]["reindex"]["rules"][0]
    objects = render({**switched(()), "extraRunbooks": EVERYTHING["extraRunbooks"]})
    assert granted(objects, "worker") == set(triples([rule]))
    assert environment(pods(objects)["byteport-worker"], objects)["BYTEPORT_RUNBOOKS"] == "reindex"


def test_node_access_is_off_and_once_on_ends_at_this_namespace():
    assert [each for each in render() if each["kind"] in ("Role", "RoleBinding")] == []
    objects = render({"nodeAccess": {"enabled": True}})
    nodes = one(objects, "ClusterRole", "ops:byteport:nodes")
    rights = {*triples(one(objects, "Role")["rules"]), *triples(nodes["rules"])}
    assert rights == {
        (need.group, need.resource, verb) for need in cluster_permissions(PERMISSIONS) for verb in need.verbs
    }
    binding = one(objects, "RoleBinding")
    assert {subject["name"] for subject in binding["subjects"]} == {"byteport-worker", "byteport-watch"}
    assert {subject["namespace"] for subject in binding["subjects"]} == {NAMESPACE}
    assert granted(objects, "worker") == granted(render(), "worker") | {("", "nodes", "get")}
    assert granted(objects, "web") == set()


def test_node_access_tells_the_worker_which_image_and_namespace_its_jobs_have():
    told = environment(pods(render(EVERYTHING))["agent-worker"], render(EVERYTHING))
    image = EVERYTHING["image"]
    assert told["BYTEPORT_NODE_IMAGE"] == f"{image['repository']}@{image['digest']}"
    assert told["BYTEPORT_NODE_PULL_SECRETS"] == "registry"
    assert told["BYTEPORT_NAMESPACE"] == NAMESPACE
    assert "BYTEPORT_NODE_IMAGE" not in environment(pods(render())["byteport-worker"], render())


def test_two_releases_of_one_name_in_two_namespaces_share_no_role():
    def roles(namespace):
        return {each["metadata"]["name"] for each in render(namespace=namespace) if "ClusterRole" in each["kind"]}

    assert roles("ops").isdisjoint(roles("ops-2"))


def test_every_process_has_an_account_of_its_own():
    objects = render()
    accounts = {pods(objects)[f"byteport-{process}"]["spec"]["serviceAccountName"] for process in PROCESSES}
    assert accounts == {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert len(accounts) == len(PROCESSES)
