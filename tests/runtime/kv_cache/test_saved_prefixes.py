"""The tree of saved states: what is found, what is shared, and what goes first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spillover.runtime.backend import SavedKv, Tokens, saved_kv
from spillover.runtime.kv_cache.prefix_files import StoredState
from spillover.runtime.kv_cache.saved_prefixes import SavedPrefix, SavedPrefixes


def text(i: int, n: int = 40) -> Tokens:
    return np.arange(1000 * i, 1000 * i + n, dtype=np.int32)


def state(n_bytes: int) -> SavedKv:
    return np.zeros(n_bytes, dtype=np.uint8)


def keep(saved: SavedPrefixes, tokens: Tokens, bytes_per_token: int = 1) -> bool:
    """Save what is missing of *tokens*, as a KV cache does; False when there is no room."""
    saved.touch(tokens)
    for start, end in saved.lacking(tokens):
        n_bytes = (end - start) * bytes_per_token
        if not (saved.make_room(n_bytes) and saved.put(tokens[:end], start, state(n_bytes))):
            return False
    return True


def n_found(saved: SavedPrefixes, tokens: Tokens) -> int:
    """Of a prompt that goes on after *tokens*."""
    match = saved.find(np.append(tokens, np.int32(7)))
    return 0 if match is None else match.n_tokens


def whole(node: SavedPrefix) -> Tokens:
    """The text that ends with the tokens of *node*."""
    if node.parent is node:
        return node.tokens
    return np.append(whole(node.parent)[: node.start], node.tokens)


def held(saved: SavedPrefixes, texts: Sequence[Tokens]) -> list[int]:
    return [i for i, tokens in enumerate(texts) if n_found(saved, tokens) == len(tokens)]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists what a process has mapped")
def test_states_are_in_memory_of_this_process_alone() -> None:
    """Shared memory took a third longer to fill, while running answers waited."""
    saved = saved_kv(1 << 20)
    address = saved.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights = line.split()[:2]
        start, end = (int(each, 16) for each in place.split("-"))
        if start <= address < end:
            assert rights == "rw-p"
            return
    pytest.fail("it is mapped nowhere")


def test_any_number_of_states_is_held_as_far_as_their_bytes_go() -> None:
    saved, texts = SavedPrefixes(1000), [text(i, 10) for i in range(120)]
    assert all(keep(saved, tokens) for tokens in texts)
    assert held(saved, texts) == list(range(20, 120))
    assert (saved.n_bytes, len(saved), saved.n_dropped) == (1000, 100, 20)
    assert not saved.make_room(1001)
    assert not keep(SavedPrefixes(0), text(0))


def test_what_is_used_stays_longer() -> None:
    saved, texts = SavedPrefixes(80), [text(i) for i in range(3)]
    keep(saved, texts[0])
    keep(saved, texts[1])
    saved.touch(texts[0])
    keep(saved, texts[2])
    assert held(saved, texts) == [0, 2]


def test_what_texts_share_is_held_once_and_goes_last() -> None:
    saved, shared = SavedPrefixes(400), text(0, 300)
    texts = [np.append(shared, text(i, 50)) for i in (1, 2, 3)]
    keep(saved, shared)
    assert all(keep(saved, tokens) for tokens in texts)
    assert held(saved, texts) == [1, 2]
    assert saved.n_bytes == 400
    assert n_found(saved, np.append(shared, text(9))) == 300


def test_a_text_that_leaves_another_one_in_its_middle_shares_what_comes_before() -> None:
    saved = SavedPrefixes(10_000)
    first, second = text(0, 100), np.append(text(0, 60), text(1, 50))
    keep(saved, first)
    keep(saved, second)
    assert saved.n_bytes == 150
    match = saved.find(np.append(second, np.int32(7)))
    assert match is not None
    assert (match.n_tokens, [node.origin for node in match.chain]) == (110, [0, 60])
    assert match.n_cells == 110


def test_texts_that_share_only_their_beginning_are_not_restored_behind_all_of_another() -> None:
    """Every conversation begins with some tokens of the model's template."""
    saved, header = SavedPrefixes(10_000), text(0, 3)
    first, *others = (np.append(header, text(i, 3000 if i == 1 else 60)) for i in range(1, 5))
    for tokens in (first, *others):
        keep(saved, tokens)
    for tokens in (first, *others):
        match = saved.find(np.append(tokens, np.int32(7)))
        assert match is not None
        assert match.n_tokens == len(tokens)
        assert sum(node.end - node.origin for node in match.chain) == len(tokens)
        # So all of them can be written to files.
        nodes = saved.nodes(tokens)
        assert nodes[-1].end == len(tokens)
        assert not any(node.stands_alone for node in nodes)
    assert saved.n_bytes == 3003 + 3 + 3 * 60


def test_files_of_a_divided_text_are_found_in_any_order() -> None:
    header = text(0, 3)
    first, second = np.append(header, text(1, 3000)), np.append(header, text(2))
    for order in permutations([(first, 0), (header, 0)]):
        saved = SavedPrefixes(10_000)
        for tokens, origin in (*order, (second, 3)):
            assert saved.add_file(tokens, origin, StoredState("f", 1))
        for tokens, n_states in ((first, 1), (second, 2)):
            match = saved.find(np.append(tokens, np.int32(7)), on_disk=True)
            assert match is not None
            assert (match.n_tokens, len(match.chain)) == (len(tokens), n_states)


def test_files_of_a_text_that_was_divided_in_its_middle_stay_of_use() -> None:
    """They were removed at the next start, and what was not on disk yet was never written."""
    header, shared = text(0, 4), text(5, 11)
    first = np.append(header, text(1, 900))
    second, third = (np.concatenate([header, shared, text(i, 900)]) for i in (2, 3))
    saved = SavedPrefixes(10_000)
    for tokens in (first, second, third):
        keep(saved, tokens)
    assert [node.origin for node in saved.nodes(second)] == [0, 4, 4]
    assert not any(node.stands_alone for node in saved.nodes(second))
    after = SavedPrefixes(10_000)
    files = ((header, 0), (first, 0), (second[:15], 4), (second, 4), (third, 15))
    assert all(after.add_file(tokens, at, StoredState("f", 1)) for tokens, at in files)
    for tokens, n_states in ((first, 1), (second, 2), (third, 3)):
        match = after.find(np.append(tokens, np.int32(7)), on_disk=True)
        assert match is not None
        assert (match.n_tokens, len(match.chain)) == (len(tokens), n_states)


def test_what_is_saved_as_a_whole_is_not_for_a_file() -> None:
    """With a window that had lost its beginning, each turn was written from the first word on."""
    saved, turns = SavedPrefixes(10_000), text(0, 900)
    assert keep(saved, turns[:300])
    for n in (500, 900):
        assert saved.lacking(turns[:n])
        assert saved.put(turns[:n], 0, state(n))
        assert [node.stands_alone for node in saved.nodes(turns[:n])][-1]
    saved.lacking(np.append(turns[:320], text(1)))  # the second turn is divided
    assert saved.nodes(turns[:500])[-1].stands_alone


def test_a_text_that_is_saved_as_a_whole_leaves_its_instructions_to_others() -> None:
    """Their state was dropped for it, and a prompt with the same first words got none at all: the
    whole was restored, could not be cut, and all was read."""
    saved, instructions = SavedPrefixes(10_000), text(0, 300)
    keep(saved, instructions)
    turns = np.append(instructions, text(1, 200))
    for n in (400, 500):
        assert saved.put(turns[:n], 0, state(n))
    assert n_found(saved, turns) == 500
    assert n_found(saved, np.append(turns[:310], text(2))) == 300
    assert (len(saved), saved.n_bytes) == (2, 800)


def test_what_a_state_hangs_on_is_found_behind_one_that_stands_alone() -> None:
    """The row of states began in the middle of the text, and the prompt was read."""
    saved, whole = SavedPrefixes(10_000), text(0, 200)
    for tokens in (whole[:30], np.append(whole[:30], text(1, 30))):
        keep(saved, tokens)
    assert saved.put(whole[:80], 0, state(80))
    assert saved.add_file(whole, 30, StoredState("f", 170))
    match = saved.find(np.append(whole, np.int32(7)), on_disk=True)
    assert match is not None
    assert [(node.origin, node.end) for node in match.chain] == [(0, 30), (30, 200)]


def test_room_is_not_made_at_the_cost_of_what_is_needed_beside_it() -> None:
    saved, first, second = SavedPrefixes(100), text(0, 60), text(1)
    assert keep(saved, first)
    assert keep(saved, second)
    needed = saved.nodes(first)
    assert not saved.make_room(41, needed)
    assert len(saved) == 2
    assert saved.make_room(40, needed)
    assert held(saved, [first, second]) == [0]


def test_a_state_is_not_brought_back_for_a_small_part_of_it() -> None:
    saved, prompt = SavedPrefixes(10_000), text(0, 400)
    keep(saved, prompt)
    assert n_found(saved, np.append(prompt[:20], text(5))) == 0
    assert n_found(saved, np.append(prompt[:60], text(5))) == 60
    keep(saved, text(1, 30))
    keep(saved, np.append(text(1, 30), text(2, 400)))
    # The first state alone is enough for who shares little with the second one.
    assert n_found(saved, np.concatenate([text(1, 30), text(2, 5), text(6)])) == 30


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    saved = SavedPrefixes(10_000)
    keep(saved, text(0))
    match = saved.find(text(0))
    assert match is not None
    assert match.n_tokens == 39


def test_a_state_of_all_takes_the_place_of_those_that_nothing_else_needs() -> None:
    saved, turns = SavedPrefixes(10_000, are_cut=False), text(0, 300)
    for n in (100, 200, 300):
        assert saved.lacking(turns[:n])[-1][1] == n
        assert saved.put(turns[:n], 0, state(500))
    assert (saved.n_bytes, len(saved)) == (500, 1)
    assert [n_found(saved, turns[:n]) for n in (150, 299, 300)] == [0, 0, 300]
    assert saved.put(np.append(turns[:250], text(3)), 0, state(500))
    assert n_found(saved, np.append(turns[:250], text(3))) == 290


Text = st.lists(st.integers(0, 2), min_size=1, max_size=24)


@given(st.lists(Text, max_size=12), Text, st.sampled_from([20, 60, 1000]))
def test_what_is_found_is_a_row_of_states_that_spell_the_prompt(
    texts: list[list[int]], prompt: list[int], max_bytes: int
) -> None:
    saved = SavedPrefixes(max_bytes)
    arrays = [np.array(tokens, dtype=np.int32) for tokens in texts]
    kept = []
    for tokens in arrays:
        kept += [tokens] if keep(saved, tokens) else []
        assert saved.n_bytes <= max_bytes
    asked = np.array(prompt, dtype=np.int32)
    best = max((n_shared(asked[:-1], tokens) for tokens in kept), default=0)
    match = saved.find(asked)
    if match is None:
        assert best < 8 or saved.n_dropped
        return
    assert match.n_tokens == best or (match.n_tokens < best and saved.n_dropped)
    spelled = np.empty(0, dtype=np.int32)
    for node in match.chain:
        assert node.origin <= len(spelled)
        spelled = np.append(spelled[: node.origin], whole(node)[node.origin :])
        assert node.state is not None
        assert node.state.nbytes == node.end - node.origin
    assert spelled[: match.n_tokens].tolist() == prompt[: match.n_tokens]


def n_shared(a: Tokens, b: Tokens) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def test_a_state_on_disk_is_found_until_its_file_is_gone() -> None:
    saved = SavedPrefixes(1000)
    first, second = text(0, 300), np.append(text(0, 300), text(1, 300))
    assert not saved.add_file(second, 300, StoredState("b", 300))  # what comes before is missing
    assert saved.add_file(first, 0, StoredState("a", 300))
    assert saved.add_file(second, 300, StoredState("b", 300))
    prompt = np.append(second, np.int32(7))
    assert saved.find(prompt) is None
    match = saved.find(prompt, on_disk=True)
    assert match is not None
    assert match.n_tokens == 600
    for node in match.chain:
        saved.fill(node, state(300))
    saved.reclaim(300)
    assert (len(saved), n_found(saved, second)) == (1, 300)
    assert saved.find(prompt, on_disk=True) == match
    saved.forget_files(["b"])
    left = saved.find(prompt, on_disk=True)
    assert left is not None
    assert left.n_tokens == 300
    saved.reclaim(1000)
    saved.forget_files(["a"])
    assert saved.nodes(first) == []
