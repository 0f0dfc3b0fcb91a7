"""The log: JSON lines, or readable lines on a terminal; one canonical line per job at its end."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_QUERY = re.compile(r"(https?://|s3://)(?:[^\s/@'\"]*@)?([^\s?#'\"]*)[?#][^\s'\"]*")
_SECRET = re.compile(r"(?i)(key|token|secret|password|authorization|credential)s?$")


def configure(*, terminal: bool | None = None) -> None:
    """Sets the log up for a program. Everything goes to standard error."""
    readable = sys.stderr.isatty() if terminal is None else terminal
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=readable, pad_event_to=24)
        if readable
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
            structlog.processors.format_exc_info,
            mask,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get() -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No secret by name, and no URL with its query or user part, which is where signatures and passwords stand."""
    for name, value in event.items():
        if name == "event":
            continue
        if _SECRET.search(name):
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = mask_urls(value)
    return event


def mask_urls(text: str) -> str:
    return _QUERY.sub(r"\1\2", re.sub(r"(https?://|s3://)[^\s/@'\"]*@", r"\1", text))
