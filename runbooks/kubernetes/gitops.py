"""Whether Argo CD or Flux keeps a Deployment as its repository says, and would undo a rollback. Pure."""

from collections.abc import Sequence

from byteport.core.resource import ResourceRef
from runbooks.kubernetes.objects import Meta, Raw

TRACKING_ID = "argocd.argoproj.io/tracking-id"
INSTANCE = "app.kubernetes.io/instance"
HELM_RELEASE = "meta.helm.sh/release-name"  # written by Helm itself, never by Argo CD, which only renders charts
FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
ARGO_MANAGERS = ("argocd-controller", "argocd-application-controller")


def objection(target: ResourceRef, meta: Meta, applications: Sequence[Raw] | None) -> str:
    """Why its owner in Git stands against a rollback; empty where nothing does.

    `applications`: all of Argo CD's Applications in the cluster; None when they cannot be read.
    """
    flux = next((label for label in FLUX if label in meta.labels), None)
    if flux is not None:
        return f"Flux manages it (label {flux}={meta.labels[flux]}) and would undo the rollback."
    return _argo_objection(target, meta, applications)


def _argo_objection(target: ResourceRef, meta: Meta, applications: Sequence[Raw] | None) -> str:
    sign = sign_of_argo(meta)
    mine = [found for found in applications or () if _holds(found, target) or _name(found) in named_by(meta)]
    synced = next((found for found in mine if is_auto_synced(found)), None)
    if synced is not None:
        return f"Argo CD syncs it automatically (Application {_name(synced)}) and would undo the rollback."
    if sign and not mine:
        return f"Argo CD manages it ({sign}), and whether it syncs automatically cannot be read from its Application."
    return ""


def sign_of_argo(meta: Meta) -> str:
    """What on the object says that Argo CD manages it; empty for none. The label alone may also be Helm's."""
    if TRACKING_ID in meta.annotations:
        return f"annotation {TRACKING_ID}"
    if any(entry.manager in ARGO_MANAGERS for entry in meta.managed_fields):
        return "it was last applied by Argo CD"
    if INSTANCE in meta.labels and HELM_RELEASE not in meta.annotations:
        return f"label {INSTANCE}={meta.labels[INSTANCE]}"
    return ""


def named_by(meta: Meta) -> set[str]:
    """The Application by the object itself: `my-app:apps/Deployment:shop/web`, `its-ns_my-app:…`, or the label."""
    tracked = meta.annotations.get(TRACKING_ID, "").partition(":")[0]
    named = {tracked, tracked.partition("_")[2]}
    if HELM_RELEASE not in meta.annotations:
        named.add(meta.labels.get(INSTANCE, ""))
    return named - {""}


def is_auto_synced(application: Raw) -> bool:
    """`spec.syncPolicy.automated`, unless it says `enabled: false`. What is not shaped so counts as automatic."""
    spec = application.get("spec")
    policy = spec.get("syncPolicy") if isinstance(spec, dict) else None
    automated = policy.get("automated") if isinstance(policy, dict) else None
    if automated is None:
        return False
    return not (isinstance(automated, dict) and automated.get("enabled") is False)


def _holds(application: Raw, target: ResourceRef) -> bool:
    status = application.get("status")
    resources = status.get("resources") if isinstance(status, dict) else None
    wanted = ("apps", "Deployment", target.namespace, target.name)
    return any(
        tuple(one.get(key, "") for key in ("group", "kind", "namespace", "name")) == wanted
        for one in resources or ()
        if isinstance(one, dict)
    )


def _name(application: Raw) -> str:
    metadata = application.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
