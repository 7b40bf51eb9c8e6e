"""Errors of Hugging Face's client, and of the servers that it asks, in words for their user."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from spillover.models.pull.failures import Refused, refuse_socks, through_proxy
from spillover.models.pull.fetched import Offline, PullError
from spillover.models.source import HubSource, show


@contextmanager
def explained(source: HubSource, *, offline: bool) -> Generator[None]:
    """Turns what is raised during the block into PullError and Offline."""
    from huggingface_hub import errors

    where = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if not offline:
        refuse_socks(where)
    try:
        yield
    except errors.GatedRepoError as error:
        raise PullError(_gated(where, source)) from error
    except errors.RepositoryNotFoundError as error:
        raise PullError(
            f"{where} has no repository {source.repository}, or it is private: look at the name, "
            "or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PullError(f"{source.repository} has no revision {source.revision}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if not offline and isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(where, error.__cause__ or error) from error
        raise not_here(source) from error
    except errors.HfHubHTTPError as error:
        raise _refused(where, source, error.response.status_code, _first_line(error)) from error
    except Refused as error:
        raise _refused(where, source, error.status, _first_line(error)) from error
    except errors.HFValidationError as error:
        raise PullError(f"{source.repository}: {_first_line(error)}") from error
    except (ValueError, KeyError) as error:  # no JSON, or none of a repository
        raise PullError(
            f"{where} answered with something else than a repository ({_first_line(error)}): look "
            "at HF_ENDPOINT, and whether your network asks for a login first"
        ) from error
    except Exception as error:
        if not _is_of_transport(error):
            raise
        raise _unreachable(where, error) from error


def not_here(source: HubSource) -> Offline:
    return Offline(
        f"{show(source)} is not on this device, or not complete, and the network is not used "
        "(--offline, or HF_HUB_OFFLINE): pull it when it may be"
    )


def _refused(where: str, source: HubSource, status: int, said: str) -> PullError:
    """What the status of an answer asks for."""
    from huggingface_hub import get_token

    match status:
        case 401 if get_token():
            advice = (
                "does not accept your token (HF_TOKEN, or that of `hf auth login`): make a new one "
                f"at {where}/settings/tokens"
            )
        case 401:
            advice = f"asks for a token: set HF_TOKEN to one of {where}/settings/tokens"
        case 403:
            return PullError(_gated(where, source))
        case 404:
            advice = f"does not have {show(source)}: look at the name"
        case 429:
            advice = "asks for fewer requests: try again in some minutes. HF_TOKEN raises the limit"
        case _ if status >= 500:
            advice = f"has trouble of its own ({status}): try again later"
        case _:
            advice = f"did not send {source.repository}: {said}"
    return PullError(f"{where} {advice}")


def _gated(where: str, source: HubSource) -> str:
    return (
        f"{source.repository} must be unlocked: accept its terms at {where}/{source.repository}, "
        "and set HF_TOKEN to a token of yours that may read it"
    )


def _unreachable(where: str, error: BaseException) -> PullError:
    return PullError(
        f"{where} cannot be reached{through_proxy(where)} ({_first_line(error)}). Try it later: "
        "the same command goes on with what has come"
    )


def _is_of_transport(error: Exception) -> bool:
    """Whether it is of the client's own HTTP library, which differs between its versions."""
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"httpx", "httpx2", "requests", "urllib3"})


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
