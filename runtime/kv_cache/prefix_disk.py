"""Moves saved states to files and back, in threads of its own: no token waits for the disk.

Which texts are worth a file decides who holds the cache (PrefixDiskOptions.keeps). A prompt that
begins like a file's text waits until it is read, which is sooner than reading the prompt.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias, TypeVar

from msgspec import Struct

from spillover.runtime.backend import SavedKv, Tokens
from spillover.runtime.files.json_file import fingerprint
from spillover.runtime.files.model_digest import ModelDigest
from spillover.runtime.kv_cache.kept_sequences import Kept
from spillover.runtime.kv_cache.prefix_files import PrefixFiles, StoredState
from spillover.runtime.kv_cache.saved_prefixes import SavedMatch, SavedPrefix, SavedPrefixes
from spillover.runtime.machine.priority import lower_thread_priority
from spillover.runtime.options import PrefixDiskChoice

LEAST_TOKENS = 256
"""Fewer new tokens are not worth a file."""
LEAST_USES = 2
"""Requests that begin with the same preamble before it is."""

_N_COUNTED = 256
"""Preambles whose uses are counted, those used last."""
_MOST_WAITING = 64
"""States, of N_PART tokens at most, that may wait to be written; others are written when they are
used again."""

T = TypeVar("T")
Written: TypeAlias = tuple[StoredState | None, list[str]]
"""The new file, and the names of those that are gone."""

_log = logging.getLogger(__name__)


class PrefixDiskOptions(Struct, frozen=True, kw_only=True):
    """Where files go, what they are of, and what may be in them."""

    cache_dir: Path | None
    digest: ModelDigest
    facts: tuple[str, ...]
    """What states depend on besides the model's weights."""
    max_bytes: int
    keeps: PrefixDiskChoice


class PrefixDisk:
    """The files of the saved states of one model. Belongs to the thread that decodes.

    Other threads read and write; take() collects what they have done. They call *wake* then.
    """

    def __init__(
        self, saved: SavedPrefixes, options: PrefixDiskOptions, wake: Callable[[], None]
    ) -> None:
        self._saved = saved
        self._options = options
        self._wake = wake
        self._files: PrefixFiles | None = None
        self._uses: OrderedDict[bytes, int] = OrderedDict()
        self._reader = ThreadPoolExecutor(1, "prefix-reader")
        self._writer = ThreadPoolExecutor(1, "prefix-writer", initializer=lower_thread_priority)
        self._opening: tuple[Tokens, Future[str | None]] | None = None
        self._is_closed = threading.Event()
        self._reading: tuple[SavedMatch, list[SavedPrefix], Future[list[SavedKv | None]]] | None = (
            None
        )
        """What a prompt waits for, and the nodes of it that are being read."""
        self._just_read: list[SavedPrefix] = []
        """Until the next take(): those who waited for it have looked by then."""
        self._writing: list[tuple[Tokens, SavedPrefix, Future[Written]]] = []
        self._noting: Future[list[str]] | None = None
        """That files are used; finds those that are gone."""
        self._n_written = 0
        self._has_failed = False
        """There will be no files: the weights are not read again for them."""
        digest = options.digest.known()
        if digest is not None:
            self._open(digest)

    @property
    def n_written(self) -> int:
        """States that were written since the start."""
        return self._n_written

    @property
    def is_reading(self) -> bool:
        return self._reading is not None

    def _open(self, digest: str) -> None:
        options = self._options
        identity = fingerprint(digest, *options.facts)
        try:
            files = PrefixFiles(options.cache_dir, identity, options.max_bytes)
            # What a state hangs on begins before it, and may be longer.
            found = sorted(files.states(), key=lambda state: (state[1], len(state[0])))
        except (OSError, ValueError) as error:
            _log.warning("no prefixes are kept on disk: %s", error)
            self._has_failed = True
            return
        for tokens, origin, stored in found:
            is_used = self._saved.add_file(tokens, origin, stored)
            if not (is_used or files.has_unread):
                files.remove(stored)
        self._files = files

    # --- from files -------------------------------------------------------------------------

    def fetch(self, prompt: Tokens, n_there: int, has_memory: Callable[[int], bool]) -> bool:
        """Whether *prompt*, of which *n_there* tokens are there without a file, should wait for
        files that are being read."""
        if self._files is None:
            return False
        match = self._saved.find(prompt, on_disk=True)
        if match is None or match.n_tokens < n_there + LEAST_TOKENS // 4:
            return False
        missing = [node for node in match.chain if node.state is None]
        stored = [node.file for node in missing if node.file is not None]
        n_bytes = sum(file.n_bytes for file in stored)
        self._saved.touch(prompt)
        # What was read for it and is gone again would not stay now either.
        if not missing or any(node in self._just_read for node in missing):
            return False
        if not (self._saved.make_room(n_bytes, match.chain) and has_memory(n_bytes)):
            return False
        if [node for node in match.chain if node.state is None] != missing:
            return False  # others had to go: memory is too short for all of them
        if self._reading is not None:  # who needs no file does not wait for another's
            return True
        names = _file_names(match.chain)
        reading = self._begin(self._reader, partial(_read, self._files, stored, names))
        if reading is None:
            return False
        self._reading = match, missing, reading
        return True

    def _begin(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T] | None:
        """Let a thread of *pool* do it; None, as if there were no disk, where the system gives no
        thread or the program ends."""
        try:
            future = pool.submit(work)
        except RuntimeError as error:
            _log.warning("a prefix is not moved between memory and disk: %s", error)
            return None
        future.add_done_callback(lambda done: self._wake())
        return future

    def take(self) -> bool:
        """Collect what was read and written; whether prompts may go on that waited for it."""
        self._just_read = []
        if self._opening is not None and self._opening[1].done():
            self._take_digest(*self._opening)
        while self._writing and self._writing[0][2].done():
            tokens, node, writing = self._writing.pop(0)
            stored, removed = _result(writing, (None, []))
            self._saved.forget_files(removed)
            if stored is None:
                continue
            if self._saved.add_file(tokens, node.origin, stored):
                self._n_written += 1
            else:
                self.remove(stored)
        if self._noting is not None and self._noting.done():
            gone: list[str] = _result(self._noting, [])
            self._saved.forget_files(gone)
            self._noting = None
        if self._reading is None or not self._reading[2].done():
            return False
        match, nodes, reading = self._reading
        self._reading = None
        self._just_read = nodes
        nothing: list[SavedKv | None] = [None] * len(nodes)
        states = _result(reading, nothing)
        for node, state in zip(nodes, states, strict=True):
            self._saved.fill(node, state, match.chain)
        return True

    def _take_digest(self, tokens: Tokens, computing: Future[str | None]) -> None:
        self._opening = None
        digest = _result(computing, None)
        if digest is None:
            self._has_failed = True
        else:
            self._open(digest)
        if self._files is not None:
            self.write(tokens)

    # --- to files ---------------------------------------------------------------------------

    def n_wanted(self, kept: Kept) -> int:
        """How many tokens of a sequence that has ended should be on disk."""
        preamble = kept.tokens[: kept.n_preamble]
        n_uses = self._count(preamble) if len(preamble) >= LEAST_TOKENS else 0
        tokens = kept.tokens if self._options.keeps == "all" else preamble
        nodes = self._saved.nodes(tokens)
        stored = list(takewhile(lambda node: node.file is not None, nodes))
        n_stored = stored[-1].end if stored else 0
        is_worth_it = self._options.keeps == "all" or n_uses >= LEAST_USES
        if is_worth_it and len(tokens) >= n_stored + LEAST_TOKENS:
            return len(tokens)
        self._note_use(stored)
        return 0

    def _note_use(self, nodes: Sequence[SavedPrefix]) -> None:
        """They were used from memory, and their files should not be the first to go."""
        names = _file_names(nodes)
        if self._files is not None and names and self._noting is None:
            self._noting = self._begin(self._writer, partial(self._files.note_use, names))

    def _count(self, preamble: Tokens) -> int:
        """How often it was used, this time included."""
        key = hashlib.blake2b(preamble.tobytes(), digest_size=16).digest()
        n = self._uses.pop(key, 0) + 1
        self._uses[key] = n
        if len(self._uses) > _N_COUNTED:
            self._uses.popitem(last=False)
        return n

    def write(self, tokens: Tokens) -> None:
        """Write the states of *tokens* that are in no file, behind what happens meanwhile."""
        if self._files is None:
            if self._opening is None and not self._has_failed:
                compute = partial(self._options.digest.compute, self._is_closed.is_set)
                computing = self._begin(self._writer, compute)
                self._opening = None if computing is None else (tokens, computing)
            return
        written = [node for _, node, _ in self._writing]
        nodes = self._saved.nodes(tokens)
        names = _file_names(nodes)
        for node in nodes:
            if node.file is not None or node in written:
                continue
            # What stands alone would be written anew in each turn.
            if node.state is None or node.stands_alone:
                return
            if len(self._writing) >= _MOST_WAITING:
                return
            text = tokens[: node.end].copy()
            args = self._files, text, node.origin, node.state, names
            writing = self._begin(self._writer, partial(_write, *args))
            if writing is None:
                return
            self._writing.append((text, node, writing))

    def remove(self, stored: StoredState) -> None:
        """Remove a file that is of no use."""
        if self._files is not None:
            self._begin(self._writer, partial(self._files.remove, stored))

    def close(self) -> None:
        """Wait for the file that is being read or written; others are left out."""
        self._is_closed.set()
        for pool in (self._reader, self._writer):
            pool.shutdown(cancel_futures=True)


def _file_names(nodes: Sequence[SavedPrefix]) -> list[str]:
    """What hangs on others first, as PrefixFiles.note_use() wants them."""
    return [node.file.name for node in reversed(nodes) if node.file is not None]


def _read(
    files: PrefixFiles, stored: Sequence[StoredState], used: Sequence[str]
) -> list[SavedKv | None]:
    states = [files.read(file) for file in stored]
    files.note_use(used)
    return states


def _write(
    files: PrefixFiles, tokens: Tokens, origin: int, state: SavedKv, used: list[str]
) -> Written:
    """*used*: the files that it hangs on, for who comes next the new one, too."""
    n_bytes = state.nbytes + tokens.nbytes
    gone = files.note_use(used)
    removed = None if gone or not files.has_disk(n_bytes) else files.make_room(n_bytes, used)
    if removed is None:
        return None, gone
    stored = files.write(tokens, origin, state)
    used.insert(0, stored.name)
    files.note_use(used)  # what it hangs on goes after it
    return stored, removed


def _result(future: Future[T], otherwise: T) -> T:
    try:
        return future.result()
    except (OSError, MemoryError) as error:
        _log.warning("a prefix could not be moved between memory and disk: %s", error)
        return otherwise
