"""What the query of a request says."""

from __future__ import annotations

from flask import request

from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.answers.service import Service
from spillover.edge_server.wire.errors import bad_request

_MOST_DIGITS = 20


def queried_model(service: Service) -> ServedModel:
    """The model that the query names, or the default one."""
    return service.models.asked(request.args.get("model", ""))


def number_in_query(name: str, default: int, *, least: int, most: int) -> int:
    """The integer that the query gives as *name*, or a 400."""
    text = request.args.get(name)
    if text is None:
        return default
    is_short = len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit()
    if not is_short or not least <= int(text) <= most:
        raise bad_request(f"{name} must be an integer from {least} to {most}", name)
    return int(text)
