"""Which words are objects: categories, synonyms, repeated phrases, pronouns; with a parser and without."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from layout_predictor.inference import chunks, nouns
from layout_predictor.inference.nouns import category_of
from layout_predictor.inference.objects import FoundObject, find_objects
from layout_predictor.inference.sides import before_sides
from layout_predictor.LayoutTransformer.data.categories import STUFF, THINGS


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "language_model", lambda: None)


def phrases(sentence: str, **options: bool) -> list[str]:
    return [item.phrase for item in find_objects(sentence, **options)]


def mentions(sentence: str, item: FoundObject) -> list[str]:
    return [sentence[start:end] for start, end in item.mentions]


def test_there_are_171_categories() -> None:
    assert len(THINGS) == 80
    assert len(STUFF) == 91


def test_words_are_matched_whole() -> None:
    assert category_of(["the", "cathedral"]) is None
    assert category_of(["an", "orange", "cat"]) == ("cat", 1)
    assert category_of(["two", "teddy", "bears"]) == ("teddy bear", 2)
    assert category_of(["the", "motorbikes"]) == ("motorcycle", 1)
    assert category_of(["a", "bus", "stop"]) is None


def test_objects_of_a_sentence() -> None:
    assert phrases("The motorcycle is parking to the right of a bus.") == ["The motorcycle", "a bus"]
    assert phrases("A dog sits with a cat beneath it.") == ["A dog", "a cat"]
    assert phrases("There is a knife, green spoon, and blue bowl on it.") == ["a knife", "green spoon", "blue bowl"]
    assert phrases("The idea is to the left of a bus.") == ["a bus"]
    assert phrases("The lantern is to the left of a bus.", all_nouns=True) == ["The lantern", "a bus"]


def test_a_verb_that_looks_like_a_plural() -> None:
    assert phrases("A car is left of a bus, and a bird soars above the bus.") == ["A car", "a bus", "a bird"]
    assert phrases("The giraffe towers over the sheep.") == ["The giraffe", "the sheep"]
    assert phrases("A red car is parked to the left of a bus, and a bird soars above the bus.")[-1] == "a bird"
    assert phrases("A bus waits at a bus stop near two bus stops.") == ["A bus"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A teddy bear under a chair.", ["A teddy bear", "a chair"]),
        ("A teddy bear next to a chair.", ["A teddy bear", "a chair"]),
        ("There is a red teddy bear over the dog.", ["a red teddy bear", "the dog"]),
        ("a bear to the left of a teddy bear", ["a bear", "a teddy bear"]),
        ("A teddy bear near a bear.", ["A teddy bear", "a bear"]),
        ("a fire hydrant below a stop sign", ["a fire hydrant", "a stop sign"]),
        ("A cell phone left of a car.", ["A cell phone", "a car"]),
        ("a hot dog above a dog", ["a hot dog", "a dog"]),
    ],
)
def test_names_of_several_words_stay_whole(
    sentence: str, expected: list[str], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        monkeypatch.setattr(chunks, "language_model", lambda: None)
    assert phrases(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A bird right of a dog", ["A bird", "a dog"]),
        ("bicycle right of chair", ["bicycle", "chair"]),
        ("A donut left of a bus", ["A donut", "a bus"]),
        ("A photo of an orange left of a chair.", ["an orange", "a chair"]),
        ("a red tv right of a blue chair", ["a red tv", "a blue chair"]),
        ("a train east of a chair", ["a train", "a chair"]),
        ("A cell phone left of a car.", ["A cell phone", "a car"]),
        ("A mouse left and a bus right", ["A mouse", "a bus"]),
        ("A cat left side, a dog right side.", ["A cat", "a dog"]),
        ("a bicycle upper left, a bus lower right", ["a bicycle", "a bus"]),
        ("a window upper left, a bus lower right", ["a window", "a bus"]),
        ("A chair bottom left, a bus top right", ["A chair", "a bus"]),
        ("a suitcase top, a cup bottom", ["a suitcase", "a cup"]),
        ("A traffic light front, a cup back", ["A traffic light", "a cup"]),
        ("A dog center, a cat left", ["A dog", "a cat"]),
    ],
)
def test_sides_are_no_part_of_a_phrase(sentence: str, expected: list[str]) -> None:
    assert phrases(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The right of way belongs to a bus.", ["a bus"]),
        ("A bus right of way sign near a dog.", ["a dog"]),
        ("Education is a human right.", []),
        ("The left hand of a man holds a cup.", ["a man", "a cup"]),
        ("Turn right at the tree.", ["the tree"]),
        ("A bottle top beside a cup.", ["a cup"]),
        ("A mountain top with a bird.", ["a bird"]),
        ("A hill side near a dog.", ["a dog"]),
        ("A vase with a metal top and a plastic bottom.", ["A vase"]),
        ("The bus left the station near a dog.", ["The bus", "a dog"]),
    ],
)
def test_a_side_makes_no_object(sentence: str, expected: list[str]) -> None:
    assert phrases(sentence) == expected


@pytest.mark.parametrize(
    ("texts", "without"),
    [
        ("a bird right of a dog", 1),
        ("a bird right of way", 2),
        ("a human right of a dog", 2),
        ("the top right of a dog", 2),
        ("a bottle top of a shelf", 2),
        ("a bottle top over a cup at the bottom", 1),
    ],
)
def test_where_sides_are_cut(texts: str, without: int) -> None:
    assert before_sides(texts.split(), 0, 2) == without


def test_names_that_look_like_adjectives_or_verbs() -> None:
    assert phrases("An oven beside a cup") == ["An oven", "a cup"]
    assert phrases("A remote higher than a chair") == ["A remote", "a chair"]
    assert phrases("train below dog") == ["train", "dog"]
    assert phrases("fork above cup") == ["fork", "cup"]
    assert phrases("An orange and white cat in a light, airy room.") == ["An orange and white cat"]
    assert phrases("The vase is light and orange.") == ["The vase"]


def test_repeated_phrases() -> None:
    assert phrases("A dog to the left of another dog.") == ["A dog", "another dog"]
    assert phrases("The dog is to the left of the dog.") == ["The dog", "the dog"]
    assert phrases("A red car is above a boat, and the car is left of a bus.") == ["A red car", "a boat", "a bus"]
    assert phrases("The red car is above a boat, and the blue car is left of it.") == [
        "The red car", "a boat", "the blue car",
    ]  # fmt: skip


def test_marked_words_are_where_they_should_be() -> None:
    sentence = "A baseball glove is above a cell phone, and the glove is small."
    glove, phone = find_objects(sentence)
    assert sentence[slice(*glove.marked)] == "glove"
    assert glove.marked[0] == sentence.rindex("glove")
    assert sentence[slice(*phone.marked)] == "phone"
    assert glove.name == "baseball glove"


@pytest.mark.parametrize("plain", [False, True])
def test_one_and_the_other(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr(chunks, "language_model", lambda: None)
    sentence = "Two black cats, one to the left of the other."
    one, other = find_objects(sentence)
    assert (one.phrase, other.phrase) == ("a black cat", "a black cat")
    assert (one.name, other.name) == ("cat", "cat")
    assert [sentence[slice(*item.marked)] for item in (one, other)] == ["one", "other"]
    sentence = "A cat and a dog sit together, one above the other."
    cat, dog = find_objects(sentence)
    assert (mentions(sentence, cat), mentions(sentence, dog)) == (["cat", "one"], ["dog", "other"])
    sentence = "A man carried a bottle and a suitcase, the latter placed below him."
    assert [mentions(sentence, item)[-1] for item in find_objects(sentence)] == ["him", "bottle", "latter"]
    assert phrases("A dog sits to the left of another.") == ["A dog", "another dog"]


def test_pronouns_that_can_mean_one_object_only() -> None:
    sentence = "A dog sits with a cat beneath it."
    dog, cat = find_objects(sentence)
    assert (mentions(sentence, dog), mentions(sentence, cat)) == (["dog", "it"], ["cat"])
    assert sentence[slice(*dog.marked)] == "dog"
    sentence = "A person stands on a rug with a kite above them."
    assert [mentions(sentence, item) for item in find_objects(sentence)] == [["person", "them"], ["rug"], ["kite"]]
    sentence = "A laptop is above a mouse, while a keyboard is to the left of it."
    assert all(len(item.mentions) == 1 for item in find_objects(sentence))  # laptop or mouse: the model decides


def test_without_a_parser(no_parser: None) -> None:
    assert phrases("The silver bed was situated to the right of the white couch.") == [
        "The silver bed", "the white couch",
    ]  # fmt: skip
    assert phrases("A dog sits with an orange cat beneath it, and two teddy bears.") == [
        "A dog", "an orange cat", "two teddy bears",
    ]  # fmt: skip
    assert phrases("A dog to the left of another dog in a cathedral.") == ["A dog", "another dog"]
    assert phrases("There is a knife, green spoon, and blue bowl.") == ["a knife", "green spoon", "blue bowl"]
    assert phrases("The lantern is to the left of a bus.", all_nouns=True) == ["The lantern", "a bus"]
    assert phrases("Nothing is here.") == []


class FakeWordNet:
    """What the tests need of NLTK's reader: "lumber" is a bat by its second sense alone."""

    NOUN = "n"
    names = {"bat.n": ["baseball_bat", "lumber"], "wood.n": ["lumber"], "couch.n": ["couch", "davenport"]}
    senses = {"baseball_bat": ["bat.n"], "lumber": ["wood.n", "bat.n"], "couch": ["couch.n"], "davenport": ["couch.n"]}

    def synsets(self, term: str, pos: str) -> list[SimpleNamespace]:
        return [self.make(key) for key in self.senses.get(term, ())]

    def make(self, key: str) -> SimpleNamespace:
        return SimpleNamespace(key=key, lexname=lambda: "noun.artifact", lemma_names=lambda: self.names[key])

    def morphy(self, term: str, pos: str) -> str | None:
        return {"davenports": "davenport"}.get(term)


def test_synonyms_and_plurals_of_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert category_of(["two", "davenports"]) is None
    cache: dict[str, SimpleNamespace] = {}
    net = FakeWordNet()
    make = net.make
    monkeypatch.setattr(net, "make", lambda key: cache.setdefault(key, make(key)), raising=False)
    monkeypatch.setattr(nouns, "wordnet", lambda: net)
    nouns.wordnet_synonyms.cache_clear()
    try:
        assert category_of(["two", "davenports"]) == ("couch", 1)
        assert category_of(["lumber"]) is None
    finally:
        nouns.wordnet_synonyms.cache_clear()


def test_owners() -> None:
    assert phrases("The giraffe's head rises above the truck.") == ["The giraffe", "the truck"]
    assert phrases("The man's dog is left of a bus.") == ["The man's dog", "a bus"]
    assert phrases("A bowl stands to the sandwich's right.") == ["A bowl", "the sandwich"]
    assert phrases("To the cat's left there is a dog.") == ["the cat", "a dog"]


def test_owners_without_a_parser(no_parser: None) -> None:
    assert phrases("The giraffe's head rises above the truck.") == ["The giraffe", "the truck"]
    assert phrases("The man's dog is left of a bus.") == ["The man's dog", "a bus"]
    assert phrases("A bowl stands to the sandwich’s right.") == ["A bowl", "the sandwich"]


def test_a_verb_of_posture_that_looks_like_an_attribute() -> None:
    assert phrases("An apple and an orange sit side by side.") == ["An apple", "an orange"]
    assert phrases("A cat lies by a tall stand of trees.")[0] == "A cat"
