"""The chat templates of some 70 real models show every message."""

from __future__ import annotations

import subprocess

import pytest

from tests.runtime.chat.real_templates import PACKAGE, SHAPES, opened, real_templates

NEEDS_MORE = {"fireworks-ai-llama-3-firefunction-v2"}
"""It wants the functions in a variable of its own, and fails without them on anything."""


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    try:
        return real_templates()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"NO REAL CHAT TEMPLATE WAS TRIED: {PACKAGE} cannot be downloaded: {error}")


def test_real_templates_show_every_message(sources: dict[str, str]) -> None:
    assert len(sources) > 50
    faults = {
        (name, shape_name): fault
        for name, source in sources.items()
        if name not in NEEDS_MORE
        for template in [opened(source, name)]
        for shape_name, shape in SHAPES.items()
        if (fault := shape.fault(template)) is not None
    }
    assert faults == {}


def test_real_templates_are_known_for_what_they_write(sources: dict[str, str]) -> None:
    """XML between <tool_call> tags used to be taken for Hermes."""
    formats = {
        "Qwen-Qwen3-0.6B": "hermes",
        "meta-llama-Llama-3.1-8B-Instruct": "llama",
        "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
        "unsloth-mistral-Devstral-Small-2507": "mistral-args",
        "Mistral-Small-3.2-24B-Instruct-2506": "mistral-ids",
    }
    for name, format in formats.items():
        template = opened(sources[name], name)
        assert (template.tool_format.name, template.warnings) == (format, ())
    for name in ("Qwen3-Coder", "GLM-4.6", "openai-gpt-oss-120b"):
        assert "tool calls" in opened(sources[name], name).warnings[0]
