"""Logging for people on stderr: one line an event, silent in normal operation."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from syncline.errors import see


def configure_logging(level: str = "warning", *, as_json: bool = False) -> None:
    """Set up structlog and the standard library's logging. Called once, by an entry point."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(
        stream=sys.stderr, level=number, format="%(levelname)s %(name)s %(message)s"
    )
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _name_section,
            structlog.processors.format_exc_info
            if as_json
            else structlog.processors.UnicodeDecoder(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def _name_section(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """An event that calls for attention says where it is explained."""
    return event if method in ("debug", "info") else {**event, "see": see(event["event"])}
