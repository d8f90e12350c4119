"""Structured logs: JSON lines for machines, aligned colours for a terminal. Never a secret."""

import logging
import logging.config
import sys
from io import StringIO
from typing import Any, TextIO

import structlog

from byteport.core import masking
from byteport.core.terminal import harmless

# A key that looks like one of these has its value masked, wherever in the log call it stands.
SECRET_WORDS = ("password", "secret", "token", "authorization", "api_key", "dsn", "cookie")


def mask_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """structlog processor: values of secret-looking keys never reach a log line, nor what looks like a secret in any
    other text, as in an error that quotes an address with its password."""
    for key, value in event.items():
        if any(word in key.lower() for word in SECRET_WORDS):
            event[key] = masking.MASK
        elif isinstance(value, str):
            event[key] = masking.mask_secrets(value)
    return event


def escape_controls(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """structlog processor for a terminal: what strangers send, in an address say, must not work its controls."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = harmless(value)
    return event


def _plain_traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Boxes around a traceback do not survive a prefix on each line; and an error may quote what strangers send."""
    told = StringIO()
    structlog.dev.plain_traceback(told, error)
    out.write(harmless(masking.mask_secrets(told.getvalue())))


def _for_a_terminal() -> structlog.typing.Processor:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=36, exception_formatter=_plain_traceback
    )


def logging_config(*, level: str, form: str) -> None:
    """Sends the standard library's loggers and structlog's to stderr in one form: "json", "console" or "auto"."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        mask_secrets,
    ]
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: list[structlog.typing.Processor] = (
        [escape_controls, _for_a_terminal()]
        if console
        else [structlog.processors.format_exc_info, mask_secrets, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter: dict[str, Any] = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": shared,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    }
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"structured": formatter},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                "django-q": {"level": "WARNING"},
                "django.request": {"level": "ERROR"},
                "axes": {"level": "WARNING"},
                "botocore": {"level": "WARNING"},
                "asyncssh": {"level": "WARNING"},  # it would tell every connection, with the command
            },
        }
    )
