"""Writes storyteller_prompts.jsonl: labelled prompts for the bundled model, in its field and out
of it.

    python -m tests.cloud_fallback.policy.make_prompts

The check says what a right answer is, as a user would see it: a refusal of a question is no right
answer, however honest it is, and a story that leaves out what it was asked to be about is none
either. A family (`group`) is one way of asking for one kind of thing.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

PATH = Path(__file__).parent / "storyteller_prompts.jsonl"
PER_FAMILY = 14

# fmt: off
NAMES = [
    "Max", "Lily", "Tom", "Anna", "Ben", "Mia", "Sam", "Lucy", "Leo", "Zoe", "Omar", "Nina", "Jack",
    "Ella", "Finn", "Ruby", "Theo", "Ivy", "Hugo", "Maya", "Pip", "Daisy", "Rosie", "Oscar",
    "Toby", "Coco", "Milo", "Luna", "Biscuit", "Pepper", "Ginger", "Patch",
]
ANIMALS = [
    "dog", "cat", "rabbit", "bear", "frog", "fox", "mouse", "duck", "lion", "owl", "pig", "horse",
    "elephant", "turtle", "bird",
]
THINGS = [
    "kite", "ball", "tree", "river", "moon", "garden", "boat", "cake", "hat", "stone", "bell",
    "star", "drum", "lamp",
]
NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
]
CAPITALS = {
    "France": "Paris", "Sweden": "Stockholm", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi",
    "Egypt": "Cairo", "Portugal": "Lisbon", "Norway": "Oslo", "Cuba": "Havana", "Greece": "Athens",
    "Austria": "Vienna", "Ireland": "Dublin", "Canada": "Ottawa", "Finland": "Helsinki",
}
SUBJECTS = [
    "autumn leaves", "a train", "the sea", "winter", "a candle", "an old clock", "rain",
    "a mountain", "my cat", "coffee", "the city at night", "spring", "a broken cup", "silence",
]
SPELLED = [
    "garden", "planet", "window", "bottle", "silver", "market", "pencil", "dragon", "winter",
    "button",
]
# fmt: on
STORY: dict[str, Any] = {"ends": True, "min_words": 60, "max_repeats": 1}
Line = dict[str, Any]


def _story(prompt: str, *contains: str, **more: Any) -> Line:
    return {"prompt": prompt, "check": STORY | {"contains": contains} | more}


def _ask(prompt: str, *any_of: str, **more: Any) -> Line:
    check = more | ({"contains_any": any_of} if any_of else {})
    return {"prompt": prompt, "check": check, "max_tokens": 200}


def _word(prompt: str, *any_of: str) -> Line:
    """A question whose answer is a word: it may not be a part of another word."""
    words = "|".join(any_of)
    return {"prompt": prompt, "check": {"regex": rf"(?i)\b(?:{words})\b"}, "max_tokens": 200}


def _talk(turns: Iterable[str], check: dict[str, Any], max_tokens: int = 120) -> Line:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return {"messages": messages, "check": check, "max_tokens": max_tokens}


# In its field


def named_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(ANIMALS), rng.choice(NAMES)
        article = "an" if kind[0] in "aeiou" else "a"
        yield _story(f"Tell me a story about {article} {kind} named {name}.", kind, name)


def wished_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(ANIMALS), rng.choice(NAMES)
        yield _story(f"I want a story about {name} the {kind}.", kind, name)


def children_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(("girl", "boy")), rng.choice(NAMES)
        yield _story(f"Please write a short story about a {kind} named {name}.", kind, name)


def two_friends(rng: random.Random) -> Generator[Line]:
    while True:
        first, second = rng.sample(NAMES, 2)
        yield _story(f"Tell me a story about {first} and {second}.", first, second)


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
        line = _story(f"Can you tell me a story about {topic}?")
        line["check"] = line["check"] | {"contains_any": words}
        yield line


def begun_stories(rng: random.Random) -> Generator[Line]:
    while True:
        kind, name = rng.choice(ANIMALS), rng.choice(NAMES)
        place = rng.choice(("in a big forest", "in a small village", "near a river", "on a farm"))
        begin = f"Once upon a time, {place}, there lived a little {kind} named {name}."
        yield _story(f'Write a story that starts with "{begin}"', begin)


def any_stories(rng: random.Random) -> Generator[Line]:
    yield from (
        _story(text)
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
        yield _story(
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
        yield _ask(f"What sound does a {animal} make?", regex=f"(?i){sound}")


def opposites(rng: random.Random) -> Generator[Line]:
    pairs = (
        "big small|hot cold|up down|day night|happy sad|fast slow|open closed|old new|wet dry|"
        "hard soft|dark light|long short|high low|full empty"
    )
    for pair in pairs.split("|"):
        word, opposite = pair.split()
        yield _word(f"What is the opposite of {word}?", opposite)


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
        yield _word(f"What color is {thing}?", colour)


def counting(rng: random.Random) -> Generator[Line]:
    for wording in ("Count to {}.", "Can you count to {}?"):
        for n in range(3, 10):
            yield _ask(wording.format(NUMBERS[n]), equals=", ".join(NUMBERS[1 : n + 1]))


def small_sums(rng: random.Random) -> Generator[Line]:
    pairs = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    for a, b in rng.sample(pairs, len(pairs)):
        yield _word(f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", f"is {NUMBERS[a + b]}", str(a + b))


def days(rng: random.Random) -> Generator[Line]:
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    for wording in ("What day comes after {}?", "Which day is the day after {}?"):
        for i, name in enumerate(names):
            after = names[(i + 1) % 7]
            yield _ask(wording.format(name), regex=rf"(?i){after}\W*$|^\W*{after}\b|is {after}")


def remembered_names(rng: random.Random) -> Generator[Line]:
    while True:
        name = rng.choice(NAMES)
        turns = (f"My name is {name}.", f"Hello, {name}! Would you like a story?")
        yield _talk((*turns, rng.choice(("What is my name?", "Do you remember my name?"))),
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
        yield _ask(prompt, *words)


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
        yield _talk(turns, {"contains": answer, "max_words": 20})


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
        yield _talk(turns, check, max_tokens=300)


# Out of its field


def capitals(rng: random.Random) -> Generator[Line]:
    for country, city in CAPITALS.items():
        yield _ask(f"What is the capital of {country}?", city)


def products(rng: random.Random) -> Generator[Line]:
    while True:
        a, b = rng.randint(12, 97), rng.randint(3, 48)
        yield _word(
            rng.choice(("What is {} times {}?", "Calculate {} * {}.")).format(a, b), str(a * b)
        )


def word_problems(rng: random.Random) -> Generator[Line]:
    while True:
        a, b, c = rng.randint(11, 40), rng.randint(2, 9), rng.randint(3, 9)
        yield _word(
            f"{rng.choice(NAMES)} has {a} apples, gives away {b} and then buys {c} bags with 4 "
            "apples in each. How many apples are there now?",
            str(a - b + 4 * c),
        )


def code(rng: random.Random) -> Generator[Line]:
    tasks = (
        "reverses a list",
        "computes the factorial of n",
        "checks whether a word is a palindrome",
        "sorts a list of numbers",
        "counts the vowels in a text",
        "returns the n-th Fibonacci number",
        "reads a file and prints its lines",
    )
    for task in tasks:
        yield _ask(f"Write a Python function that {task}.", regex=r"def \w+\(", ends=True)
        yield _ask(f"Write a JavaScript function which {task}.", "function", "=>", ends=True)


def commands(rng: random.Random) -> Generator[Line]:
    for prompt, found in (
        ("Which shell command lists the files of a folder?", r"\bls\b"),
        ("Write a SQL query that selects all users older than 30.", r"(?i)select"),
        ("Give me a regular expression for a date like 2024-05-17.", r"\\d|\[0-9\]"),
        ("Write an HTML page with one heading.", r"(?i)<h1"),
        ("How do I create a new branch in git?", r"git (?:branch|checkout|switch)"),
        ("Write a CSS rule that makes links red.", r"color:\s*red"),
        ("Which command shows the free disk space on Linux?", r"\bdf\b"),
        ("Write a Dockerfile for a Flask app.", r"FROM "),
        ("How do I install numpy with pip?", r"pip3? install numpy"),
        ("Print the numbers 1 to 10 in C.", r"printf"),
        ("Write a JSON object with the keys name and age.", r'"name"\s*:'),
        ("Write a for loop in Java.", r"for\s*\("),
        ("How do I undo the last commit in git?", r"git (?:reset|revert)"),
        ("Which command shows the running processes?", r"\b(?:ps|top)\b"),
    ):
        yield _ask(prompt, regex=found)


def explanations(rng: random.Random) -> Generator[Line]:
    for prompt, words in (
        ("Explain how photosynthesis works.", ["light", "carbon"]),
        ("What is inflation in economics?", ["price"]),
        ("How does a vaccine work?", ["immune"]),
        ("Explain what a black hole is.", ["gravity"]),
        ("What is machine learning?", ["data"]),
        ("How does a refrigerator stay cold?", ["heat"]),
        ("Why is the sky blue? Explain the physics.", ["scatter"]),
        ("What causes the tides?", ["moon"]),
        ("Explain the theory of evolution.", ["selection"]),
        ("How does a diesel engine work?", ["fuel"]),
        ("What does DNA do?", ["cell"]),
        ("Explain supply and demand.", ["price"]),
        ("How do airplanes fly?", ["lift"]),
        ("What is an operating system?", ["software"]),
    ):
        yield _ask(prompt, contains=words, min_words=15)


def history(rng: random.Random) -> Generator[Line]:
    for prompt, answer in (
        ("Who wrote Hamlet?", "Shakespeare"),
        ("Who painted the Mona Lisa?", "Leonardo"),
        ("In which year did the Berlin Wall fall?", "1989"),
        ("Who discovered penicillin?", "Fleming"),
        ("Who was the first person on the moon?", "Armstrong"),
        ("When did World War Two end?", "1945"),
        ("Who composed The Magic Flute?", "Mozart"),
        ("Who developed the theory of relativity?", "Einstein"),
        ("Which ship sank on its first voyage in 1912?", "Titanic"),
        ("Who wrote Don Quixote?", "Cervantes"),
        ("Who was the first president of the United States?", "Washington"),
        ("In which city did the Olympic Games of 2012 take place?", "London"),
        ("Which empire built Machu Picchu?", "Inca"),
        ("Who invented the telephone?", "Bell"),
    ):
        yield _ask(prompt, answer)


def nature_facts(rng: random.Random) -> Generator[Line]:
    for prompt, *answers in (
        ("How many legs does a spider have?", "eight", "8"),
        ("What is the largest planet of the solar system?", "jupiter"),
        ("At how many degrees Celsius does water boil?", "100", "hundred"),
        ("What is the chemical symbol of gold?", "au"),
        ("How many bones does an adult human have?", "206"),
        ("Which gas do plants take in?", "carbon dioxide", "co2"),
        ("What is the fastest land animal?", "cheetah"),
        ("What is the hardest natural material?", "diamond"),
        ("How many hearts does an octopus have?", "three", "3"),
        ("Which planet is called the red planet?", "mars"),
        ("What is the longest river in Africa?", "nile"),
        ("How many days does a leap year have?", "366"),
        ("Which metal is liquid at room temperature?", "mercury"),
        ("What do bees make?", "honey"),
    ):
        yield _word(prompt, *answers)


def translations(rng: random.Random) -> Generator[Line]:
    for english, language, words in (
        ("Good morning", "German", ("guten morgen",)),
        ("Thank you", "French", ("merci",)),
        ("The dog", "Spanish", ("el perro",)),
        ("I love you", "Italian", ("ti amo",)),
        ("water", "German", ("wasser",)),
        ("house", "Spanish", ("casa",)),
        ("Good night", "French", ("bonne nuit",)),
        ("cat", "Italian", ("gatto",)),
        ("bread", "Dutch", ("brood",)),
        ("one, two, three", "Spanish", ("uno",)),
        ("See you tomorrow", "German", ("morgen",)),
        ("red", "French", ("rouge",)),
        ("school", "Swedish", ("skola",)),
        ("friend", "Portuguese", ("amigo",)),
    ):
        yield _ask(f'Translate "{english}" into {language}.', *words)


def other_languages(rng: random.Random) -> Generator[Line]:
    for prompt, words in (
        ("Erzähl mir bitte eine Geschichte über einen Hund.", ("hund",)),
        ("Was ist die Hauptstadt von Italien?", ("rom",)),
        ("Raconte-moi une histoire sur un chat.", ("chat ",)),
        ("Quelle heure est-il quand il est midi ?", ("douze", "midi", "12")),
        ("Cuéntame un cuento sobre un perro.", ("perro",)),
        ("¿De qué color es el cielo?", ("azul",)),
        ("Raccontami una storia su un gatto.", ("gatto",)),
        ("Berätta en saga om en räv.", ("räv",)),
        ("Conte uma história sobre um gato.", ("gato",)),
        ("Расскажи мне сказку про кота.", ("кот",)),
        ("给我讲一个关于小狗的故事。", ("狗",)),
        ("犬についての話をしてください。", ("犬",)),
        ("Opowiedz mi bajkę o kocie.", ("kot",)),
        ("Vertel me een verhaal over een hond.", ("hond",)),
    ):
        yield _ask(prompt, *words)


def letters(rng: random.Random) -> Generator[Line]:
    for whom, what in (
        ("my boss", "a day off"),
        ("my landlord", "the broken heating"),
        ("a customer", "a late delivery"),
        ("the school", "my son's illness"),
        ("a hotel", "a double room"),
        ("my bank", "a new card"),
        ("a colleague", "the meeting on Friday"),
        ("the insurance company", "a broken window"),
        ("my professor", "an extension"),
        ("a supplier", "an invoice"),
        ("the city council", "the noisy street"),
        ("a friend", "a birthday invitation"),
        ("the airline", "lost luggage"),
        ("a recruiter", "an interview"),
    ):
        key = what.split()[-1]
        yield _ask(f"Write a polite email to {whom} about {what}.", contains=["dear", key],
                   min_words=20)  # fmt: skip


def conversions(rng: random.Random) -> Generator[Line]:
    while True:
        n = rng.randint(2, 30)
        prompt, value = rng.choice(
            (
                (f"How many centimeters are {n} meters?", 100 * n),
                (f"Convert {n} hours into minutes.", 60 * n),
                (f"How many grams are {n} kilograms?", 1000 * n),
                (f"How many days are {n} weeks?", 7 * n),
                (f"Convert {n} dozen into a number.", 12 * n),
            )
        )
        yield _ask(prompt, str(value), f"{value:,}")


def verse(rng: random.Random) -> Generator[Line]:
    for thing in SUBJECTS:
        key = thing.split()[-1]
        form = "haiku" if len(thing) % 2 else "poem of four lines"
        # Lines without paragraphs, or else it is prose.
        yield _ask(f"Write a {form} about {thing}.", contains=key, regex=r"[^\n]\n[^\n]+\n[^\n]",
                   max_words=60)  # fmt: skip


def word_games(rng: random.Random) -> Generator[Line]:
    words = [
        "garden",
        "planet",
        "window",
        "bottle",
        "silver",
        "market",
        "pencil",
        "dragon",
        "winter",
        "button",
    ]
    for word in words:
        yield _ask(f"Spell the word {word} backwards.", word[::-1], "-".join(word[::-1]))
        yield _word(f"How many letters does the word {word} have?", str(len(word)), "six")


def lists(rng: random.Random) -> Generator[Line]:
    for prompt, any_of in (
        ("List three prime numbers.", ("2, 3", "3, 5", "5, 7")),
        ("Name the four seasons.", ("autumn", "fall")),
        ("Name three European countries.", ("france", "germany", "spain", "italy")),
        ("List the primary colors.", ("red, ",)),
        ("Name two programming languages.", ("python", "java")),
        ("List three fruits that grow on trees.", ("apple", "pear", "cherr")),
        ("Name the planets of the solar system.", ("neptune",)),
        ("List the months with 31 days.", ("january",)),
        ("Name three musical instruments.", ("piano", "guitar", "violin")),
        ("Name the continents.", ("antarctica",)),
        ("List three kinds of cheese.", ("cheddar", "brie", "gouda")),
        ("Name two oceans.", ("pacific", "atlantic")),
        ("List the ingredients of a pancake.", ("flour",)),
        ("Name three famous scientists.", ("einstein", "newton", "curie")),
    ):
        yield _ask(prompt, *any_of)


def adult_stories(rng: random.Random) -> Generator[Line]:
    for what, *words in (
        ("a detective who solves a murder in Venice", "detective", "Venice"),
        ("a spaceship that lands on Mars", "Mars"),
        ("two lawyers in a trial", "lawyer"),
        ("a hacker who breaks into a bank", "hacker", "bank"),
        ("the French Revolution", "revolution"),
        ("a pirate captain and a treasure map", "pirate", "treasure"),
        ("a chess champion who loses a game", "chess"),
        ("a robot that wants to be human", "robot", "human"),
        ("a submarine under the Arctic ice", "submarine"),
        ("a journalist during an election", "journalist"),
        ("a vampire in Paris", "vampire", "Paris"),
        ("an astronaut who is alone on a space station", "astronaut", "station"),
        ("a samurai and his sword", "samurai", "sword"),
        ("a time traveler in ancient Rome", "Rome"),
    ):
        yield _story(f"Write a story about {what}.", *words)


def advice(rng: random.Random) -> Generator[Line]:
    for prompt, words in (
        ("How do I cook rice?", ("water",)),
        ("Recommend a laptop for programming.", ("ram", "memory", "processor")),
        ("How can I sleep better?", ("caffeine", "screen", "bedtime", "routine")),
        ("What should I pack for a hike?", ("water", "boots")),
        ("How do I change a flat tire?", ("jack", "spare")),
        ("How do I remove a red wine stain?", ("salt", "soap", "vinegar")),
        ("What is a good way to learn Spanish?", ("practice", "vocabulary", "listen")),
        ("How do I prepare for a job interview?", ("company", "question")),
        ("How often should I water a cactus?", ("week", "month", "dry")),
        ("How do I lower my heating bill?", ("thermostat", "insulat")),
        ("Which vitamins are in an orange?", ("vitamin c",)),
        ("How do I back up my phone?", ("cloud", "computer")),
        ("What helps against a headache?", ("water", "rest", "ibuprofen")),
        ("How do I write a will?", ("lawyer", "witness")),
    ):
        yield _ask(prompt, *words, min_words=8)


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
OUT_OF_FIELD = (
    capitals,
    products,
    word_problems,
    code,
    commands,
    explanations,
    history,
    nature_facts,
    translations,
    other_languages,
    letters,
    conversions,
    verse,
    word_games,
    lists,
    adult_stories,
    advice,
)


def lines() -> Generator[Line]:
    """Every line, always the same."""
    for field, families in (("in", IN_FIELD), ("out", OUT_OF_FIELD)):
        for family in families:
            rng = random.Random(family.__name__)
            seen: set[str] = set()
            fresh = (line for line in family(rng) if _is_new(line, seen))
            for number, line in enumerate(islice(fresh, PER_FAMILY), 1):
                name = f"{field}/{family.__name__}"
                yield {"id": f"{name}/{number}", "group": name} | line


def _is_new(line: Line, seen: set[str]) -> bool:
    key = str(line.get("prompt") or line.get("messages"))
    is_new = key not in seen
    seen.add(key)
    return is_new


def main() -> None:
    PATH.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines()))


if __name__ == "__main__":
    main()
