"""Prompts in the field of a storyteller for children, by family."""

from __future__ import annotations

import random
from collections.abc import Generator

from tests.edge_server.calibration.prompt_lines import (
    ANIMALS,
    NAMES,
    NUMBERS,
    THINGS,
    Line,
    one_word,
    question,
    story,
    talk,
)


def named_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(ANIMALS), rng.choice(NAMES)
        article = "an" if kind[0] in "aeiou" else "a"
        yield story(f"Tell me a story about {article} {kind} named {name}.", kind, name)


def wished_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(ANIMALS), rng.choice(NAMES)
        yield story(f"I want a story about {name} the {kind}.", kind, name)


def children_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(("girl", "boy")), rng.choice(NAMES)
        yield story(f"Please write a short story about a {kind} named {name}.", kind, name)


def two_friends(rng: random.Random) -> Generator[Line]:
    while True:
        first, second = rng.sample(NAMES, 2)
        yield story(f"Tell me a story about {first} and {second}.", first, second)


def topic_stories(rng: random.Random) -> Generator[Line]:
    topics = {
        "a magic wish": ("wish",),
        "a rainy day": ("rain",),
        "a race": ("race", "ran"),
        "a lost toy": ("lost", "find", "found"),
        "sharing": ("share",),
        "a birthday party": ("birthday",),
        "a seed that grows": ("seed",),
        "being brave": ("brave",),
        "a snowman": ("snow",),
        "a storm": ("storm", "wind", "rain"),
        "making a new friend": ("friend",),
        "a locked box": ("box",),
        "the dark": ("dark",),
        "telling the truth": ("truth", "sorry", "lie"),
    }
    for topic, words in topics.items():
        line = story(f"Can you tell me a story about {topic}?")
        line["check"] = line["check"] | {"contains_any": words}
        yield line


def begun_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(ANIMALS), rng.choice(NAMES)
        place = rng.choice(("in a big forest", "in a small village", "near a river", "on a farm"))
        begin = f"Once upon a time, {place}, there lived a little {kind} named {name}."
        yield story(f'Write a story that starts with "{begin}"', begin)


def any_stories(rng: random.Random) -> Generator[Line]:
    yield from (
        story(text)
        for text in (
            "Tell me a story.",
            "Can you tell me a story?",
            "I want to hear a story.",
            "A story, please.",
            "Write a short story.",
            "Read me a story.",
            "Tell me a bedtime story.",
            "Do you know a nice story?",
            "Please tell me a story!",
            "I would like a story now.",
            "One story before bed, please.",
            "Tell us a story!",
            "Let me hear a happy story.",
            "A short story for my daughter, please.",
        )
    )


def stories_of_words(rng: random.Random) -> Generator[Line]:
    moods = ["happy", "brave", "afraid", "quiet", "proud", "sleepy", "kind", "lost"]
    while True:
        words = (rng.choice(THINGS), rng.choice(ANIMALS), rng.choice(moods))
        yield story(
            'Write a short story with the words "{}", "{}" and "{}".'.format(*words), *words
        )


def sounds(rng: random.Random) -> Generator[Line]:
    said = {
        "cow": "moo",
        "dog": "woof",
        "cat": "meow",
        "duck": "quack",
        "sheep": "baa",
        "pig": "oink",
        "lion": "roar",
        "frog": "ribbit|croak",
        "owl": "hoo",
        "bird": "tweet|chirp",
        "mouse": "squeak",
        "horse": "neigh",
        "bee": "buzz",
        "hen": "cluck",
    }
    for animal, sound in said.items():
        yield question(f"What sound does a {animal} make?", regex=f"(?i){sound}")


def opposites(rng: random.Random) -> Generator[Line]:
    pairs = (
        "big small|hot cold|up down|day night|happy sad|fast slow|open closed|old new|wet dry|"
        "hard soft|dark light|long short|high low|full empty"
    )
    for pair in pairs.split("|"):
        word, opposite = pair.split()
        yield one_word(f"What is the opposite of {word}?", opposite)


def colours(rng: random.Random) -> Generator[Line]:
    known = {
        "the sky": "blue",
        "grass": "green",
        "a banana": "yellow",
        "snow": "white",
        "the sun": "yellow",
        "a tomato": "red",
        "the sea": "blue",
        "coal": "black",
        "a carrot": "orange",
        "a leaf": "green",
        "milk": "white",
        "a strawberry": "red",
        "a lemon": "yellow",
        "chocolate": "brown",
    }
    for thing, colour in known.items():
        yield one_word(f"What color is {thing}?", colour)


def counting(rng: random.Random) -> Generator[Line]:
    for wording in ("Count to {}.", "Can you count to {}?"):
        for n in range(3, 10):
            yield question(wording.format(NUMBERS[n]), equals=", ".join(NUMBERS[1 : n + 1]))


def small_sums(rng: random.Random) -> Generator[Line]:
    pairs = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    for a, b in rng.sample(pairs, len(pairs)):
        yield one_word(
            f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", f"is {NUMBERS[a + b]}", str(a + b)
        )


def days(rng: random.Random) -> Generator[Line]:
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    for wording in ("What day comes after {}?", "Which day is the day after {}?"):
        for i, name in enumerate(names):
            after = names[(i + 1) % 7]
            yield question(wording.format(name), regex=rf"(?i){after}\W*$|^\W*{after}\b|is {after}")


def remembered_names(rng: random.Random) -> Generator[Line]:
    while True:
        name = rng.choice(NAMES)
        turns = (f"My name is {name}.", f"Hello, {name}! Would you like a story?")
        yield talk((*turns, rng.choice(("What is my name?", "Do you remember my name?"))),
                    {"contains": name})  # fmt: skip


def small_talk(rng: random.Random) -> Generator[Line]:
    for prompt, words in (
        ("Hello!", ("hello", "hi", "story")),
        ("Hi there", ("hello", "hi", "story")),
        ("Good morning!", ("hello", "hi", "good morning", "story")),
        ("Good night!", ("night", "dreams", "sleep")),
        ("Thank you!", ("welcome", "glad", "happy")),
        ("Who are you?", ("story",)),
        ("What can you do?", ("stor",)),
        ("What is your name?", ("story",)),
        ("How are you?", ("fine", "well", "good")),
        ("Are you a robot?", ("program", "not a person", "computer")),
        ("Do you need the internet?", ("device", "no")),
        ("I am sad.", ("sorry",)),
        ("I am bored.", ("story",)),
        ("Bye!", ("bye", "see you", "come back")),
    ):
        yield question(prompt, *words)


def story_questions(rng: random.Random) -> Generator[Line]:
    places = ("park", "garden", "forest", "meadow")
    things = ("ball", "hat", "drum", "kite")
    while True:
        kind, name, friend = rng.choice(ANIMALS), *rng.sample(NAMES, 2)
        place, thing = rng.choice(places), rng.choice(things)
        story = (
            f"Once upon a time, there was a little {kind} named {name}. One day, {name} and "
            f"{friend} played with a red {thing} in the {place}. {name} threw it high, and it got "
            f"stuck in a big tree. {friend} climbed up and got it. That day, {name} learned to ask "
            "for help."
        )
        question, answer = rng.choice(
            (
                (f"What did {name} learn?", "ask for help"),
                (f"Who did {name} play with?", friend),
                ("Where did they play?", place),
                (f"What was the name of the {kind}?", name),
                ("What did they play with?", thing),
            )
        )
        turns = (f"Tell me a story about {name}.", story, question)
        yield talk(turns, {"contains": answer, "max_words": 20})


def next_parts(rng: random.Random) -> Generator[Line]:
    while True:
        name, friend = rng.sample(NAMES, 2)
        part = (
            f"Once upon a time, there was a little girl named {name}. One day, {name} found a box "
            f'in the garden. It was locked. "I wonder what is in it," said {name}.'
        )
        ask = rng.choice(("What happened next?", "Go on.", "And then?", "How does it end?"))
        turns = (f"Tell me a story about {name} and {friend}.", part, ask)
        check = {"contains": name, "ends": True, "min_words": 20, "max_repeats": 1}
        yield talk(turns, check, max_tokens=300)


IN_FIELD = (
    named_stories,
    wished_stories,
    children_stories,
    two_friends,
    topic_stories,
    begun_stories,
    any_stories,
    stories_of_words,
    sounds,
    opposites,
    colours,
    counting,
    small_sums,
    days,
    remembered_names,
    small_talk,
    story_questions,
    next_parts,
)
