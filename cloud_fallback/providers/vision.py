"""Which models see images, as far as their names tell."""

from __future__ import annotations

import re

_SEEING = re.compile(
    r"gpt-(?:4o(?!-(?:audio|realtime|transcribe|mini-tts))|4\.1|4\.5|4-turbo|4-vision|[5-9]|\d\d)"
    r"|chatgpt-4o|\bo1(?!-mini|-preview)|\bo3(?!-mini)|\bo4"
    r"|claude-(?!instant|v?[12]\b|v?[12][.:-])"
    r"|gemini-(?!1\.0|pro$|embedding)"
    r"|command-a-vision|aya-vision"
    r"|nova-(?!micro)"
    r"|pixtral|mistral-(?:small-(?:3\.[1-9]|[4-9]|2503|2506|latest)|medium|large-(?:3|2512|latest))"
    r"|magistral-(?:small|medium)-(?:1\.2|2509|latest)|ministral-3"
    r"|llama-?4|llama-?3[.-]2-?(?:11b|90b)|llama-?3\.2-vision"
    r"|gemma-?(?:3(?!n?-?(?:270m|1b))|3n|[4-9])"
    r"|qwen(?:\d(?:\.\d)?)?-?(?:vl|omni)|qvq|qwen3\.[5-9]"
    r"|llava|moondream|minicpm-?[vo]|internvl|smolvlm|molmo|granite.*vision|phi-?[34].*(?:vision|multimodal)"
    r"|glm-4\.\dv|glm-4v|kimi-vl|kimi-k2\.[5-9]|deepseek-vl|idefics|cogvlm|grok-(?:[4-9]|\d-vision)|vision|[-_.]vl\b",
    re.IGNORECASE,
)


def sees_images(model: str) -> bool:
    """Whether *model* is known to see images. Where that is wrong, `vision` says it."""
    return _SEEING.search(model) is not None
