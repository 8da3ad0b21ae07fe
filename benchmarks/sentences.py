"""The text that the demo embeds: forty sentences in eight topics, and queries whose best answer is known.

Only data. Every query paraphrases one topic without repeating its key words, so that finding the topic takes a trained
model and not shared vocabulary.
"""

from __future__ import annotations

TOPICS: dict[str, tuple[str, ...]] = {
    "cooking": (
        "Let the dough rest under a damp towel until it has doubled in size.",
        "Fry the onions slowly in butter; they should turn soft and golden, not brown.",
        "A pinch of salt in the caramel keeps it from tasting flat.",
        "She simmered the tomatoes with basil for an hour before blending the soup.",
        "Freshly ground pepper loses its aroma within minutes of meeting hot oil.",
    ),
    "astronomy": (
        "The probe sent back its last photograph of Saturn's rings before burning up in the clouds.",
        "A star much heavier than the Sun ends its life in a supernova.",
        "Light from the Andromeda galaxy has travelled for two and a half million years.",
        "The telescope's mirror unfolded in orbit and cooled to a few degrees above absolute zero.",
        "Tides are pulled up by the Moon and, to a lesser degree, by the Sun.",
    ),
    "animals": (
        "The old tabby slept all afternoon on the warm stones by the well.",
        "A pair of storks has returned to the same chimney for nine summers.",
        "Octopuses open jars and remember the faces of the people who feed them.",
        "The shepherd whistled once and both collies dropped flat in the grass.",
        "Bees tell the hive where the flowers are by dancing.",
    ),
    "sport": (
        "The goalkeeper tipped the penalty over the bar in the final minute.",
        "She broke away on the last climb and won the stage by forty seconds.",
        "Rain stopped play with the visitors needing twelve runs from two overs.",
        "The relay team dropped the baton but still reached the final.",
        "After five sets and four hours, both tennis players could barely stand.",
    ),
    "music": (
        "The cellist tuned quietly while the conductor spoke with the oboes.",
        "He wrote the song on a borrowed guitar with a broken string.",
        "The choir's last chord hung in the cathedral for several seconds.",
        "Her new album mixes West African drumming with slow electronic bass.",
        "The pianist repeated the second movement as an encore.",
    ),
    "medicine": (
        "The vaccine is given in two doses, four weeks apart.",
        "High blood pressure often goes unnoticed until it damages the kidneys.",
        "The surgeon replaced the worn hip joint through a small incision.",
        "Antibiotics do nothing against a cold, which is caused by a virus.",
        "The nurse changed the dressing and checked the wound for infection.",
    ),
    "weather": (
        "Thick fog kept the ferries in the harbour until noon.",
        "The forecast warns of gusts above a hundred kilometres an hour along the coast.",
        "Overnight frost ruined most of the early cherry blossom.",
        "After three dry months the river had shrunk to a chain of pools.",
        "Hail the size of walnuts dented every car in the street.",
    ),
    "money": (
        "The central bank raised its interest rate by a quarter of a point.",
        "Her pension fund moved a third of its shares into government bonds.",
        "The start-up ran out of cash two weeks before the investors signed.",
        "Rents in the city have risen faster than wages for ten years in a row.",
        "He paid off the mortgage early and saved thousands in interest.",
    ),
}

QUERIES: tuple[tuple[str, str], ...] = (
    ("How do I stop bread from turning out dense?", "cooking"),
    ("What happens when a massive sun dies?", "astronomy"),
    ("dogs that herd sheep", "animals"),
    ("a cyclist winning in the mountains", "sport"),
    ("Why will penicillin not cure my flu?", "medicine"),
    ("storm winds expected by the sea", "weather"),
    ("borrowing costs are going up", "money"),
)


def corpus() -> list[str]:
    """All sentences, topic after topic."""
    return [sentence for group in TOPICS.values() for sentence in group]


def topic_of(index: int) -> str:
    """Topic of the sentence at this index of `corpus()`."""
    names = [name for name, group in TOPICS.items() for _ in group]
    return names[index]
