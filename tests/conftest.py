"""What holds for all tests."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.fake import Fake
from tests.fakes.pool import FakePool

settings.register_profile("spillover", deadline=None)  # a busy machine is no failure
settings.load_profile("spillover")

ROOT = Path(__file__).parent.parent
LONG = tuple(f"tests/{name}/" for name in ("edge_server", "quantize", "cli", "runtime"))
"""Where most of the tests are that start processes or compute."""
FOLDERS = ("runtime", "quantize", "edge_server", "cloud_fallback", "models")


class RootIsNoTestPackage:
    """pytest imports the packages that it walks through, under the names of their folders. Our
    root is the package `spillover`, and its folder may be called `runtime`, or `numpy`."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    # Under nohup all that we start would ignore it, too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # As a plugin of its own, because the hooks of a conftest.py only see what is below it.
    config.pluginmanager.register(RootIsNoTestPackage())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin, so that none of them is left when all others have ended."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """ONNX Runtime lets the thread that makes its first session flush denormal numbers to zero, and
    hypothesis rightly refuses to work in such a thread."""
    libc = ctypes.CDLL(None)
    environment = ctypes.create_string_buffer(512)
    libc.fegetenv(environment)
    try:
        return (yield)
    finally:
        libc.fesetenv(environment)


@pytest.fixture(autouse=True, scope="session")
def no_second_copy_of_our_modules() -> Generator[None]:
    """`python -m pytest` puts the root on sys.path, where `import runtime.x` works and makes a
    second copy of every class, which no isinstance knows."""
    yield
    stray = sorted(name for name in sys.modules if name.split(".")[0] in FOLDERS)
    assert not stray, f"write `from spillover.…` instead of importing {', '.join(stray)}"


@pytest.fixture(autouse=True, scope="session")
def no_models_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What was pulled on this machine is not the model that tests start without a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def fake_pool() -> Generator[FakePool]:
    """The processes of all fake providers."""
    pool = FakePool()
    yield pool
    pool.stop()


@pytest.fixture
def make_fake(fake_pool: FakePool) -> Generator[Callable[[], Fake]]:
    """Makes another fake provider, in a process of its own."""
    yield fake_pool.lend
    fake_pool.take_back()


@pytest.fixture
def fake(make_fake: Callable[[], Fake]) -> Fake:
    """A fake cloud provider that speaks every dialect; see tests/fakes/script.py."""
    return make_fake()
