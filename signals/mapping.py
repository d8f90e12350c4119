"""What an alert of a foreign sender is about: rules that lead from its name and labels to a signal and a resource.

An operator's own rules (`AlertMapping`) come first, then those that BytePort knows (`signals.standard_alerts`). What no
rule describes keeps its own name, as `alert:<name>`, and is about whatever its labels point at. Pure.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache

import msgspec

from byteport.core.resource import ResourceRef
from signals.untrusted import SIGNAL_CHARS, checked_resource

Labels = Mapping[str, str]

_SLOT = re.compile(r"\{([^{}]*)\}")
_PART = re.compile(r"=[^{}|]*|[A-Za-z_][\w.\-/]*(?::host)?")
# What a Kubernetes alert can be about, the most telling label first.
KUBERNETES_KINDS = (
    "persistentvolumeclaim", "horizontalpodautoscaler", "cronjob", "job_name", "deployment", "statefulset",
    "daemonset", "pod",
)  # fmt: skip
HOST_LABELS = ("instance", "host", "InstanceId", "instance_id", "hostname")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the mapping.

    `alert` and the patterns of `labels` are shell-style, several separated by `|`; a pattern that begins with `!` must
    not match (and an absent label never does). `resource` and `detail` are templates: `{label}` stands for a label's
    value, `{a|b|=text}` for the first that is there, `{instance:host}` for the value without its port. A rule whose
    template lacks a label does not apply.
    """

    name: str
    alert: str = "*"
    labels: tuple[tuple[str, str], ...] = ()
    signal: str
    resource: str
    detail: str = ""


class RuleSet:
    """Rules in order. Two sets are equal only when they are one, so that what follows from one can be remembered."""

    __slots__ = ("rules",)

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)


class Meaning(msgspec.Struct, frozen=True):
    """What an alert is about. `why` says which rule said so."""

    signal: str
    resource: ResourceRef
    detail: str = ""
    why: str = ""


class MissingLabelError(LookupError):
    """A template asks for a label that the alert does not have."""


def meaning_of(name: str, labels: Labels, rules: RuleSet, *, sender: ResourceRef, key: str) -> Meaning:
    """The explicit labels win; then the first rule that applies; then whatever the labels point at.

    `sender` is what it is about when nothing else is known; `key` keeps alerts of one name on one thing apart.
    """
    known = next(_applying(name, labels, rules), None) or unlisted(name, labels, sender, key)
    resource = explicit_resource(labels) or known.resource
    signal = plain(labels.get("byteport_signal", ""))
    if signal:
        return Meaning(signal, resource, why="the label byteport_signal")
    return Meaning(known.signal, resource, known.detail, known.why)


def explain(name: str, labels: Labels, rules: RuleSet) -> Iterator[str]:
    """Why each rule that has to do with this alert applies or does not, in order."""
    for rule in candidates(name, rules):
        unfit = next((key for key, pattern in rule.labels if not _matches(pattern, labels.get(key, ""))), None)
        if unfit is not None:
            yield f"{rule.name}: the label {unfit} does not fit"
            continue
        try:
            applied(rule, labels)
        except (MissingLabelError, ValueError) as error:
            yield f"{rule.name}: {error}"
        else:
            yield f"{rule.name}: applies"


def _applying(name: str, labels: Labels, rules: RuleSet) -> Iterator[Meaning]:
    for rule in candidates(name, rules):
        if all(_matches(pattern, labels.get(key, "")) for key, pattern in rule.labels):
            try:
                yield applied(rule, labels)
            except (MissingLabelError, ValueError):
                continue


def applied(rule: Rule, labels: Labels) -> Meaning:
    """The rule's templates filled in. Raises MissingLabelError, or ValueError where no resource comes of it."""
    parts = [filled(part, labels) for part in rule.resource.split("/")]
    resource = checked_resource(ResourceRef.of_parts(parts))
    return Meaning(rule.signal, resource, plain(filled(rule.detail, labels)), f"the rule {rule.name}")


def filled(template: str, labels: Labels) -> str:
    """`{a|b|=text}`: the first label that is there, or the text. Raises MissingLabelError."""
    return _SLOT.sub(lambda slot: _value(slot[1], labels), template)


def _value(alternatives: str, labels: Labels) -> str:
    for alternative in alternatives.split("|"):
        if alternative.startswith("="):
            return alternative[1:]
        label, _, form = alternative.partition(":")
        value = labels.get(label, "")
        if value:
            return host_of(value) if form == "host" else value
    raise MissingLabelError(f"the alert has no label {alternatives.replace('|', ' or ')}")


def template_fault(template: str) -> str:
    """What is wrong with a template; empty when nothing is."""
    for slot in _SLOT.findall(template):
        wrong = next((part for part in slot.split("|") if not _PART.fullmatch(part)), None)
        if wrong is not None:
            return f"{{{slot}}}: {wrong!r} is neither a label nor =text"
    return "a brace is open or left over" if re.search(r"[{}]", _SLOT.sub("", template)) else ""


def resource_fault(template: str) -> str:
    """What is wrong with a resource's template; empty when nothing is."""
    if len(template.split("/")) not in (4, 5) or not all(template.split("/")):
        return "write platform/place/kind/name, or platform/place/namespace/kind/name"
    return template_fault(template)


# --- which rules have to do with an alert


@lru_cache(maxsize=4096)  # a sender has few alert names; a hostile one pushes out its own
def candidates(name: str, rules: RuleSet) -> Sequence[Rule]:
    """The rules whose pattern fits this alert's name, in order."""
    return tuple(rule for rule in rules.rules if _matches(rule.alert, name))


def _matches(pattern: str, value: str) -> bool:
    if pattern.startswith("!"):
        return not _pattern(pattern[1:]).fullmatch(value)
    return bool(value) and bool(_pattern(pattern).fullmatch(value))


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(one) for one in pattern.split("|")))


# --- what the labels say by themselves


def explicit_resource(labels: Labels) -> ResourceRef | None:
    """The label `byteport_resource`; None when there is none, or it is not a reference that a sender may name."""
    text = labels.get("byteport_resource")
    if not text:
        return None
    try:
        return checked_resource(ResourceRef.parse(text))
    except ValueError:
        return None


def unlisted(name: str, labels: Labels, sender: ResourceRef, key: str) -> Meaning:
    """An alert under its own name. Its key keeps it apart from others of that name on the same thing."""
    known_as = plain(name) or "unnamed"
    try:
        resource = checked_resource(_pointed_at(name, labels))
    except (MissingLabelError, ValueError):
        resource = sender
    return Meaning(f"alert:{known_as}"[:SIGNAL_CHARS], resource, plain(key), "no rule: it keeps its own name")


def _pointed_at(name: str, labels: Labels) -> ResourceRef:
    """Raises MissingLabelError when the labels point at nothing. Alerts of node-exporter also carry its own pod's."""
    host = next((labels[key] for key in HOST_LABELS if labels.get(key)), "")
    of_a_host = labels.get("job") == "node-exporter" or name.startswith(("Node", "Host"))
    if labels.get("namespace") and not (of_a_host and host):
        return _in_namespace(labels)
    if labels.get("node") and not of_a_host:
        return ResourceRef("kubernetes", _cluster(labels), "node", labels["node"])
    if not host_of(host):
        raise MissingLabelError("the labels name no host")
    return ResourceRef("host", host_of(host), "host", host_of(host))


def _in_namespace(labels: Labels) -> ResourceRef:
    cluster, namespace = _cluster(labels), labels["namespace"]
    for key in KUBERNETES_KINDS:
        if labels.get(key):
            return ResourceRef("kubernetes", cluster, key.removesuffix("_name"), labels[key], namespace)
    return ResourceRef("kubernetes", cluster, "namespace", namespace)


def _cluster(labels: Labels) -> str:
    return labels.get("cluster") or "default"


def plain(text: str) -> str:
    """Fit for a signal or a detail: printable and short."""
    if len(text) <= SIGNAL_CHARS and text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:SIGNAL_CHARS])


@lru_cache(maxsize=4096)
def host_of(instance: str) -> str:
    """`web-1:9100` → `web-1`, `[::1]:9100` → `::1`. What has no port stays as it is."""
    bracketed = re.fullmatch(r"\[(.+)\](?::[0-9]+)?", instance)
    if bracketed:
        return bracketed[1]
    host, _, port = instance.rpartition(":")
    return host if host and ":" not in host and re.fullmatch("[0-9]+", port) else instance
