"""In what the servers differ that speak OpenAI's chat completions."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from msgspec import Struct

ServerName: TypeAlias = Literal[
    "openai",
    "azure",
    "huggingface",
    "vllm",
    "sglang",
    "ray",
    "llama-server",
    "spillover",
    "ollama",
    "lmstudio",
    "deepseek",
    "mistral",
    "openrouter",
    "other",
]
SERVER_NAMES: tuple[str, ...] = get_args(ServerName)

MaxTokensField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]


class Server(Struct, frozen=True, kw_only=True):
    """What one kind of server takes."""

    max_tokens_field: MaxTokensField = "max_tokens"
    prefill: Literal["none", "flags", "prefix"] = "none"
    """"flags": continue_final_message and add_generation_prompt; "prefix": prefix on the last
    message."""
    echoes: bool = False
    """The answer begins with the prefilled text."""
    n_stops: int = 16
    sends_usage_unasked: bool = False
    """It refuses stream_options, and needs none."""
    samplers: tuple[tuple[str, str], ...] = (("seed", "seed"),)
    """Samplers it has beyond OpenAI's, as (our name, its name)."""
    regex_field: str | None = None
    """Where a regular expression stands that the answer must match: a field, or "a.b"."""
    lark_field: str | None = None
    gbnf_field: str | None = None
    takes_template_kwargs: bool = False
    is_mistral: bool = False
    """A tool call's id must be nine letters and digits, and nobody has a name."""


_SEED = (("seed", "seed"),)
_COMMON = (*_SEED, ("top_k", "top_k"), ("min_p", "min_p"))
_VLLM = Server(
    prefill="flags",
    takes_template_kwargs=True,
    samplers=(*_COMMON, ("repeat_penalty", "repetition_penalty")),
    regex_field="structured_outputs.regex",
    lark_field="structured_outputs.grammar",
)
_LLAMA = Server(
    prefill="flags",
    takes_template_kwargs=True,
    samplers=(
        *_COMMON,
        *(
            (name, name)
            for name in (
                "typical_p",
                "repeat_penalty",
                "repeat_last_n",
                "dry_multiplier",
                "dry_base",
                "dry_allowed_length",
                "dry_penalty_last_n",
                "dry_sequence_breakers",
                "xtc_probability",
                "xtc_threshold",
            )
        ),
    ),
    gbnf_field="grammar",
)

SERVERS: dict[ServerName, Server] = {
    "openai": Server(max_tokens_field="max_completion_tokens", n_stops=4),
    "azure": Server(max_tokens_field="max_completion_tokens", n_stops=4),
    "huggingface": Server(prefill="flags", n_stops=4),
    "vllm": _VLLM,
    "ray": _VLLM,  # Ray Serve's LLM app answers with vLLM
    "sglang": Server(
        prefill="flags",
        takes_template_kwargs=True,
        samplers=(*_COMMON, ("repeat_penalty", "repetition_penalty")),
        regex_field="regex",
    ),
    "llama-server": _LLAMA,
    "spillover": _LLAMA,
    "ollama": Server(),
    "lmstudio": Server(samplers=(*_SEED, ("top_k", "top_k"), ("repeat_penalty", "repeat_penalty"))),
    "deepseek": Server(prefill="prefix", samplers=()),
    "mistral": Server(
        prefill="prefix",
        echoes=True,
        sends_usage_unasked=True,
        samplers=(("seed", "random_seed"),),
        is_mistral=True,
    ),
    "openrouter": Server(n_stops=4, samplers=(*_COMMON, ("repeat_penalty", "repetition_penalty"))),
    "other": Server(n_stops=4),
}

_HOSTS: tuple[tuple[str, ServerName], ...] = (
    ("api.openai.com", "openai"),
    ("openai.azure.com", "azure"),
    ("endpoints.huggingface.cloud", "huggingface"),
    ("mistral.ai", "mistral"),
    ("openrouter.ai", "openrouter"),
)


def server_at(base_url: str) -> ServerName:
    """The kind of server at *base_url*, as far as its host name tells; else "other"."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host == "api.deepseek.com" and parts.path.startswith("/beta"):
        return "deepseek"  # only there a turn can be gone on with
    for end, name in _HOSTS:
        if host == end or host.endswith("." + end):
            return name
    return "other"
