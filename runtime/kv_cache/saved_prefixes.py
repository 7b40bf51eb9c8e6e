"""KV states of finished conversations, saved in host memory, where they do not slow any step.

They are the nodes of a tree of tokens. A node holds what a conversation has beyond those that it
begins like, so what conversations share is saved once, is found by all, and is restored for each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import takewhile

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import SavedKv, Tokens
from spillover.runtime.kv_cache.kept_sequences import MIN_SHARED_TOKENS, n_common
from spillover.runtime.kv_cache.prefix_files import StoredState

MOST_WASTE = 16
"""A state is only restored for at least this share (1/16) of its tokens."""

_LEAST_USED = 2
"""A state of whose tokens less than this share (1/2) begins another text is not put before it: what
they share gets a state of its own."""


class SavedPrefix:
    """*tokens* that follow the first *start* tokens of its parent's text, and their KV state. That
    begins at *origin*: at *start*; at 0 where the memory of a model cannot be put together; or
    before *start* where the node was divided since."""

    __slots__ = (
        "children", "file", "origin", "parent", "stands_alone", "start", "state", "tokens",
    )  # fmt: skip

    def __init__(self, parent: SavedPrefix | None, start: int, tokens: Tokens) -> None:
        self.parent = parent or self
        self.start = self.origin = start
        self.tokens = tokens
        self.stands_alone = False
        """Whether it was saved from 0 on because nothing less could be: it has what its end needs,
        and cannot be cut."""
        self.state: SavedKv | None = None
        self.file: StoredState | None = None
        """Where the same state is on disk, which may be gone."""
        self.children: dict[tuple[int, int], SavedPrefix] = {}
        """By the position where they begin, and their first token."""

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def divide(self, n: int) -> None:
        """Give the tokens up to position *n* a node of their own, which has no state yet."""
        first = SavedPrefix(self.parent, self.start, self.tokens[: n - self.start])
        self.parent.children[self.start, int(self.tokens[0])] = first
        self.start, self.tokens, self.parent = n, self.tokens[n - self.start :], first
        for key, child in list(self.children.items()):
            if key[0] <= n:
                first.children[key], child.parent = self.children.pop(key), first
        first.children[n, int(self.tokens[0])] = self


class SavedMatch(Struct, frozen=True):
    """The first *n_tokens* of a prompt are those of the states of *chain*, one after the other.
    Each is cut where the next one begins."""

    n_tokens: int
    chain: tuple[SavedPrefix, ...]

    @property
    def n_cells(self) -> int:
        """Cells that restoring takes for a moment."""
        return max(node.end for node in self.chain)


class SavedPrefixes:
    """States of *max_bytes* in total; the least recently used are dropped first. *are_cut*: a
    restored sequence can be cut anywhere."""

    def __init__(self, max_bytes: int, *, are_cut: bool = True) -> None:
        self._max_bytes = max_bytes
        self._are_cut = are_cut
        self._root = SavedPrefix(None, 0, np.empty(0, dtype=np.int32))
        self._held: OrderedDict[SavedPrefix, None] = OrderedDict()
        """Least recently used first; a node after all that begin like it."""
        self.n_bytes = 0
        self.n_dropped = 0

    def __len__(self) -> int:
        return len(self._held)

    def find(self, prompt: Tokens, *, on_disk: bool = False) -> SavedMatch | None:
        """The states that share most with *prompt*, whose last token is always read, if they are
        worth restoring. *on_disk*: some may have to be read from files first."""
        best, chains = None, list[tuple[SavedPrefix, ...]]()
        for node, n in self._path(prompt[:-1]):
            before = next((c for c in reversed(chains) if c[-1].start < node.origin), ())
            chain = (*before, node)
            chains.append(chain)
            is_whole = all(each.state is not None or (on_disk and each.file) for each in chain)
            if is_whole and self._is_worth_it(node, n):
                best = SavedMatch(n, chain)
        return best if best is not None and best.n_tokens >= MIN_SHARED_TOKENS else None

    def _is_worth_it(self, node: SavedPrefix, n: int) -> bool:
        """Whether to restore *node* for its text up to position *n*."""
        if n < node.end and (node.stands_alone or not self._are_cut):
            return False
        return (n - node.origin) * MOST_WASTE >= node.end - node.origin

    def _path(self, tokens: Tokens) -> list[tuple[SavedPrefix, int]]:
        """The nodes that *tokens* follow, each with the position up to which they do."""
        path, node, n = [], self._root, 0
        while n < len(tokens) and (child := node.children.get((n, int(tokens[n])))) is not None:
            n += n_common(tokens[n:], child.tokens)
            path.append((child, n))
            node = child
        return path

    def touch(self, tokens: Tokens) -> None:
        """Note that the beginning of *tokens* is used."""
        self._touch(node for node, _ in self._path(tokens))

    def lacking(self, tokens: Tokens, n_most: int | None = None) -> list[tuple[int, int]]:
        """The ranges of *tokens* that no state holds, in order, each of at most *n_most*; where
        memories cannot be put together, at most the one that ends with them. A node that is much
        longer than what they share with it is divided there."""
        self._divide_for(tokens, n_most)
        path = self._path(tokens)
        ranges = [
            (node.start, node.end) for node, n in path if node.state is None and n == node.end
        ]
        n, n_all = path[-1][1] if path else 0, len(tokens)
        if not self._are_cut:
            return [each for each in [*ranges, (n, n_all)] if each[0] < each[1] == n_all]
        step = n_most or max(n_all, 1)
        return [*ranges, *((start, min(start + step, n_all)) for start in range(n, n_all, step))]

    def _divide_for(self, tokens: Tokens, n_most: int | None) -> None:
        """All conversations with a model begin with some tokens of its template. Without this each
        would be restored behind all of the first one, however long that is. What is not cut can
        only be used where it ends."""
        for node, n in self._path(tokens):
            is_waste = (n - node.origin) * _LEAST_USED < node.end - node.origin
            if n < node.end and (is_waste if self._are_cut else n == len(tokens)):
                node.divide(n)
            while n_most and node.state is None and n == node.end > node.start + n_most:
                node.divide(node.start + n_most)

    def _touch(self, path: Iterable[SavedPrefix]) -> None:
        for node in reversed(list(path)):
            if node in self._held:
                self._held.move_to_end(node)

    def make_room(self, n_bytes: int, keep: Collection[SavedPrefix] = ()) -> bool:
        """Drop states other than those of *keep* until one of this size may be put; False, with
        none dropped, when it never may."""
        n_kept = sum(node.state.nbytes for node in keep if node.state is not None)
        if n_kept + n_bytes > self._max_bytes:
            return False
        self.reclaim(self.n_bytes + n_bytes - self._max_bytes, keep)
        return True

    def put(self, tokens: Tokens, origin: int, state: SavedKv) -> bool:
        """Keep the state of *tokens* from *origin* on, which is 0 or begins a range that lacking()
        gave. False: it begins nowhere now. A state of all of them takes the place of those of their
        beginning that nothing else needs and that cannot be cut."""
        path = self._path(tokens)
        parent, n = path[-1] if path else (self._root, 0)
        is_new = n < len(tokens)
        node = SavedPrefix(parent, n, np.array(tokens[n:])) if is_new else path.pop()[0]
        if origin not in (0, node.start) or node.end != len(tokens) or node.state is not None:
            return False
        if origin != node.origin:
            node.file = None
        node.parent.children[node.start, int(node.tokens[0])] = node
        node.origin, node.state = origin, state
        node.stands_alone = origin != node.start
        self._held[node] = None
        self.n_bytes += state.nbytes
        for held, n in path:
            is_shared = n < held.end or len(held.children) > 1
            is_cut = self._are_cut and not held.stands_alone
            if held.state is not None and node.stands_alone and not (is_shared or is_cut):
                self._drop(held)
        self._touch([*(held for held, _ in path), node])
        return True

    def reclaim(self, n_bytes: int, keep: Collection[SavedPrefix] = ()) -> None:
        """Drop the states that were used least recently, *n_bytes* of them if there are as many
        beside those of *keep*."""
        wanted = self.n_bytes - n_bytes
        for node in [each for each in self._held if each not in keep] if n_bytes > 0 else ():
            if self.n_bytes <= wanted:
                break
            self._drop(node)
            self.n_dropped += 1

    def _drop(self, node: SavedPrefix) -> None:
        """Drop the state of *node*."""
        assert node.state is not None
        self.n_bytes -= node.state.nbytes
        node.state = None
        del self._held[node]
        self._prune(node)

    def discard(self, node: SavedPrefix) -> None:
        """Forget the state of *node*, which is of no use now, and that it has a file."""
        node.file = None
        if node.state is not None:
            self._drop(node)
        else:
            self._prune(node)

    # --- states on disk ---------------------------------------------------------------------

    def nodes(self, tokens: Tokens) -> list[SavedPrefix]:
        """The nodes that spell *tokens* from the first one on, as far as there are any."""
        path = takewhile(lambda step: step[1] == step[0].end, self._path(tokens))
        return [node for node, _ in path]

    def add_file(self, tokens: Tokens, origin: int, file: StoredState) -> bool:
        """Note that a file has the state of *tokens* from *origin* on. False: what comes before is
        not here, so it is of no use."""
        self._divide_for(tokens, None)
        path = self._path(tokens)
        parent, n = path[-1] if path else (self._root, 0)
        is_new = n < len(tokens)
        node = SavedPrefix(parent, n, np.array(tokens[n:])) if is_new else parent
        if node.end != len(tokens) or not _is_beginning(node, origin):
            return False
        if node.state is not None and node.origin != origin:
            return False  # another state took its place
        node.origin, node.stands_alone = origin, False
        node.parent.children[node.start, int(node.tokens[0])] = node
        node.file = file
        return True

    def fill(
        self, node: SavedPrefix, state: SavedKv | None, keep: Collection[SavedPrefix] = ()
    ) -> None:
        """Take what was read from the file of *node*, but not at the cost of *keep*; None: it was
        of no use."""
        if state is None:
            node.file = None
            self._prune(node)
        elif node.state is None and node.file is not None and self.make_room(state.nbytes, keep):
            node.state = state
            self._held[node] = None
            self.n_bytes += state.nbytes
            while (node := node.parent) is not self._root:
                if node in self._held:
                    self._held.move_to_end(node)

    def forget_files(self, names: Collection[str]) -> None:
        """The files of these names are gone."""
        nodes = [self._root] if names else []
        while nodes:
            node = nodes.pop()
            nodes += node.children.values()
            if node.file is not None and node.file.name in names:
                node.file = None
                self._prune(node)

    def _prune(self, node: SavedPrefix) -> None:
        """Remove the nodes that lead nowhere, from *node* on."""
        while not (node is self._root or node.children or node.state is not None or node.file):
            key = node.start, int(node.tokens[0])
            if node.parent.children.get(key) is not node:
                return  # it was removed before
            del node.parent.children[key]
            node = node.parent


def _is_beginning(node: SavedPrefix, origin: int) -> bool:
    """Whether *node* or one that it hangs on begins at *origin*."""
    while origin < node.start:
        node = node.parent
    return origin == node.start
