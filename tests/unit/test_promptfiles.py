"""Prompts: files in the published formats and in others, those of the emoji world, and layouts that obey them."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from ldm.categories import BACKGROUNDS, NAMES
from ldm.evaluation.prompts.emoji import (
    COUNTS,
    FILES,
    RULE_SPREAD,
    SETS,
    gpt_style,
    pairs_of,
    prompt_file,
    relation_prompts,
    single_prompts,
    table_prompts,
    write_sets,
)
from ldm.evaluation.prompts.files import from_sentence, parse_object, read_prompt_file
from ldm.evaluation.prompts.prompt import (
    EvalObject,
    EvalPrompt,
    EvalRelation,
    from_json,
    prompts_hash,
    rule_layout,
    swapped,
)
from ldm.evaluation.prompts.words import relation_of, stated_relations
from ldm.evaluation.score.background import background_color
from ldm.generation.pipeline import choose_model, load_pipeline
from ldm.modules.encoders.tokenizer import WordTokenizer, split_words
from ldm.paths import EMOJI_CONFIG, ROOT, project_file
from ldm.relations import RELATIONS, satisfied
from ldm.util import UserError


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_blocks(tmp_path: Path) -> None:
    text = """
1.
Objects: cat, red car and dog
Relation: cat left of car; dog above car
Sentence: A cat left of a red car, with a dog above it.

Objects: man, horse
Relation: riding
Sentence: A man riding a horse.
Objects: bus, bird
Relation: under
Sentence: A bus under a bird.
"""
    first, second, third = read_prompt_file(written(tmp_path / "gpt.txt", text))
    assert first.text == "A cat left of a red car, with a dog above it."
    assert first.names == ["cat", "car", "dog"] and first.objects[1].color == "red"
    assert first.relations == (EvalRelation(0, "left of", 1), EvalRelation(2, "above", 1))
    assert second.names == ["man", "horse"] and second.relations == () and second.unjudged == ("riding",)
    assert third.relations == (EvalRelation(0, "below", 1),)
    assert from_json(json.loads(json.dumps(first.to_json()))) == first
    assert prompts_hash([first]) != prompts_hash([second])


def test_sentences(tmp_path: Path) -> None:
    text = "A cat is to the left of a dog.\n\nTo the right of the bus is a car.\nA person on a bench\n"
    first, second, third = read_prompt_file(written(tmp_path / "coco.txt", text))
    assert first.names == ["cat", "dog"] and first.relations == (EvalRelation(0, "left of", 1),)
    assert second.names == ["bus", "car"] and second.relations == (EvalRelation(1, "right of", 0),)
    assert third.names == ["person", "bench"] and third.relations == ()


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": "A red bus above two cars.",
            "objects": ["red bus", {"name": "car", "count": 2}],
            "relations": [["red bus", "above", "car"]],
        },
        {
            "caption": "The cat is on the left side of the sofa.",
            "relation": "at the left side of",
            "subj": "cat",
            "obj": "sofa",
            "label": 1,
        },
        {"sentence": "A dog below a kite"},
    ]
    path = written(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines)))
    bus, vsr, dog = read_prompt_file(path)
    assert bus.objects == (EvalObject("bus", "a red bus", 1, "red"), EvalObject("car", "a car", 2))
    assert bus.relations == (EvalRelation(0, "above", 1),)
    assert vsr.names == ["cat", "sofa"] and vsr.relations == (EvalRelation(0, "left of", 1),)
    assert dog.relations == (EvalRelation(0, "below", 1),)
    assert read_prompt_file(written(tmp_path / "p.json", json.dumps(lines))) == [bus, vsr, dog]


def test_pickles(tmp_path: Path) -> None:
    words = ["A ", "cat ", "is ", "left ", "of ", "a ", "dog", "."]
    records = [
        ["A cat is left of a dog.", words, [1, 6], [[1, 6, "left"]], ["A cat", "a dog"]],
        "A cat above a dog",
        {"sentence": "A dog", "objects": ["dog"]},
    ]
    path = tmp_path / "vsr.pkl"
    path.write_bytes(pickle.dumps(records))
    published, plain, mapping = read_prompt_file(path)
    assert published.names == ["cat", "dog"] and published.relations == (EvalRelation(0, "left of", 1),)
    assert plain.relations == (EvalRelation(0, "above", 1),) and mapping.names == ["dog"]
    path.write_bytes(pickle.dumps({7: "A cat above a dog"}))
    assert read_prompt_file(path) == [plain]
    path.write_bytes(pickle.dumps([Path("run me")]))
    with pytest.raises(UserError, match="could run code"):
        read_prompt_file(path)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("to the left of", "left of"),
        ("on the right side of", "right of"),
        ("is over", "above"),
        ("beneath", "below"),
        ("underneath", "below"),
        ("on top of", "above"),
        ("right of", "right of"),
        ("left", "left of"),
        ("next to", None),
        ("rightly", None),
        ("overtaking", None),
    ],
)
def test_words_of_relations(words: str, meaning: str | None) -> None:
    assert relation_of(words) == meaning


def test_relations_are_read_between_neighbors() -> None:
    text = "a cat above a dog and a bus left of it"
    #       0123456789012345678901234567890123456
    cat, dog, bus, it = (2, 5), (14, 17), (24, 27), (36, 38)
    assert stated_relations(text, [[cat], [dog, it], [bus]]) == [(0, "above", 1), (2, "left of", 1)]
    assert stated_relations("above all", [[(0, 5)]]) == []


def test_objects_in_words() -> None:
    assert parse_object("two dogs", "") == EvalObject("dog", "two dogs", 2)
    assert parse_object("three buses", "").name == "bus" and parse_object("four glasses", "").count == 4
    assert parse_object("The blue teddy bear", "") == EvalObject("teddy bear", "The blue teddy bear", 1, "blue")
    assert parse_object("orange", "") == EvalObject("orange", "an orange")


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("a.txt", 'A cat\n{"prompt": 1}\n', "line 2.*looks like JSON"),
        ("a.txt", "A cat\nObjects: cat\n", "line 2.*file of blocks"),
        ("a.txt", "A cat\n\n123\n", "line 3.*no sentence"),
        ("a.txt", "\n\n", "holds no prompt"),
        ("a.txt", "Objects: cat\nRelation: left\n\nSentence: A cat\n", "line 1.*no 'Sentence"),
        ("a.txt", "Objects: cat\nSentence: A cat\nAnswer: yes\n", "line 3.*'Answer: yes'"),
        ("a.txt", "Objects: cat\nRelation: left of\nSentence: A cat left\n", "line 1.*two objects"),
        ("a.jsonl", '{"prompt": "A cat"}\n{"prompt"', "line 2.*not valid JSON"),
        ("a.jsonl", '["\\ud800"]', "half a character"),
        ("a.jsonl", '{"prompt": "A cat"}\n{"title": "A cat"}', "line 2.*no 'prompt'"),
        ("a.jsonl", '{"prompt": "A cat", "objects": "cat"}', "line 1.*must be lists"),
        ("a.jsonl", '{"prompt": "A", "objects": ["cat"], "relations": [["cat", "left", "cow"]]}', "line 1.*'cow'"),
        ("a.jsonl", '{"prompt": "A", "objects": [{"name": "cat", "count": 0}]}', "line 1.*count of 'cat'"),
        ("a.jsonl", '{"prompt": "A", "objects": [{"name": "cat", "color": "pale"}]}', "line 1.*'pale'"),
        ("a.jsonl", "3\n", "line 1 is a int"),
        ("a.json", "[1,\n", "not valid JSON"),
        ("a.csv", "id,caption\n", r"not read from \*.csv"),
        ("a.txt", 'id,caption\n1,"A cat"\n', "line 2.*looks like a table"),
        ("a.txt", "A cat\nA\tcat\n", "line 2.*looks like a table"),
        ("a.txt", "<html>\nA cat\n", "line 1.*looks like markup"),
    ],
)
def test_other_formats_name_the_line(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as raised:
        read_prompt_file(written(tmp_path / file, text))
    assert "\n" not in str(raised.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"A cat\n\x80\x04\xff")
    with pytest.raises(UserError, match="line 2.*not UTF-8"):
        read_prompt_file(tmp_path / "a.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompt_file(tmp_path / "nowhere.txt")
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04]")
    with pytest.raises(UserError, match="truncated or damaged"):
        read_prompt_file(tmp_path / "a.pkl")


# ------------------------------------------------------------------------------------------------- layouts


def prompt(*relations: tuple[int, str, int], objects: tuple[str, ...] = ("cat", "dog")) -> EvalPrompt:
    return EvalPrompt("p", tuple(parse_object(o, "") for o in objects), tuple(EvalRelation(*r) for r in relations))


THREE = ("cat", "dog", "cow")


@pytest.mark.parametrize(
    ("objects", "relations", "centers"),
    [
        (THREE[:2], [(0, "left of", 1)], [(0.25, 0.5), (0.75, 0.5)]),
        (THREE[:2], [(0, "below", 1)], [(0.5, 0.75), (0.5, 0.25)]),
        (THREE[:2], [], [(0.25, 0.5), (0.75, 0.5)]),
        (THREE, [(0, "right of", 1), (1, "right of", 2)], [(0.8333, 0.5), (0.5, 0.5), (0.1667, 0.5)]),
        # The cat left of the dog, the cow above the dog: two columns, two rows.
        (THREE, [(0, "left of", 1), (2, "above", 1)], [(0.125, 0.25), (0.75, 0.75), (0.375, 0.25)]),
        ((), [], []),
    ],
)
def test_layouts_by_rule(objects: tuple[str, ...], relations: list[tuple[int, str, int]], centers: object) -> None:
    assert [(o.x, o.y) for o in rule_layout(prompt(*relations, objects=objects)).objects] == centers


def test_layouts_that_are_narrower_contradict_or_change_places() -> None:
    layout = rule_layout(prompt((0, "above", 1)), RULE_SPREAD)
    assert [(o.x, o.y) for o in layout.objects] == [(0.5, 0.27), (0.5, 0.73)]
    with pytest.raises(UserError, match="contradict"):
        rule_layout(prompt((0, "left of", 1), (0, "right of", 1)))
    turned = swapped(layout)
    assert [(o.phrase, o.y) for o in turned.objects] == [("a cat", 0.73), ("a dog", 0.27)]
    assert swapped(turned) == layout
    single = rule_layout(prompt(objects=("cat",)))
    assert swapped(single) == single


# --------------------------------------------------------------------------------------- the emoji world


def test_relation_prompts_are_fixed_and_share_no_pair() -> None:
    choose, report = relation_prompts("choose", 240), relation_prompts("report", 400)
    pairs = [{frozenset(prompt.names) for prompt in prompts} for prompts in (choose, report)]
    assert not pairs[0] & pairs[1]
    assert len({(*p.names, p.relations) for p in report}) == 400
    assert relation_prompts("report", 10) == report[:10]
    assert report[0].text == "A photo of an airplane on the left of the carrot"
    assert {p.relations[0].relation for p in report} == set(RELATIONS)
    for prompt in report:
        assert all(item.phrase in prompt.text.lower() for item in prompt.objects)
        assert not WordTokenizer().unknown_words(prompt.text)
        a, b = ((o.x, o.y) for o in rule_layout(prompt).objects)
        assert satisfied(prompt.relations[0].relation, a, b)
    singles = [p.names for p in single_prompts(72)]
    assert singles[:36] == singles[36:] == [[name] for name in NAMES]
    with pytest.raises(UserError, match="no prompt set"):
        relation_prompts("none", 3)
    with pytest.raises(UserError, match="has 2016 prompts"):
        relation_prompts("choose", 5000)
    assert len(table_prompts("choose-many", 100)) == 100 and len(table_prompts("report", 1)) > 400
    with pytest.raises(UserError, match="has 300 prompts"):
        table_prompts("report-many", 301)


def test_hashes_of_the_prompts_are_those_of_the_results() -> None:
    """Results of other prompts are refused: a change of the prompts or of their fields would make them void."""
    for name, prompts in [
        ("table-report", relation_prompts("report")),
        ("table-report-many", table_prompts("report-many", 1)),
        *((f"evidence-{style}", read_prompt_file(PROMPTS / f"report-{file}")) for style, file in FILES.items()),
    ]:
        with (ROOT / "docs" / "results" / f"{name}.jsonl").open() as lines:
            assert json.loads(next(lines))["settings"]["prompts_sha256"] == prompts_hash(prompts), name


PROMPTS = ROOT / "data" / "prompts"


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("style", FILES)
def test_prompt_files_are_those_of_the_command(which: str, style: str) -> None:
    path = PROMPTS / f"{which}-{FILES[style]}"
    assert path.read_text(encoding="utf-8") == prompt_file(style, which)
    prompts = read_prompt_file(path)
    assert len({prompt.text for prompt in prompts}) == len(prompts) == COUNTS[which]
    pairs = {frozenset(pair) for pair in pairs_of(which)}
    words = WordTokenizer()
    for prompt in prompts:
        assert prompt.names and set(prompt.names) <= set(NAMES), prompt.text
        assert all(frozenset(pair) in pairs for pair in itertools.combinations(prompt.names, 2)), prompt.text
        assert not words.unknown_words(prompt.text) and len(split_words(prompt.text)) <= words.context_length - 2
        assert rule_layout(prompt).objects  # the relations agree with each other


def test_the_sets_are_large_enough_and_varied(tmp_path: Path) -> None:
    report = {style: read_prompt_file(PROMPTS / f"report-{file}") for style, file in FILES.items()}
    assert sum(map(len, report.values())) >= 500
    assert {len(prompt.objects) for prompt in report["gpt"]} == {2, 3, 4, 5}
    assert {len(prompt.objects) for prompt in report["many"]} == {3, 4, 5}
    assert sum(prompt.background is not None for prompt in report["coco"]) >= 40
    sizes = ("small", "big", "large", "tiny")
    assert sum(any(word in prompt.text for word in sizes) for prompt in report["coco"]) >= 30
    assert {r.relation for prompt in report["vsr"] for r in prompt.relations} == set(RELATIONS)
    for stated, prompt in zip(gpt_style("report", COUNTS["report"]), report["gpt"], strict=True):
        assert (stated.names, stated.relations) == (prompt.names, prompt.relations)
    assert {path.name for path in write_sets(tmp_path)} <= {path.name for path in PROMPTS.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("style", FILES)
def test_the_predictor_places_objects_as_the_prompts_say(style: str) -> None:
    pipeline = load_pipeline(choose_model(project_file(EMOJI_CONFIG)))
    stated = 0
    for prompt in read_prompt_file(PROMPTS / f"report-{FILES[style]}"):
        layout = pipeline.predict_layout(prompt.text)
        for relation in prompt.relations:
            pair = [prompt.names[i] for i in (relation.first, relation.second)]
            first, second = (next(o for o in layout.objects if name in o.phrase.lower()) for name in pair)
            assert satisfied(relation.relation, (first.x, first.y), (second.x, second.y)), prompt.text
            stated += 1
    assert stated >= 38


def test_backgrounds() -> None:
    assert from_sentence("A cat on a green background.").background == "green"
    assert from_sentence("a cat against a pale Blue background").background == "blue"
    assert from_sentence("A cat in the background").background is None
    for word, color in BACKGROUNDS.items():
        image = np.empty((64, 64, 3), np.uint8)
        image[:] = np.array(color) + 5  # a lighter shade of it
        image[0:30, 10:50] = (10, 20, 30)  # an object at the edge
        assert background_color(image) == word
