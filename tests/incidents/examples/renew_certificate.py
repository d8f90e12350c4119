"""certificate_expiry: cert-manager has not renewed a certificate in time, and is asked to."""

from byteport.core.resource import ResourceRef
from runbooks.library import renew_certificate
from tests.incidents.examples.kubernetes import treated, view

CERTIFICATE = ResourceRef("kubernetes", "prod", "certificate", "shop-tls", "shop")
DAY_S = 86_400.0

EXAMPLE = treated(
    view(47, "certificate_expiry", CERTIFICATE, severity="warning"),
    renew_certificate.RUNBOOK,
    renew_certificate.Found(
        uid="0a5d4b1e-6c3f-4d77-9a0c-0d8f6a3c2b19",
        revision=3,
        not_after="2026-03-12T09:00:00Z",
        ends_in_s=11 * DAY_S + 20_840,
        overdue_s=18 * DAY_S + 65_560,
        ready="True (Ready): Certificate is up to date and has not expired",
        issuer="ClusterIssuer letsencrypt",
        names=("shop.example.com", "www.shop.example.com"),
    ),
    fired="It is valid until 2026-03-12T09:00:00Z, and past its renewal time.",
    changes=("Issuing: nothing → True",),
    waited=((12, "cert-manager is issuing it"), (48, "it is valid until 2026-05-30T03:13:20Z")),
    good="it is Ready, and valid until 2026-05-30T03:13:20Z",
    ended_s=98,
)
