"""How relations are said: prepositions with and without their object, verbs, participles."""

from __future__ import annotations

import random

from layout_predictor.LayoutTransformer.data.wordlists import phrases

LEFT, RIGHT, ABOVE, BELOW = "left of", "right of", "above", "below"
RELATION_NAMES = (ABOVE, BELOW, LEFT, RIGHT)
OPPOSITE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE}
HORIZONTAL = (LEFT, RIGHT)

# Before a noun phrase; {s} is "left" or "right". The first of each list is the commonest by far.
_SIDE_FULL = (
    ["to the {s} of"] * 12
    + ["on the {s} of", "on the {s} side of", "to the {s} side of", "{s} of", "at the {s} of", "just {s} of"]
    + ["directly to the {s} of", "immediately to the {s} of", "off to the {s} of", "slightly to the {s} of"]
    + ["just to the {s} of", "on the {s}-hand side of", "to the immediate {s} of", "a little to the {s} of"]
    + ["to the far {s} of", "further to the {s} than", "close by to the {s} of", "right to the {s} of"]
    + ["on the {s}-hand side of", "over to the {s} of", "a few feet to the {s} of", "far to the {s} of"]
    + ["just off to the {s} of", "closely to the {s} of", "along the {s} side of", "in the space to the {s} of"]
)
_ABOVE_FULL = (
    ["above"] * 8
    + ["on top of"] * 5
    + [
        "over",
        "over",
        "atop",
        "atop",
        "on",
        "upon",
        "directly above",
        "right above",
        "just above",
        "high above",
    ]
    + [
        "up above",
        "slightly above",
        "on the top of",
        "directly over",
        "right on top of",
        "higher than",
        "directly on",
    ]
    + [
        "way above",
        "at the top of",
        "somewhere above",
        "right over",
        "up on",
        "immediately above",
        "directly atop",
        "resting upon",
        "on the surface of",
        "hovering over",
        "perched on",
    ]
)
_BELOW_FULL = (
    ["below"] * 7
    + ["beneath"] * 5
    + ["under"] * 3
    + [
        "underneath",
        "underneath",
        "directly below",
        "right below",
        "just below",
        "directly beneath",
        "right beneath",
    ]
    + ["directly under", "just under", "right under", "directly underneath", "just beneath", "slightly below"]
    + ["down below", "lower than", "at the bottom of", "at the foot of", "far below", "right underneath"]
    + ["immediately below", "somewhere below", "down under", "at the base of", "hidden under", "hanging from"]
    + ["at the feet of", "a little below", "deep below"]
)
_ABOUT_SIDE = (
    ["to {its} {s}"] * 8
    + ["on {its} {s}"] * 3
    + ["to the {s} of {it}"] * 3
    + [
        "on {its} {s} side",
        "to {its} immediate {s}",
        "on the {s} of {it}",
        "at {its} {s}",
        "beside {it} to {its} {s}",
        "next to {it} on the {s}",
        "on {its} {s}-hand side",
        "directly to {its} {s}",
    ]
    + ["{s} of {it}"] * 2
    + ["just to {its} {s}", "off to {its} {s}", "to {its} {s} side", "immediately to {its} {s}"]
)
_BARE_SIDE = [
    "to the {s}",
    "on the {s}",
    "on the {s} side",
    "to the {s} side",
    "off to the {s}",
    "at the {s}",
    "further to the {s}",
    "on the {s}-hand side",
    "over to the {s}",
    "on the far {s}",
]
_BARE = {
    ABOVE: phrases(
        "above; on top; overhead; directly above; up above; just above; at the top; higher up; in the sky above; "
        "right above; from above"
    ),
    BELOW: phrases(
        "below; underneath; beneath; directly below; down below; just below; at the bottom; further down; on the "
        "ground below; right underneath"
    ),
}
_ALONE_SIDE = phrases(
    "on the {s}; to the {s}; on the {s} side; at the {s}; on the far {s}; on the {s}-hand side; in the {s} half; "
    "towards the {s}"
)
_ALONE = {
    LEFT: [text.format(s="left") for text in _ALONE_SIDE],
    RIGHT: [text.format(s="right") for text in _ALONE_SIDE],
    ABOVE: phrases("at the top; on top; on the top; in the upper part; up high; in the upper half; near the top"),
    BELOW: phrases("at the bottom; on the bottom; in the lower part; down low; in the lower half; near the bottom"),
}
PICTURE = [
    "",
    "",
    "",
    "of the picture",
    "of the image",
    "of the photo",
    "of the frame",
    "of the scene",
    "of the room",
]

PARTICIPLES = (
    ["placed", "situated", "positioned", "located"] * 4
    + [
        "standing",
        "sitting",
        "resting",
        "seated",
        "perched",
        "parked",
        "lying",
        "set",
        "hanging",
        "mounted",
        "found",
    ]
    + [
        "laid",
        "stacked",
        "propped up",
        "propped",
        "suspended",
        "hovering",
        "floating",
        "tucked",
        "hidden",
        "arranged",
    ]
    + [
        "balanced",
        "leaning",
        "nestled",
        "stationed",
        "kept",
        "stored",
        "displayed",
        "flying",
        "soaring",
        "grazing",
    ]
    + [
        "sleeping",
        "waiting",
        "walking",
        "running",
        "parking",
        "left",
        "hung",
        "seen",
        "visible",
        "put",
        "stored",
    ]
    + [
        "dangling",
        "slung",
        "held",
        "growing",
        "swimming",
        "moored",
        "installed",
        "centered",
        "being",
        "moving",
    ]
    + ["carefully placed", "neatly placed", "also placed", "now sitting", "precariously balanced", "attached"]
)
# Present singular, present plural, past.
FINITE = [
    ("sits", "sit", "sat"), ("stands", "stand", "stood"), ("lies", "lie", "lay"), ("rests", "rest", "rested"),
    ("hangs", "hang", "hung"), ("hovers", "hover", "hovered"), ("floats", "float", "floated"),
    ("waits", "wait", "waited"), ("sleeps", "sleep", "slept"), ("leans", "lean", "leaned"),
    ("appears", "appear", "appeared"), ("stays", "stay", "stayed"), ("remains", "remain", "remained"),
    ("perches", "perch", "perched"), ("flies", "fly", "flew"), ("soars", "soar", "soared"),
    ("walks", "walk", "walked"), ("runs", "run", "ran"), ("parks", "park", "parked"),
    ("grazes", "graze", "grazed"),
    ("moves", "move", "moved"), ("dangles", "dangle", "dangled"), ("plays", "play", "played"),
    ("is", "are", "was"), ("can be found", "can be found", "could be found"), ("goes", "go", "went"),
    ("can be seen", "can be seen", "could be seen"), ("slouches", "slouch", "slouched"),
]  # fmt: skip
# Verbs that say the relation by themselves; the same three forms.
RELATING: dict[str, list[tuple[str, str, str]]] = {
    ABOVE: [
        ("towers over", "tower over", "towered over"), ("looms over", "loom over", "loomed over"),
        ("flies over", "fly over", "flew over"), ("overlooks", "overlook", "overlooked"),
        ("jumps over", "jump over", "jumped over"), ("tops", "top", "topped"),
        ("covers", "cover", "covered"), ("is draped over", "are draped over", "was draped over"),
        ("is stacked atop", "are stacked atop", "was stacked atop"),
        ("is supported by", "are supported by", "was supported by"),
        ("leaps over", "leap over", "leapt over"),
        ("is stacked on", "are stacked on", "was stacked on"), ("stands on", "stand on", "stood on"),
        ("rides on", "ride on", "rode on"), ("looks down on", "look down on", "looked down on"),
        ("crosses over", "cross over", "crossed over"), ("lands on", "land on", "landed on"),
    ],
    BELOW: [
        ("supports", "support", "supported"),
        ("is covered by", "are covered by", "was covered by"), ("holds up", "hold up", "held up"),
        ("hangs down from", "hang down from", "hung down from"),
        ("dangles from", "dangle from", "dangled from"),
        ("crawls under", "crawl under", "crawled under"), ("hides under", "hide under", "hid under"),
        ("crouches beneath", "crouch beneath", "crouched beneath"),
        ("is topped by", "are topped by", "was topped by"),
        ("is crowned by", "are crowned by", "was crowned by"), ("looks up at", "look up at", "looked up at"),
        ("shelters under", "shelter under", "sheltered under"),
        ("passes under", "pass under", "passed under"),
    ],
}  # fmt: skip


def side_word(relation: str) -> str:
    """ "left" or "right"."""
    return "left" if relation == LEFT else "right"


def full(rng: random.Random, relation: str) -> str:
    """A preposition that wants a noun phrase after it."""
    if relation in HORIZONTAL:
        return rng.choice(_SIDE_FULL).format(s=side_word(relation))
    return rng.choice(_ABOVE_FULL if relation == ABOVE else _BELOW_FULL)


def about(rng: random.Random, relation: str, it: str, its: str) -> str:
    """The relation to a pronoun: "to its left", "beneath them"."""
    if relation in HORIZONTAL:
        return rng.choice(_ABOUT_SIDE).format(s=side_word(relation), it=it, its=its)
    return f"{full(rng, relation)} {it}"


def bare(rng: random.Random, relation: str) -> str:
    """The relation with its object left unsaid: "to the right", "underneath"."""
    if relation in HORIZONTAL:
        return rng.choice(_BARE_SIDE).format(s=side_word(relation))
    return rng.choice(_BARE[relation])


_FURTHER = {
    LEFT: ["further to the left", "even further to the left", "further left", "to the far left"],
    RIGHT: ["further to the right", "even further to the right", "further right", "to the far right"],
    ABOVE: ["further up", "even higher", "higher still", "even further up", "above that"],
    BELOW: ["further down", "even lower", "lower still", "even further down", "below that"],
}


def further(rng: random.Random, relation: str) -> str:
    """Beyond what was named last: "even further to the left"."""
    return rng.choice(_FURTHER[relation])


def alone(rng: random.Random, relation: str) -> str:
    """A place in the picture: "on the left side", "at the top"."""
    return rng.choice(_ALONE[relation])
