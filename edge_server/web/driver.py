"""Drives answers to their clients: one loop for the event loop, one for threads.

A view returns respond(answer). The bridge puts an empty list into the WSGI environment and drives
the answer that it finds there on the event loop, so that no thread waits for it. Other WSGI servers
have no such list: there the server's thread drives the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from flask import Response, request

from spillover.edge_server.answers.answer import Answer
from spillover.edge_server.web.connection import Connection
from spillover.edge_server.web.loop_reader import LoopCalls, LoopReader
from spillover.edge_server.wire.errors import WireError, from_exception
from spillover.runtime.errors import log_defect

ANSWERS_KEY = "spillover.answers"
LOADS_KEY = "spillover.loads"
"""A list for the names of models that must be loaded before the request is served, for servers that
wait for that and begin again."""
EVENTS_AT_ONCE = 256
"""Encoded before others have their turn."""
DECISION_S = 2.0
"""What refuses a stream within this time is a status; later it is an event of the stream."""

_log = logging.getLogger(__name__)

Event = TypeVar("Event")


def respond(answer: Answer[Any], keep_alive_s: float) -> Response:
    """What a view returns to send *answer*."""
    answers: list[Answer[Any]] | None = request.environ.get(ANSWERS_KEY)
    if answers is not None:
        answers.append(answer)
        return Response()
    answer.is_decided(DECISION_S if answer.is_stream else None)
    refusal = answer.refusal()
    if refusal is not None:
        answer.leave()
        raise refusal
    chunks = drive_in_thread(answer, keep_alive_s)
    if not answer.is_stream:
        body = b"".join(chunks)
        return Response(body, answer.status, dict(answer.headers))
    response = Response(chunks, answer.status, dict(answer.headers))
    response.call_on_close(answer.leave)  # also when nobody ever asked for a chunk
    return response


def drive_in_thread(answer: Answer[Any], keep_alive_s: float) -> Iterator[bytes]:
    """Yield the body. Only a write shows that a client has left, so a stream starts at once and is
    never silent for long."""
    log, after, ended = answer.log, answer.after, False
    silence_s = keep_alive_s if answer.is_stream else None
    try:
        yield answer.open() or answer.silence()
        spoke = time.monotonic()
        while not ended:
            left_s = None if silence_s is None else max(0.0, spoke + silence_s - time.monotonic())
            has_news = log.wait(after, left_s)
            if has_news:
                events, ended = log.read(after)
                after += len(events)
                chunk = b"".join(map(answer.feed, events))
                if ended:
                    chunk += answer.end()
            else:
                chunk = answer.silence()
            if chunk:
                yield chunk
            if chunk or not has_news:
                spoke = time.monotonic()
    except Exception as error:
        yield answer.fail(explained(error))
    finally:
        answer.leave()


async def drive_on_loop(
    answer: Answer[Any], connection: Connection, calls: LoopCalls, keep_alive_s: float
) -> None:
    """Send *answer* to its end. Raises ClientGone, what the answer raises, and its refusal."""
    silence_s = keep_alive_s if answer.is_stream else None
    reader = LoopReader(answer.log, calls, silence_s, answer.after)
    try:
        news = await _decision(answer, reader)
        if answer.is_stream:
            await connection.start(answer.status, answer.headers)
            await connection.write(answer.open() or (b"" if news else answer.silence()))
        chunk, ended = b"", False
        while not ended:
            news = news or await reader.next()
            if news is None:
                await connection.write(answer.silence())
                continue
            (events, ended), news = news, None
            for start in range(0, len(events), EVENTS_AT_ONCE):
                if chunk:
                    await connection.write(chunk)
                chunk = b"".join(map(answer.feed, events[start : start + EVENTS_AT_ONCE]))
            if chunk and not ended:
                await connection.write(chunk)
                reader.spoke()
                chunk = b""
        chunk += answer.end()
        if answer.is_stream:
            await connection.finish(chunk)
        else:
            await connection.answer(answer.status, answer.headers, chunk)
    finally:
        reader.close()


async def _decision(
    answer: Answer[Event], reader: LoopReader[Event]
) -> tuple[list[Event], bool] | None:
    """What there is to send when it is decided that the answer begins, or when a stream should
    wait no longer for that; None if there is nothing. Raises the answer's refusal."""
    events: list[Event] = []
    ended = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DECISION_S if answer.is_stream else None):
            while not (ended or answer.is_decided(0)):
                if (news := await reader.next()) is not None:
                    events += news[0]
                    ended = news[1]
        refusal = answer.refusal()
        if refusal is not None:
            raise refusal
    return (events, ended) if events or ended else None


def explained(error: Exception) -> WireError:
    """*error* as the client gets it; a defect of ours is logged."""
    wire_error = from_exception(error)
    if wire_error is not error and wire_error.status == 500:
        log_defect(_log, "an answer broke off", error)
    return wire_error
