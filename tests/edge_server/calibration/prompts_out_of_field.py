"""Prompts out of the field of a storyteller for children, by family."""

from __future__ import annotations

import random
from collections.abc import Generator

from tests.edge_server.calibration.prompt_lines import (
    CAPITALS,
    NAMES,
    SUBJECTS,
    Line,
    one_word,
    question,
    story,
)


def capitals(rng: random.Random) -> Generator[Line]:
    for country, city in CAPITALS.items():
        yield question(f"What is the capital of {country}?", city)


def products(rng: random.Random) -> Generator[Line]:
    while True:
        a, b = rng.randint(12, 97), rng.randint(3, 48)
        yield one_word(
            rng.choice(("What is {} times {}?", "Calculate {} * {}.")).format(a, b), str(a * b)
        )


def word_problems(rng: random.Random) -> Generator[Line]:
    while True:
        a, b, c = rng.randint(11, 40), rng.randint(2, 9), rng.randint(3, 9)
        yield one_word(
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
        yield question(f"Write a Python function that {task}.", regex=r"def \w+\(", ends=True)
        yield question(f"Write a JavaScript function which {task}.", "function", "=>", ends=True)


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
        yield question(prompt, regex=found)


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
        yield question(prompt, contains=words, min_words=15)


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
        yield question(prompt, answer)


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
        yield one_word(prompt, *answers)


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
        yield question(f'Translate "{english}" into {language}.', *words)


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
        yield question(prompt, *words)


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
        yield question(f"Write a polite email to {whom} about {what}.", contains=["dear", key],
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
        yield question(prompt, str(value), f"{value:,}")


def verse(rng: random.Random) -> Generator[Line]:
    for thing in SUBJECTS:
        key = thing.split()[-1]
        form = "haiku" if len(thing) % 2 else "poem of four lines"
        # Lines without paragraphs, or else it is prose.
        regex = r"[^\n]\n[^\n]+\n[^\n]"
        yield question(f"Write a {form} about {thing}.", contains=key, regex=regex, max_words=60)


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
        yield question(f"Spell the word {word} backwards.", word[::-1], "-".join(word[::-1]))
        yield one_word(f"How many letters does the word {word} have?", str(len(word)), "six")


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
        yield question(prompt, *any_of)


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
        yield story(f"Write a story about {what}.", *words)


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
        yield question(prompt, *words, min_words=8)


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
