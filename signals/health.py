"""What is known of each source's health, and the configuration that a source is called with."""

from datetime import datetime

from django.db.models import F

from byteport.sealing import unseal
from signals.models import Source
from signals.source import SourceConfig


def config_of(row: Source) -> SourceConfig:
    """The row as its source gets it, with the secret unsealed."""
    return SourceConfig(row.slug, row.options, unseal(row.sealed_secret) if row.sealed_secret else "")


def succeeded(slug: str, *, at: datetime, readings: int, latest: datetime | None) -> None:
    """Notes that a source was read, or has called."""
    fields = {"last_reading_at": latest} if latest else {}
    Source.objects.filter(slug=slug).update(
        last_success_at=at, last_error="", readings_total=F("readings_total") + readings, **fields
    )


def failed(slug: str, *, at: datetime, error: str) -> None:
    """Notes that a source could not be read. The text is shown to operators."""
    Source.objects.filter(slug=slug).update(last_error_at=at, last_error=error[:2000])
