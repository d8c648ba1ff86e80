"""Prompts of the emoji world: two objects in a relation, one object, and files in the styles of the paper's sets.

    gpt    two to five objects in blocks of Objects, Relation, Sentence
    many   the same of three to five objects
    coco   captions of one to three objects, a sentence a line: few relations, size words, backgrounds
    vsr    two objects and a relation as JSON lines, with the keys of VSR (Liu et al., 2023)

Everything is drawn from fixed seeds and always the same. The sets for choosing and for reporting share no pair of
categories: every two objects of one prompt are a pair of its set.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ldm.categories import BACKGROUNDS, NAMES
from ldm.evaluation.prompts.prompt import EvalObject, EvalPrompt, EvalRelation
from ldm.files import read_yaml, write_text
from ldm.relations import with_article
from ldm.util import UserError

SETS = {"choose": 0.4, "report": 0.6}  # share of all pairs of categories that belongs to each
FILES = {"gpt": "gpt.txt", "many": "many.txt", "coco": "coco.txt", "vsr": "vsr.jsonl"}
COUNTS = {"choose": 100, "report": 300}  # prompts a style
RULE_SPREAD = 0.92  # see rule_layout: centers of relation prompts at 0.27 and 0.73
_PAIR_SEED = 20230407  # splits the pairs; the sets must stay the same for ever
_SIZES = {"gpt": {2: 4, 3: 3, 4: 2, 5: 1}, "many": {3: 3, 4: 2, 5: 1}}  # shares by the number of objects
_COCO_SIZES = {1: 2, 2: 5, 3: 3}
T = TypeVar("T")


@cache
def _patterns() -> Any:
    return read_yaml(Path(__file__).with_name("patterns.yaml"))


def pairs_of(which: str) -> list[tuple[str, str]]:
    """The pairs of categories that belong to a set, in a fixed order. UserError if there is no such set."""
    if which not in SETS:
        raise UserError(f"There is no prompt set '{which}'; choose one of {', '.join(SETS)}.")
    pairs = list(itertools.combinations(NAMES, 2))
    random.Random(_PAIR_SEED).shuffle(pairs)
    cut = round(SETS["choose"] * len(pairs))
    return pairs[:cut] if which == "choose" else pairs[cut:]


def relation_prompts(which: str, count: int | None = None) -> list[EvalPrompt]:
    """The first ``count`` (all) of the prompts "<first> is <relation> <second>" of a set, all different.

    Raises:
        UserError: no such set, or more prompts than it has.
    """
    rng = random.Random(f"{which} prompts")
    patterns = _patterns()["relations"]
    triples = [
        (*(pair if straight else pair[::-1]), relation)
        for pair in pairs_of(which)
        for straight in (True, False)
        for relation in patterns["words"]
    ]
    count = len(triples) if count is None else count
    if not 1 <= count <= len(triples):
        raise UserError(f"The set '{which}' has {len(triples)} prompts; ask for between 1 and {len(triples)}.")
    rng.shuffle(triples)
    prompts = []
    for first, second, relation in triples[:count]:
        phrases = [f"the {name}" if rng.random() < 0.3 else with_article(name) for name in (first, second)]
        sentence = rng.choice(patterns["sentences"])
        text = sentence.format(a=phrases[0], b=phrases[1], r=rng.choice(patterns["words"][relation]))
        objects = tuple(EvalObject(*pair) for pair in zip((first, second), phrases, strict=True))
        prompts.append(EvalPrompt(_upper(text), objects, (EvalRelation(0, relation, 1),)))
    return prompts


def single_prompts(count: int) -> list[EvalPrompt]:
    """``count`` prompts of one object each, going round the categories."""
    phrases = [(name, with_article(name)) for name in itertools.islice(itertools.cycle(NAMES), count)]
    return [EvalPrompt(f"a photo of {phrase}", (EvalObject(name, phrase),)) for name, phrase in phrases]


# ------------------------------------------------------------------------------------------------- files


def table_prompts(which: str, count: int) -> list[EvalPrompt]:
    """All prompts of a set of the table, at least `count`: of two objects, or with "-many" of three to five.

    Raises:
        UserError: no such set, or more prompts asked for than it has.
    """
    base, _, many = which.partition("-")
    prompts = gpt_style(base, COUNTS.get(base, 0), "many") if many else relation_prompts(base)
    if count > len(prompts):
        raise UserError(f"The set '{which}' has {len(prompts)} prompts; ask for between 1 and {len(prompts)}.")
    return prompts


def write_sets(folder: Path) -> list[Path]:
    """Write all files; their paths."""
    paths = []
    for which in SETS:
        for style, file in FILES.items():
            path = folder / f"{which}-{file}"
            write_text(path, prompt_file(style, which))
            paths.append(path)
    return paths


def prompt_file(style: str, which: str) -> str:
    """The content of one file: `style` a key of `FILES`, `which` "choose" or "report"."""
    if style in _SIZES:
        return "\n".join(_block(item) for item in gpt_style(which, COUNTS[which], style))
    if style == "coco":
        return "".join(f"{text}\n" for text in coco_style(which, COUNTS[which]))
    return "".join(json.dumps(record) + "\n" for record in vsr_style(which, COUNTS[which]))


def _block(item: EvalPrompt) -> str:
    names = item.names
    relations = "; ".join(f"{names[r.first]} {r.relation} {names[r.second]}" for r in item.relations)
    return f"Objects: {', '.join(names)}\nRelation: {relations}\nSentence: {item.text}\n"


def gpt_style(which: str, count: int, style: str = "gpt") -> list[EvalPrompt]:
    """Sentences of two ("many": three) to five objects; of more than two not every two stand in a stated relation."""
    rng = random.Random(f"{style} {which}")
    groups = {size: _Groups(which, size, rng) for size in _SIZES[style]}
    sizes = _shares(_SIZES[style], count)
    rng.shuffle(sizes)
    return _different(lambda index: _gpt(next(groups[sizes[index]]), rng), count)


def _gpt(names: Sequence[str], rng: random.Random) -> EvalPrompt:
    """Two objects: one clause. Three: a chain or a fork. Four and five: two clauses, and a fifth object alone."""
    patterns = _patterns()["gpt"]
    long: dict[str, str] = patterns["long"]
    words, things = [rng.choice(list(long)) for _ in range(2)], [with_article(name) for name in names]

    def clause(i: int, word: str) -> str:
        return f"{things[i]} is {long[word]} {things[i + 1]}"

    relations = [EvalRelation(0, words[0], 1), EvalRelation(2, words[1], 3)]
    if len(names) == 2:
        text = rng.choice(patterns["pairs"]).format(*things, r=long[words[0]])
        del relations[1]
    elif len(names) == 3:
        anchor = rng.choice((0, 1))
        relations[1] = EvalRelation(2, words[1], anchor)
        text = f"{clause(0, words[0])}, and {things[2]} is {long[words[1]]} the {names[anchor]}."
    elif len(names) == 4:
        text = f"{clause(0, words[0])}, and {clause(2, words[1])}."
    else:  # shorter words: the embedded text encoder reads 30 of them
        said = [f"{things[i]} {word} {things[i + 1]}" for i, word in zip((0, 2), words, strict=True)]
        text = f"{', '.join(said)}, and {things[4]}."
    return EvalPrompt(_upper(text), tuple(map(EvalObject, names, things)), tuple(relations))


def coco_style(which: str, count: int) -> list[str]:
    """Captions: a fifth of one object, half of two, the rest of three; some with a size, a place or a background."""
    rng = random.Random(f"coco {which}")
    groups = {size: _Groups(which, size, rng) for size in (2, 3)}
    singles = itertools.cycle(rng.sample(NAMES, len(NAMES)))
    sizes = _shares(_COCO_SIZES, count)
    rng.shuffle(sizes)
    return _different(
        lambda index: _caption((next(singles),) if sizes[index] == 1 else next(groups[sizes[index]]), rng), count
    )


def _caption(names: Sequence[str], rng: random.Random) -> str:
    patterns = _patterns()["coco"]
    # Last, since the noun finder may take "teddy bear next to" for two things.
    names = sorted(names, key=lambda name: name == "teddy bear")
    phrases = [
        with_article(f"{rng.choice(patterns['sizes'])} {name}" if rng.random() < 0.15 else name) for name in names
    ]
    text = rng.choice(patterns[len(names)]).format(*phrases)
    kind = rng.random()
    if kind < 0.3:
        text += f" on a {rng.choice(list(BACKGROUNDS))} background"
    elif kind < 0.5:
        text += f" {rng.choice(patterns['places'])}"
    return _upper(text) + "."


def vsr_style(which: str, count: int) -> list[dict[str, object]]:
    """Records with caption, relation, subj, obj and label (always 1: the caption is what the image should show)."""
    rng = random.Random(f"vsr {which}")
    groups, patterns = _Groups(which, 2, rng), _patterns()["vsr"]
    judged = list(patterns["words"].values())

    def record(index: int) -> dict[str, object]:
        first, second = next(groups)
        words = rng.choice(patterns["near"] if index % 8 == 7 else judged[index % 4])
        caption = f"The {first} is {words} the {second}."
        return {"caption": caption, "relation": words, "subj": first, "obj": second, "label": 1}

    return _different(record, count)


class _Groups(Iterator[tuple[str, ...]]):
    """Groups of `size` categories every two of which are a pair of the set, in random order, again and again."""

    def __init__(self, which: str, size: int, rng: random.Random) -> None:
        pairs = {frozenset(pair) for pair in pairs_of(which)}
        self.all: list[tuple[str, ...]] = [(name,) for name in NAMES]
        for _ in range(size - 1):
            self.all = [
                (*group, name)
                for group in self.all
                for name in NAMES[NAMES.index(group[-1]) + 1 :]
                if all(frozenset((other, name)) in pairs for other in group)
            ]
        self.rng, self.left = rng, list[tuple[str, ...]]()

    def __next__(self) -> tuple[str, ...]:
        if not self.left:
            self.left = self.rng.sample(self.all, len(self.all))
        group = self.left.pop()
        return tuple(self.rng.sample(group, len(group)))


def _shares(weights: dict[int, int], count: int) -> list[int]:
    """`count` keys in the proportion of their weights, the most frequent filling up."""
    total = sum(weights.values())
    keys = [key for key, weight in weights.items() for _ in range(count * weight // total)]
    return keys + [max(weights, key=lambda key: weights[key])] * (count - len(keys))


def _different(draw: Callable[[int], T], count: int) -> list[T]:
    """`count` different results of draw(index)."""
    found: list[T] = []
    for index in range(count):
        item = draw(index)
        while item in found:
            item = draw(index)
        found.append(item)
    return found


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
