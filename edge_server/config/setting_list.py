"""The names of all settings: in the file, in the environment, on the command line.

Types, ranges and defaults are those of Settings and EngineOptions; here are only names and words.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.config import setting_type
from spillover.edge_server.config.settings import Settings
from spillover.runtime.options import EngineOptions

_FLAG_AND_HELP = {
    "model": ("", "Catalogue name, GGUF file, ONNX file, or folder with one of them."),
    "alias": ("--alias", "Name of the model as clients see it."),
    "host": ("--host", "Address to listen on; one that others can reach needs an API key."),
    "port": ("--port", "Port to listen on; 0 takes a free one and prints it."),
    "api_keys": ("--api-key", "Key that a client must send; others on this machine can see flags."),
    "allowed_hosts": ("--allowed-host", "Host name, besides loopback, that a request may name."),
    "keep_alive_s": ("", "A stream that is silent for this long gets a comment line."),
    "head_timeout_s": ("", "A request's head must be complete after this long."),
    "body_timeout_s": ("", "A request's body must be complete after this long."),
    "write_timeout_s": ("", "A client that takes no bytes for this long is cut off."),
    "max_body_bytes": ("", "Largest request body."),
    "max_connections": ("", "Most connections at a time."),
    "max_generation_s": ("", "A generation is ended after this long."),
    "shutdown_grace_s": ("", "Running streams may go on for this long after a signal to stop."),
    "resume_grace_s": ("", "A resumable answer goes on for this long after its client left."),
    "resume_keep_s": ("", "A resumable answer that has ended can be read for this long."),
    "resume_log_bytes": ("", "Kept of each resumable answer: the newest events."),
    "max_resumable": ("", "Resumable answers at a time, ended ones too; 0 offers none."),
    "log_level": ("--log-level", "Least important messages to log."),
    "fallback": (
        "--fallback",
        "Whether an answer may go on in the cloud: never, only when you say yes, or by itself.",
    ),
    "prefer": ("--prefer", "Who begins an answer, where both may."),
    "handoff_mode": ("--handoff-mode", "How a running answer is handed over."),
    "max_handoffs": ("", "Changes of the writer within one answer."),
    "max_cloud_tokens": ("", "A provider is stopped after about so many tokens for one answer."),
    "consent_timeout_s": ("", "A stream waits this long for your yes, then goes on locally."),
    "warms_connections": ("", "Open a connection to the provider when an answer begins (auto)."),
    "proxy": ("", "HTTP proxy on the way to providers; HTTP_PROXY and its kin are ignored."),
    "data_dir": ("", "Folder for the records of spending and handoffs, and for calibrations."),
    "n_ctx": ("--n-ctx", "Most tokens of one conversation, prompt and answer together."),
    "n_kv": ("--n-kv", "Tokens that all conversations together hold in the KV cache."),
    "n_parallel": ("--parallel", "Answers generated at the same time."),
    "n_threads": ("--threads", "Threads that compute."),
    "adapt_threads": ("", "Fewer threads while other programs take cores (Linux, GGUF)."),
    "n_gpu_layers": ("--gpu-layers", "Layers on the GPU, if there is one; -1 is all."),
    "kv_cache_type": (
        "--kv-cache-type",
        "Number format of the KV cache; smaller ones save memory.",
    ),
    "execution_provider": (
        "",
        "What runs an ONNX model, if onnxruntime has it; auto: the fastest.",
    ),
    "max_queue": ("--max-queue", "Requests that may wait; one more is refused."),
    "max_gap_ms": ("--max-gap-ms", "Longest pause in running streams while a prompt is read."),
    "n_prefix_cached": ("", "Finished conversations kept in the KV cache for their next turn."),
    "prefix_cache_mb": ("", "Memory (MiB) beside the KV cache for them, while others run."),
    "second_layout": ("", "Weights twice in memory, to read prompts sooner: auto, on or off."),
    "use_extra_bufts": ("", "Weight repacking of llama.cpp: faster; off after a crash at load."),
    "load_timeout_s": ("", "A model that is not loaded after this long has failed."),
    "max_restarts": ("", "Restarts of a crashed worker within ten minutes before giving up."),
    "cache_dir": ("", "Folder for what was measured on this device."),
}
_DEFAULT_IN_WORDS = {
    "model": "the bundled model",
    "alias": "the model's own name",
    "cache_dir": "the user's cache folder",
    "data_dir": "the user's data folder",
    "proxy": "none",
}
_VARIABLES = {"api_keys": "SPILLOVER_API_KEY", "allowed_hosts": "SPILLOVER_ALLOWED_HOST"}


class Setting(Struct, frozen=True, kw_only=True):
    """One thing a user can set."""

    name: str
    """As in the configuration file and in `spillover config`."""
    flag: str
    """Of `spillover serve`; empty when there is none."""
    variable: str
    help: str
    type: Any
    """The annotation of its field."""
    default: Any
    of_engine: bool
    """A field of EngineOptions and not of Settings."""

    @property
    def is_secret(self) -> bool:
        return self.name == "api_keys"

    @property
    def is_list(self) -> bool:
        return isinstance(self.default, tuple)

    @property
    def allowed(self) -> str:
        """What it may be, in words: "an integer from 0 to 65535"."""
        return setting_type.describe(self.type)

    @property
    def default_text(self) -> str:
        return _DEFAULT_IN_WORDS.get(self.name) or setting_type.show(self.default)


def setting_list() -> tuple[Setting, ...]:
    """Every setting, in the order of the Structs."""
    return _fields_of(Settings, of_engine=False) + _fields_of(EngineOptions, of_engine=True)


def _fields_of(struct: type[Struct], *, of_engine: bool) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            name=field.name,
            flag=_FLAG_AND_HELP[field.name][0],
            variable=_VARIABLES.get(field.name, f"SPILLOVER_{field.name.upper()}"),
            help=_FLAG_AND_HELP[field.name][1],
            type=field.type,
            default=field.default,
            of_engine=of_engine,
        )
        for field in msgspec.structs.fields(struct)
        if field.name in _FLAG_AND_HELP
    )
