"""The Python examples of the README and of docs/library.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fakes.fake import Fake
from tests.fakes.script import Act

README = Path(__file__).parent.parent / "README.md"
LIBRARY = README.parent / "docs" / "library.md"


def examples(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.S | re.M)


def said_by(example: str, folder: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    result = subprocess.run(
        [sys.executable, "-c", example],
        cwd=folder,
        env={**environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_example_tells_a_story_without_a_key(tmp_path: Path) -> None:
    (example,) = examples(README)
    story = said_by(example, tmp_path)
    assert len(story.split()) > 2  # the story's length is a matter of luck
    assert "[" not in story


def test_the_examples_of_a_program_are_answered_here_and_by_a_provider(tmp_path: Path) -> None:
    local, routed = examples(LIBRARY)
    assert re.search(r"^(length: 60|stop: \d+) tokens$", said_by(local, tmp_path), re.M)
    fake = Fake()
    fake.script(Act(rest=" a cloud came by."))
    story = said_by(routed.replace("http://192.168.1.20:8000", fake.url), tmp_path)
    fake.stop()
    if "[" in story:  # else it was over too soon
        assert story.index("[may workstation go on? yes]") < story.index("[user: qwen3-32b]")
        assert "a cloud came by." in story
