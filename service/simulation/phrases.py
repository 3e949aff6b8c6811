"""The vocabulary of simulated conversations."""

from __future__ import annotations

from typing import NamedTuple


class Persona(NamedTuple):
    """An application of the model: its role, and the subjects of its users' questions."""

    role: str
    items: tuple[str, ...]
    places: tuple[str, ...]
    events: tuple[str, ...]


PERSONAS = (
    Persona(
        "You answer questions for the harbour office of a small port in the north.",
        ("the ferry to the outer islands", "a berth for two nights", "the fuel pump", "the pilot boat", "a crane"),
        ("the east quay", "the fishing harbour", "pier four", "the customs shed", "the old lighthouse"),
        ("the tide turned early", "fog came in before noon", "the anchor chain had to be changed"),
    ),
    Persona(
        "You help the customers of a shop that repairs bicycles and lends them out by the day.",
        ("a touring bicycle", "the rear brake", "a chain of eleven speeds", "a child seat", "the gear cable"),
        ("the workshop", "the shop by the station", "the rental stand in the park", "the bicycle cellar"),
        ("the tyre lost air overnight", "the chain slipped on the hill", "it rained on the whole way"),
    ),
    Persona(
        "You assist the readers of a public library with its catalogue, its rules and its rooms.",
        ("an interlibrary loan", "the atlas of rivers", "a reading room", "a lost card", "the newspaper archive"),
        ("the main branch", "the reading hall", "the children's wing", "the map room", "the return desk"),
        ("the book was due on Tuesday", "the shelf was empty", "the copier ate two pages"),
    ),
    Persona(
        "You explain to farmers what the weather service measures and what it expects.",
        ("the frost warning", "last week's rainfall", "the soil temperature", "wind over the orchard", "hail"),
        ("the lower valley", "the station on the ridge", "the western fields", "the river meadow"),
        ("the blossoms opened a week early", "the gauge was blocked by leaves", "the night was clear"),
    ),
    Persona(
        "You support the engineers who run a storage cluster, and you keep your answers short.",
        ("a full disk", "the nightly backup", "a slow query", "the new certificate", "a lost replica"),
        ("the second rack", "the staging cluster", "node seventeen", "the archive tier"),
        ("the alarm went off at three", "a cable was pulled by mistake", "the queue grew all evening"),
    ),
)

RULES = (
    "Say first what the answer is, and only then why.",
    "If you are not certain, say so, and say who would know.",
    "Never promise a date that is not in the records below.",
    "Give prices with tax, and name the currency.",
    "Ask for at most one further detail at a time.",
    "Do not repeat the question before you answer it.",
    "Use the units that people here use: metres, litres, degrees Celsius.",
    "When somebody is upset, answer the matter and not the tone.",
    "Write whole sentences, but no more than five of them.",
    "A list is for steps that must be done in order, and for nothing else.",
    "Times are local times, written with twenty-four hours.",
    "What was said earlier in this conversation holds until it is corrected.",
)

RECORDS = (
    "Record {number}: {item} was checked at {place} on day {day} and found in order.",
    "Record {number}: {place} is closed from {hour} o'clock whenever {event}.",
    "Record {number}: whoever asks for {item} is sent to {place} first.",
    "Record {number}: on day {day}, {event}; it took {hour} hours to put things right.",
)

GREETINGS = (
    "Good morning. I was told at {place} that you know about {item}. Can I have it on day {day}?",
    "Hello! I am on my way to {place} and {event}. Is there still a chance to get {item} on day {day}?",
    "Good evening, I have a question about {item}: who decides at {place} whether I get it before {hour} o'clock?",
)

QUESTIONS = (
    "Then something else: {event}. What does that mean for {item}?",
    "Thank you. And how long would it take if I came to {place} at {hour} o'clock instead?",
    "My colleague says that {item} cannot be had at {place}. Is that so, and since when?",
    "Sorry to ask again. You said something about {place}; does it hold for {item}, too?",
    "One more thing before I go. If {event} once more, whom do I call after {hour} o'clock?",
    "I have read record {number}. Does it still hold, now that {event}?",
)

ANSWERS = (
    "Yes, on day {day}, if you are at {place} before {hour} o'clock.",
    "No, since {event}, and it will be some days until {item} is there again.",
    "That depends on {place}: they keep {item} until {hour} o'clock and give it away then.",
    "Record {number} says so, and nobody has changed it since.",
    "If {event} again, wait for about {hour} hours and then ask at {place}.",
    "For {item} you need nothing but your name and the number {number}.",
    "Please do not come before {hour} o'clock, because {place} is not staffed until then.",
    "I have noted it for day {day}, and you will hear from {place}.",
    "It is not certain; the people at {place} would know, and they answer until {hour} o'clock.",
)
