"""spillover serve: the local endpoint."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import click

from spillover.edge_server.commands.engines.job_process import comparing_in_background
from spillover.edge_server.commands.loading import default_options, note_if_slow
from spillover.edge_server.commands.options import load_config, model_argument, setting_options
from spillover.edge_server.commands.output import print_note
from spillover.edge_server.config.settings import Settings
from spillover.runtime.engine import ModelCard
from spillover.runtime.worker.exits import exit_with_parent

_EPILOG = """\b
Examples:
  spillover serve
  spillover serve ~/models/qwen3-0.6b-Q4_K_M.gguf --port 9000 --n-ctx 8192
  spillover serve --host 0.0.0.0 --api-key-file ~/.config/spillover/keys
  spillover serve --host 127.0.0.1 --host ::1

The configuration file takes more settings; `spillover config` lists them all.
Ctrl-C stops the server once running streams had some seconds to end; a second one ends them, too.
"""


@click.command("serve", epilog=_EPILOG)
@model_argument
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with API keys, one per line.",
)
@click.option("--end-with-parent", is_flag=True, hidden=True)
@setting_options()
def command(
    config_flag: Path | None, api_key_file: Path | None, end_with_parent: bool, **flags: Any
) -> None:
    """Serve MODEL (default: the one pulled last, or the bundled one) on this device."""
    if end_with_parent:
        exit_with_parent()
    settings = load_config(flags, config_flag, api_key_file).settings
    os.environ.pop("SPILLOVER_API_KEY", None)  # the worker does not need it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        _serve(settings)
    except KeyboardInterrupt:
        print_note("stopped")


def _serve(settings: Settings) -> None:
    from spillover.edge_server.commands.hosting import hosting  # slow

    with hosting(settings) as models:
        with models.default.loading(lambda: None, is_patient=True) as use:
            # Flask is slow to import: do that, and check the address, while the model loads.
            from spillover.edge_server.commands.routed import note_broken_fallback
            from spillover.edge_server.web.server import check_bind, check_free, serve

            check_bind(settings)
            check_free(settings)
            with note_if_slow(f"loading {models.default.name} …"):
                card = models.default.settled(use).card
        with (
            models.router() as router,
            comparing_in_background(Path(card.path), default_options(settings)),
        ):
            served = models.served(router)
            note_broken_fallback(router)
            serve(
                served,
                router,
                settings,
                on_ready=lambda urls: print_note(announcement(urls, card, settings), wraps=False),
            )


def announcement(urls: list[str], card: ModelCard, settings: Settings) -> str:
    """The text printed once the endpoint is ready."""
    lines = [
        f"model    {card.name} ({card.description})",
        f"context  {_context_line(card)}",
        f"device   {card.device}, {card.n_threads} threads",
        *([f"engine   {_engine_line(card)}"] if card.library else []),
        *(f"address  {url}" for url in urls),
        "",
        "Try it:",
        example(urls[0], card, needs_key=bool(settings.api_keys)),
    ]
    return "\n".join(lines)


def _context_line(card: ModelCard) -> str:
    embedding = card.embedding
    if card.generates or embedding is None:
        return f"{card.n_ctx} tokens each, {card.n_parallel} in parallel, {card.n_kv} in all"
    made = "scores" if embedding.pooling == "rank" else f"vectors of {embedding.n_values} numbers"
    return f"{card.n_ctx} tokens each; it makes {made}, and no answers"


def example(url: str, card: ModelCard, *, needs_key: bool) -> str:
    """A shell command for what the model can do."""
    if card.generates:
        return curl_line(url, card.name, needs_key=needs_key)
    if card.embedding is not None and card.embedding.pooling == "rank":
        body = {"query": "a story about a dog", "documents": ["Max barked.", "The sea is deep."]}
        return _post(url, "/v1/rerank", {"model": card.name, **body}, needs_key=needs_key)
    body = {"model": card.name, "input": ["a story about a dog", "Max barked."]}
    return _post(url, "/v1/embeddings", body, needs_key=needs_key)


def _engine_line(card: ModelCard) -> str:
    return f"{card.library} ({card.engine_reason})" if card.engine_reason else card.library


def curl_line(url: str, model: str, *, needs_key: bool) -> str:
    """A shell command that streams an answer."""
    message = {"role": "user", "content": "Tell me a story about a dog named Max."}
    body = {"model": model, "stream": True, "messages": [message]}
    return _post(url, "/v1/chat/completions", body, needs_key=needs_key)


def _post(url: str, path: str, body: dict[str, Any], *, needs_key: bool) -> str:
    headers = ["-H", "Authorization: Bearer YOUR_API_KEY"] if needs_key else []
    headers += ["-H", "Content-Type: application/json"]
    address = url.rstrip("/") + path
    return shlex.join(["curl", "-N", address, *headers, "-d", json.dumps(body)])
