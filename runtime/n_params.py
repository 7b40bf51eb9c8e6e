"""Numbers of parameters, for people's eyes."""

from __future__ import annotations


def n_params_text(n_params: int) -> str:
    """Such as "0.49B" or "5.8M"."""
    return f"{n_params / 1e9:.2f}B" if n_params >= 1e8 else f"{n_params / 1e6:.1f}M"
