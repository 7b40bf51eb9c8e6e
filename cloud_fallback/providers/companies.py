"""The companies and servers that a [[provider]] table can name.

All that is particular to one of them stands in its record. To add a company whose API is like
OpenAI's, add a Company to COMPANIES; nothing else needs to know of it.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

MaxTokensField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
WireFormat: TypeAlias = Literal["openai", "anthropic", "gemini", "cohere", "tgi", "bedrock"]


class Server(Struct, frozen=True, kw_only=True):
    """What one kind of OpenAI-compatible server takes: a value of `server`."""

    name: str
    host: str = ""
    """It is known by this host, or a host below it."""
    path: str = ""
    """The base URL's path must begin with this, too."""
    key_header: str = ""
    """A key goes into this header; empty: it is a bearer token."""
    max_tokens_field: MaxTokensField = "max_tokens"
    prefill: Literal["none", "flags", "prefix"] = "none"
    """"flags": continue_final_message and add_generation_prompt; "prefix": prefix on the last
    message."""
    echoes: bool = False
    """The answer begins with the prefilled text."""
    n_stops: int = 16
    sends_usage_unasked: bool = False
    """It refuses stream_options, and needs none."""
    takes_obfuscation: bool = False
    """stream_options has include_obfuscation."""
    has_deployments: bool = False
    """The path names a deployment where an api_version is set, as Azure's does."""
    has_reasoning_models: bool = False
    """OpenAI's own, which take neither samplers nor stop strings."""
    samplers: dict[str, str] = field(default_factory=lambda: {"seed": "seed"})
    """Its names of the samplers that it has beyond OpenAI's, by our names."""
    regex_field: str | None = None
    """Takes the regular expression that the answer must match: a field, or "a.b"."""
    lark_field: str | None = None
    gbnf_field: str | None = None
    takes_template_kwargs: bool = False
    is_mistral: bool = False
    """A tool call's id must be nine letters and digits, and messages have no names."""


class Company(Struct, frozen=True, kw_only=True):
    """One company's API, or a kind of server: a value of `dialect`."""

    name: str
    wire: WireFormat = "openai"
    base_url: str = ""
    """Its API; {region} and {region_prefix} are filled in. Empty: every provider has its own."""
    default_region: str = "global"
    root: str = ""
    """Begins all paths, unless the base URL ends with it already."""
    hosts: str = ""
    """A regular expression for the hosts that a key from *key_variables* may be sent to."""
    key_variables: tuple[str, ...] = ()
    """The environment variables that usually hold its key, the best one first."""
    without_key: Literal["refused", "allowed", "aws", "google"] = "refused"
    """"aws": AWS's credentials sign; "google": a project is entered with Google's tokens only."""
    server: Server = Server(name="other", n_stops=4)
    """At its own address, where the wire format is OpenAI's."""
    server_elsewhere: Server | None = None
    """At any other address; None: told by the address."""
    first_model: str = ""
    """A small model of the company's to begin with."""
    scales_to_zero: bool = False
    """It holds a request while a machine starts, as long as x-scale-up-timeout says."""

    def address(self, region: str) -> str:
        """Its base URL in *region*; empty: it has none in common."""
        prefix = "" if region == "global" else f"{region}-"
        return self.base_url.format(region=region, region_prefix=prefix)

    def owns(self, host: str) -> bool:
        """Whether its keys may be sent to *host*."""
        return bool(self.hosts) and re.fullmatch(self.hosts, host) is not None


def _same(names: str) -> dict[str, str]:
    """Samplers that have our names."""
    return {name: name for name in names.split()}


_OPEN = _same("seed top_k min_p") | {"repeat_penalty": "repetition_penalty"}
_VLLM = Server(
    name="vllm",
    prefill="flags",
    takes_template_kwargs=True,
    samplers=_OPEN,
    regex_field="structured_outputs.regex",
    lark_field="structured_outputs.grammar",
)
_LLAMA_SERVER = Server(
    name="llama-server",
    prefill="flags",
    takes_template_kwargs=True,
    samplers=_same(
        "seed top_k min_p typical_p repeat_penalty repeat_last_n dry_multiplier dry_base "
        "dry_allowed_length dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold"
    ),
    gbnf_field="grammar",
)
_OPENAI = Server(
    name="openai",
    host="api.openai.com",
    max_tokens_field="max_completion_tokens",
    n_stops=4,
    takes_obfuscation=True,
    has_reasoning_models=True,
)
_AZURE = Server(
    name="azure",
    host="openai.azure.com",
    key_header="api-key",
    max_tokens_field="max_completion_tokens",
    n_stops=4,
    has_deployments=True,
    has_reasoning_models=True,
)
_HUGGING_FACE = Server(
    name="huggingface", host="endpoints.huggingface.cloud", prefill="flags", n_stops=4
)

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        _OPENAI,
        _AZURE,
        _HUGGING_FACE,
        _VLLM,
        replace(_VLLM, name="ray"),  # Ray Serve's LLM app answers with vLLM
        Server(
            name="sglang",
            prefill="flags",
            takes_template_kwargs=True,
            samplers=_OPEN,
            regex_field="regex",
        ),
        _LLAMA_SERVER,
        replace(_LLAMA_SERVER, name="spillover"),
        Server(name="ollama"),
        Server(name="lmstudio", samplers=_same("seed top_k repeat_penalty")),
        Server(  # only its beta continues an assistant's turn
            name="deepseek", host="api.deepseek.com", path="/beta", prefill="prefix", samplers={}
        ),
        Server(
            name="mistral",
            host="mistral.ai",
            prefill="prefix",
            echoes=True,
            sends_usage_unasked=True,
            samplers={"seed": "random_seed"},
            is_mistral=True,
        ),
        Server(name="openrouter", host="openrouter.ai", n_stops=4, samplers=_OPEN),
        Server(name="other", n_stops=4),
    )
}

COMPANIES: dict[str, Company] = {
    company.name: company
    for company in (
        Company(
            name="openai",
            base_url="https://api.openai.com/v1",
            hosts=r"(.+\.)?api\.openai\.com",
            key_variables=("OPENAI_API_KEY",),
            first_model="gpt-4.1-mini",
            server=_OPENAI,
        ),
        Company(
            name="azure",
            root="/openai/v1",
            hosts=r".+\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us)",
            key_variables=("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
            server_elsewhere=_AZURE,
        ),
        Company(
            name="anthropic",
            wire="anthropic",
            base_url="https://api.anthropic.com",
            root="/v1",
            hosts=r"api\.anthropic\.com",
            key_variables=("ANTHROPIC_API_KEY",),
            first_model="claude-haiku-4-5",
        ),
        Company(
            name="gemini",
            wire="gemini",
            base_url="https://generativelanguage.googleapis.com",
            root="/v1beta",
            hosts=r"generativelanguage\.googleapis\.com",
            key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            first_model="gemini-2.5-flash",
        ),
        Company(
            name="vertex",
            wire="gemini",
            base_url="https://{region_prefix}aiplatform.googleapis.com",
            root="/v1",
            hosts=r"([a-z0-9-]+-)?aiplatform\.googleapis\.com",
            key_variables=("GOOGLE_API_KEY",),
            without_key="google",
        ),
        Company(
            name="cohere",
            wire="cohere",
            base_url="https://api.cohere.com",
            root="/v2",
            hosts=r"api\.cohere\.(com|ai)",
            key_variables=("CO_API_KEY", "COHERE_API_KEY"),
            first_model="command-a-03-2025",
        ),
        Company(
            name="huggingface",
            base_url="https://router.huggingface.co/v1",
            root="/v1",
            hosts=r"router\.huggingface\.co|.+\.endpoints\.huggingface\.cloud",
            key_variables=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
            # The router passes requests on to companies that have little in common.
            server=SERVERS["other"],
            server_elsewhere=_HUGGING_FACE,
            scales_to_zero=True,
        ),
        Company(name="tgi", wire="tgi", without_key="allowed", scales_to_zero=True),
        Company(
            name="bedrock",
            wire="bedrock",
            base_url="https://bedrock-runtime.{region}.amazonaws.com",
            default_region="us-east-1",
            hosts=r"bedrock-runtime(-fips)?\.[a-z]+(-[a-z]+)+-\d\.amazonaws\.com"
            r"|bedrock-mantle\.[a-z0-9-]+\.api\.aws",
            key_variables=("AWS_BEARER_TOKEN_BEDROCK",),
            without_key="aws",
        ),
    )
}


def server_at(base_url: str) -> Server:
    """The kind of server at *base_url*, as far as its address tells; else "other"."""
    parts = urlsplit(base_url)
    host = f".{parts.hostname or ''}"
    for server in SERVERS.values():
        if server.host and host.endswith(f".{server.host}") and parts.path.startswith(server.path):
            return server
    return SERVERS["other"]
