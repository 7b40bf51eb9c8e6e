"""The chat templates of some 70 real models show every message."""

from __future__ import annotations

import subprocess

import pytest

from spillover.runtime.chat.chat_template import ChatTemplate
from tests.runtime.chat.real_templates import PACKAGE, SHAPES, opened, real_templates, reference

NEEDS_MORE = {"fireworks-ai-llama-3-firefunction-v2"}
"""It wants the functions in a variable of its own, and fails without them on anything."""

FORMATS = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "ByteDance-Seed-OSS": "seed",
    "Cohere2MoE": "command",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm",
    "GigaChat3-10B-A1.8B": "gigachat-turn",
    "GigaChat3.1-10B-A1.8B": "gigachat",
    "Kimi-K2-Instruct": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "Kimi-K3": "kimi-k3",
    "LFM2-8B-A1B": "lfm2",
    "LFM2.5-8B-A1B": "lfm2",
    "LFM2.5-Instruct": "lfm2",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax",
    "MiniMax-M3": "minimax-m3",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral-ids",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen-coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen-coder",
    "Qwen3.5-4B": "qwen-coder",
    "Spark2.5": "glm",
    "StepFun3.5-Flash": "qwen-coder",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-function-calls",
    "deepseek-ai-DeepSeek-V4": "deepseek-tool-calls",
    "google-gemma-4-31B-it": "gemma",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "inclusionai-ling-3.0-flash": "glm",
    "llama-cpp-deepseek-r1": "deepseek-v3",
    "meetkai-functionary-medium-v3.1": "functionary",
    "meetkai-functionary-medium-v3.2": "functionary-turns",
    "meta-llama-Llama-3.1-8B-Instruct": "llama",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi-k2",
    "muse-glimmer": "atem",
    "openai-gpt-oss-120b": "harmony",
    "openbmb-MiniCPM5-1B": "minicpm",
    "poolside-Laguna-XS.2": "glm",
    "tencent-Hy3": "hunyuan",
    "unsloth-mistral-Devstral-Small-2507": "mistral-args",
    "upstage-Solar-Open-100B": "solar",
}


SAME = ("plain", "system in the middle", "two systems", "one call", "two calls")
OWN = {"CohereForAI-c4ai-command-r-plus-tool_use", "upstage-Solar-Open-100B"}
"""The first one writes calls in a way that no parser knows, so that tools are explained in plain
words; the second one wants shorter ids of calls."""


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    try:
        return real_templates()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"NO REAL CHAT TEMPLATE WAS TRIED: {PACKAGE} cannot be downloaded: {error}")


@pytest.fixture(scope="module")
def templates(sources: dict[str, str]) -> dict[str, ChatTemplate]:
    return {name: opened(source, name) for name, source in sources.items()}


def test_real_templates_show_every_message(templates: dict[str, ChatTemplate]) -> None:
    assert len(templates) > 50
    faults = {
        (name, shape_name): fault
        for name, template in templates.items()
        if name not in NEEDS_MORE
        for shape_name, shape in SHAPES.items()
        if (fault := shape.fault(template)) is not None
    }
    assert faults == {}


def test_real_templates_are_known_for_what_they_write(templates: dict[str, ChatTemplate]) -> None:
    """XML between <tool_call> tags used to be taken for Hermes."""
    for name, format in FORMATS.items():
        assert (name, templates[name].tool_format.name) == (name, format)
    assert not any("tool calls" in w for template in templates.values() for w in template.warnings)


def test_prompts_are_those_of_the_reference_renderer(
    sources: dict[str, str], templates: dict[str, ChatTemplate]
) -> None:
    """Where it shows all of a conversation. What opens a call may be left to the model."""
    n_equal, differing = 0, set()
    for name, source in sources.items():
        template, plain = templates[name], reference(source)
        for shape in map(SHAPES.__getitem__, SAME):
            if prompts := shape.references(plain):
                ours = template.render(shape.messages, tools=shape.tools)
                if {ours, ours + template.tool_format.opening} & set(prompts):
                    n_equal += 1
                else:
                    differing.add(name)
    assert differing == OWN
    assert n_equal > 200
