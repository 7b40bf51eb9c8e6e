"""The clients that can be set up, and what each needs to find this endpoint.

All of them take variables and arguments. None of their files is changed, so that they ask whom they
asked before once they are started without us.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from msgspec import Struct, field

from spillover.edge_server.commands.launch.endpoint import Endpoint
from spillover.runtime.errors import SpilloverError

TIMEOUT_MS = 3_600_000
"""An hour: a device may need minutes for a long prompt, which hosted models never do."""
KEY_VARIABLE = "SPILLOVER_API_KEY"
_CLOUDS = (
    "BEDROCK",
    "VERTEX",
    "FOUNDRY",
    "MANTLE",
    "ANTHROPIC_AWS",
    "ANTHROPIC_GOOGLE_CLOUD",
    "GATEWAY",
)
"""Each has a switch that Claude Code prefers to an address."""


class Setup(Struct, frozen=True, kw_only=True):
    """How a client is started."""

    environment: dict[str, str] = field(default_factory=dict)
    """Added to the user's own. An empty value hides one that would lead elsewhere."""
    arguments: tuple[str, ...] = ()
    """Before the user's own."""


class Client(Struct, frozen=True, kw_only=True):
    """One program."""

    name: str
    """What users write; also the name of its program."""
    title: str
    install: str
    """The command that installs it."""
    n_ctx: int
    """Tokens of context below which it does not work well; its own instructions count."""
    setup: Callable[[Endpoint], Setup]


def _claude(endpoint: Endpoint) -> Setup:
    model = endpoint.model
    environment = {
        "ANTHROPIC_BASE_URL": endpoint.url,
        "ANTHROPIC_AUTH_TOKEN": endpoint.token,
        "ANTHROPIC_API_KEY": "",
        **{f"CLAUDE_CODE_USE_{cloud}": "" for cloud in _CLOUDS},
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "ANTHROPIC_SMALL_FAST_MODEL": model,
        "CLAUDE_CODE_SUBAGENT_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "API_TIMEOUT_MS": str(TIMEOUT_MS),
    }
    if endpoint.n_ctx is not None:
        environment |= {
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(endpoint.n_ctx),
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(endpoint.n_ctx),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(_most_output(endpoint.n_ctx)),
        }
    return Setup(environment=environment)


def _codex(endpoint: Endpoint) -> Setup:
    provider: dict[str, object] = {
        "name": "Spillover",
        "base_url": endpoint.openai_url,
        "wire_api": "responses",
        "stream_idle_timeout_ms": TIMEOUT_MS,
    }
    if endpoint.key:
        provider["env_key"] = KEY_VARIABLE
    settings: dict[str, object] = {"model": endpoint.model, "model_provider": "spillover"}
    settings |= {f"model_providers.spillover.{key}": value for key, value in provider.items()}
    if endpoint.n_ctx is not None:
        settings["model_context_window"] = endpoint.n_ctx
    pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())
    return Setup(
        environment={KEY_VARIABLE: endpoint.key} if endpoint.key else {},
        arguments=tuple(word for pair in pairs for word in ("-c", pair)),
    )


def _opencode(endpoint: Endpoint) -> Setup:
    model: dict[str, object] = {"name": endpoint.model}
    if endpoint.n_ctx is not None:
        model["limit"] = {"context": endpoint.n_ctx, "output": _most_output(endpoint.n_ctx)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Spillover",
        "options": {
            "baseURL": endpoint.openai_url,
            "apiKey": f"{{env:{KEY_VARIABLE}}}",
            "timeout": TIMEOUT_MS,
        },
        "models": {endpoint.model: model},
    }
    config = {
        "provider": {"spillover": provider},
        "model": f"spillover/{endpoint.model}",
        "small_model": f"spillover/{endpoint.model}",
    }
    environment = {"OPENCODE_CONFIG_CONTENT": json.dumps(config), KEY_VARIABLE: endpoint.token}
    return Setup(environment=environment)


def _qwen(endpoint: Endpoint) -> Setup:
    environment = {
        "OPENAI_BASE_URL": endpoint.openai_url,
        "OPENAI_API_KEY": endpoint.token,
        "OPENAI_MODEL": endpoint.model,
        "QWEN_CODE_API_TIMEOUT_MS": str(TIMEOUT_MS),
    }
    return Setup(environment=environment, arguments=("--auth-type", "openai"))


def _copilot(endpoint: Endpoint) -> Setup:
    environment = {
        "COPILOT_PROVIDER_BASE_URL": endpoint.openai_url,
        "COPILOT_PROVIDER_API_KEY": endpoint.token,
        "COPILOT_MODEL": endpoint.model,
        "COPILOT_OFFLINE": "true",
    }
    if endpoint.n_ctx is not None:
        output = _most_output(endpoint.n_ctx)
        environment |= {
            "COPILOT_PROVIDER_MAX_PROMPT_TOKENS": str(endpoint.n_ctx - output),
            "COPILOT_PROVIDER_MAX_OUTPUT_TOKENS": str(output),
        }
    return Setup(environment=environment)


def _aider(endpoint: Endpoint) -> Setup:
    # The .env file of a project replaces variables, but not arguments.
    arguments = {
        "--model": f"openai/{endpoint.model}",
        "--openai-api-base": endpoint.openai_url,
        "--timeout": str(TIMEOUT_MS // 1_000),
    }
    return Setup(
        environment={"OPENAI_API_KEY": endpoint.token},
        arguments=(
            *(word for pair in arguments.items() for word in pair),
            "--no-show-model-warnings",
        ),
    )


def _goose(endpoint: Endpoint) -> Setup:
    environment = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": endpoint.model,
        "OPENAI_HOST": endpoint.url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": endpoint.token,
        "OPENAI_TIMEOUT": str(TIMEOUT_MS // 1_000),
    }
    if endpoint.n_ctx is not None:
        environment["GOOSE_CONTEXT_LIMIT"] = str(endpoint.n_ctx)
    return Setup(environment=environment)


def _llm(endpoint: Endpoint) -> Setup:
    if endpoint.key:
        raise SpilloverError(
            "llm takes a key only as an argument, which other users of this device can see: "
            f'llm openai endpoint {endpoint.openai_url} -m {endpoint.model} --key "$KEY"'
        )
    return Setup(arguments=("openai", "endpoint", endpoint.openai_url, "-m", endpoint.model))


def _most_output(n_ctx: int) -> int:
    """The part of the context that a client should leave to one answer."""
    return min(n_ctx // 4, 32_000)


CLIENTS = {
    client.name: client
    for client in (
        Client(
            name="claude",
            title="Claude Code",
            install="npm install -g @anthropic-ai/claude-code",
            n_ctx=32_768,
            setup=_claude,
        ),
        Client(
            name="codex",
            title="Codex",
            install="npm install -g @openai/codex",
            n_ctx=16_384,
            setup=_codex,
        ),
        Client(
            name="opencode",
            title="OpenCode",
            install="npm install -g opencode-ai",
            n_ctx=16_384,
            setup=_opencode,
        ),
        Client(
            name="qwen",
            title="Qwen Code",
            install="npm install -g @qwen-code/qwen-code",
            n_ctx=32_768,
            setup=_qwen,
        ),
        Client(
            name="copilot",
            title="GitHub Copilot CLI",
            install="npm install -g @github/copilot",
            n_ctx=32_768,
            setup=_copilot,
        ),
        Client(
            name="aider",
            title="Aider",
            install="pip install aider-chat",
            n_ctx=8_192,
            setup=_aider,
        ),
        Client(
            name="goose",
            title="Goose",
            install="see its home page",
            n_ctx=16_384,
            setup=_goose,
        ),
        Client(name="llm", title="LLM", install="pip install llm", n_ctx=1_024, setup=_llm),
    )
}
