"""Every error the runtime raises on purpose.

    SpilloverError
    ├── InvalidRequest          the request cannot be served as asked; names the field
    │   ├── ContextOverflow     prompt longer than the context; carries both numbers
    │   ├── ResponseFormatRefused
    │   │                       the answer cannot be held to its response format
    │   └── ImagesRefused       the conversation holds images, which the model does not see
    ├── ModelError              the model file cannot be loaded or used
    └── EngineError             the engine cannot continue; the request itself was fine
        ├── EngineHung          the worker is alive but does not answer
        ├── EngineBusy          the queue is full; carries when to try again
        ├── NotLoaded           the model has to be loaded first
        ├── NoRoomForModel      memory does not hold the model; carries how much is missing
        ├── WorkerDied          the worker process ended and could not be brought back yet
        ├── DeadlyRequest       the request has ended its worker twice
        └── EngineClosed        the engine was closed while the request ran

A message says what happened, to what, and what to do.
"""

from __future__ import annotations

import logging
import re
import traceback


class SpilloverError(Exception):
    """Base of all errors raised by Spillover."""


class InvalidRequest(SpilloverError):
    """The request cannot be served as asked; *param* names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(InvalidRequest):
    """The prompt has more tokens than the context holds (prompts are never cut silently)."""

    def __init__(
        self, n_prompt_tokens: int, n_ctx: int, model: str, param: str | None = None
    ) -> None:
        super().__init__(
            # Clients look for the words "exceeds the available context size".
            f"the prompt of {n_prompt_tokens} tokens exceeds the available context size of "
            f"{model}, {n_ctx} tokens with one left for the answer: shorten the prompt or raise "
            "n_ctx",
            param,
        )
        self.n_prompt_tokens = n_prompt_tokens
        self.n_ctx = n_ctx


class InputTooLong(ContextOverflow):
    """An input of an embedding request has more tokens than the model reads at once."""

    def __init__(self, n_tokens: int, n_ctx: int, model: str, param: str | None = None) -> None:
        super().__init__(n_tokens, n_ctx, model, param)
        self.args = (
            # Clients look for the words "too large" and "exceeds the available context size".
            f"{param or 'the input'} is too large: it has {n_tokens} tokens, which exceeds the "
            f"available context size of {model}, {n_ctx} tokens: split it, or ask for truncation",
        )


class ResponseFormatRefused(InvalidRequest):
    """The answer cannot be held to the request's response format; another writer may be able to.

    The message does not name the field: clients know it by other names.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "response_format")


class ImagesRefused(InvalidRequest):
    """*reader* sees no images; another writer may. *param* is the message that holds one."""

    def __init__(self, reader: str, param: str, why: str = "") -> None:
        super().__init__(
            f"{param} holds an image, and {reader} reads only text: leave the image out, or let a "
            f"provider that sees images answer{why}",
            param,
        )
        self.reader = reader

    def because(self, why: str) -> ImagesRefused:
        """The same, with why no provider answers."""
        return ImagesRefused(self.reader, self.param or "messages", f" ({why})")


class ModelError(SpilloverError):
    """The model cannot be loaded or used."""


class EngineError(SpilloverError):
    """The engine cannot continue this request."""


class EngineHung(EngineError):
    """The worker is alive but does not answer."""


class EngineBusy(EngineError):
    """The queue is full; try again after *retry_after_s* seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotLoaded(EngineError):
    """The question is for a model that has to be loaded first; *model* is its name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} is not loaded: wait until it is")
        self.model = model


class NoRoomForModel(EngineError):
    """Memory does not hold the model beside what must stay; *missing_bytes* more would."""

    def __init__(self, model: str, missing_bytes: int) -> None:
        super().__init__(
            f"{model} is not loaded: it needs {missing_bytes / 1e9:.1f} GB more memory than is "
            "free beside the models that must stay: close other programs, unload a model, or "
            "choose a smaller one"
        )
        self.missing_bytes = missing_bytes


class WorkerDied(EngineError):
    """The worker process ended and could not be brought back yet; a new try makes sense after
    *retry_after_s* seconds."""

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlyRequest(EngineError):
    """The request has ended its worker twice, and is not tried again for a while."""


class EngineClosed(EngineError):
    """The engine was closed while the request was running."""


def shortage(error: BaseException) -> str | None:
    """What to tell the user if *error* means that the system has no memory or threads left, which
    Python and the libraries express in many ways; None if it means something else."""
    lines = [line.strip() for line in str(error).splitlines() if shortage_in(line)]
    if not lines and not isinstance(error, MemoryError):
        return None
    return (
        f"the system gives no more memory or threads ({(lines or ['out of memory'])[-1]}): close "
        "other programs, or raise the limits that `ulimit -a` shows"
    )


_SHORTAGE = re.compile(
    "(?:failed|unable) to allocate [^;:.]*|cannot allocate memory|start new thread|map segment|"
    "bad_alloc|bad allocation|out of memory|insufficient memory|no address space",
    re.IGNORECASE,
)


def shortage_in(text: str) -> str:
    """The words in *text*, of the system or of a library, that tell of a lack of memory or threads;
    empty if there are none."""
    found = _SHORTAGE.search(text)
    return found[0].strip() if found is not None else ""


def log_defect(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log that *what* happened after *error*, a defect of Spillover itself, with its type and its
    trace but not its own text, which may hold a prompt, an answer or a key."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s after %s:\n%s", what, type(error).__name__, where)
