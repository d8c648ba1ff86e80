"""The commands: one sentence, a file of sentences, an evaluation; and what they say of bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from layout_predictor.inference import evaluate, inference_coco
from layout_predictor.inference.batch import predict_file
from layout_predictor.inference.predictor import Prediction, Predictor, load_predictor
from ldm.spacetime.layout import Layout
from tests.tiny_layout_data import DATA, FAULTS, damaged

BELOW = {"words": ["A ", "cat ", "is ", "below ", "a ", "bus", "."], "objects": [1, 5]}
SENTENCE = "The silver bed was situated to the right of the white couch."


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor()


@pytest.fixture(autouse=True)
def loaded_once(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands share one predictor, unless a checkpoint is named."""
    monkeypatch.setattr(
        "layout_predictor.inference.predictor.load_predictor",
        lambda path, tokens: load_predictor(path, tokens) if path else predictor,
    )


def run(*arguments: object) -> int:
    return inference_coco.main([str(argument) for argument in arguments])


def test_published_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--sentence", SENTENCE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == SENTENCE
    assert lines[1].startswith("The silver bed position: (0.")
    assert lines[2].startswith("the white couch position: (0.")
    assert len(lines) == 3


def test_json_and_drawings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    out, heat = tmp_path / "layout.png", tmp_path / "heat.png"
    assert run("--sentence", SENTENCE, "--json", "--image", out, "--width", 400, "--height", 390) == 0
    layout = Layout.from_json(json.loads(capsys.readouterr().out))
    assert [item.name for item in layout.objects] == ["bed", "couch"]
    assert Image.open(out).size == (400, 390)
    assert run("--sentence", SENTENCE, "--heatmap", heat, "--picture", tmp_path / "photo.png") == 0
    assert Image.open(heat).size == (600, 400)  # enlarged by a whole factor
    assert run("--sentence", "A lantern above a bus.", "--all-nouns", "--sample", "--seed", 3) == 0
    assert "A lantern position" in capsys.readouterr().out


def test_a_drawing_is_what_its_name_says_and_replaces_no_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, sentences = tmp_path / "photo.png", tmp_path / "sentences.txt"
    Image.new("RGB", (30, 20)).save(photo)
    sentences.write_text(SENTENCE)
    assert run("--sentence", SENTENCE, "--image", tmp_path / "l.jpg") == 0
    assert Image.open(tmp_path / "l.jpg").format == "JPEG"
    before = photo.read_bytes()
    for arguments, said in (
        (["--sentence", SENTENCE, "--image", tmp_path / "l.txt"], "let it end in"),
        (["--sentence", SENTENCE, "--picture", photo, "--heatmap", photo], "would be lost"),
        (["--from-file", sentences, "--out", sentences], "would be lost"),
    ):
        assert run(*arguments) == 2 and said in capsys.readouterr().err
    assert photo.read_bytes() == before and sentences.read_text() == SENTENCE


@pytest.mark.parametrize(("arguments", "message"), DATA["mistakes"])
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad.safetensors", "bad.pth"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 no weights")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text(SENTENCE)
    before = sorted(tmp_path.iterdir())
    known = {"S": SENTENCE, "LONG": "a cat " * 600}
    assert run(*(known.get(word) or re.sub("^T/", f"{tmp_path}/", word) for word in arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert sorted(tmp_path.iterdir()) == before  # nothing half written


def test_a_file_of_sentences_goes_on_where_it_was_stopped(
    tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = [SENTENCE, "Freedom is a state of mind.", "a cat " * 600, "A dog sits below a kite."]
    out = tmp_path / "deep" / "layouts.jsonl"
    settings = {"all_nouns": False, "sample": False, "seed": 0, "raw": True}
    asked: list[str] = []
    predict = predictor.predict

    def stopping(sentence: str, **options: object) -> Prediction:
        asked.append(sentence)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return predict(sentence, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor, "predict", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict_file(sentences, out, predictor, settings=settings)
    assert not out.exists()
    (part,) = out.parent.iterdir()
    part.write_text(part.read_text() + '{"prompt": "A dog si')  # cut off in the middle of a line
    counts = predict_file(sentences, out, predictor, settings=settings)
    assert (counts["resumed"], counts["layouts"], counts["empty"], counts["failed"]) == (3, 2, 1, 1)
    assert asked[4:] == sentences[3:]
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["prompt"] for record in records] == sentences
    assert Layout.from_json(records[3]).objects[0].name == "dog"
    assert "shorten" in records[2]["error"]
    assert list(out.parent.iterdir()) == [out]
    (tmp_path / "prompts.txt").write_text("\n\n".join(sentences))
    assert run("--from-file", tmp_path / "prompts.txt", "--out", out, "--raw") == 0
    assert "2 of 4 layouts" in capsys.readouterr().out


def test_what_is_not_taken_as_it_stands_is_told_of_every_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat below a dog and some happiness\na cat bellow a dog")
    assert run("--from-file", tmp_path / "prompts.txt", "--out", tmp_path / "out.jsonl") == 0
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "happiness" in told[0] and '"bellow" is read as "below"' in told[1]


def test_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "sentences.jsonl", tmp_path / "score.json"
    path.write_text(json.dumps({**BELOW, "relations": [[1, 5, "below"], [1, 5, "above"]]}) + "\n")
    assert evaluate.main([str(path), "--out", str(out), "--failures"]) == 0
    assert "cat above bus: A cat is below a bus." in capsys.readouterr().out
    score = json.loads(out.read_text())
    assert score["relations"] == {"right": 1, "stated": 2, "accuracy": 0.5}
    assert score["by_relation"]["below"]["right"] == 1
    assert score["by_objects"]["2"]["stated"] == 2
    assert score["closest_centers"] >= 0.2 - 1e-6
    path.write_text("")
    assert evaluate.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_evaluation_with_a_review_of_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, review, out = tmp_path / "sentences.jsonl", tmp_path / "review.jsonl", tmp_path / "score.json"
    path.write_text(json.dumps({**BELOW, "relations": [[1, 5, name] for name in ("below", "above", "left of")]}))
    verdicts = [("cat above bus", "contradicts"), ("cat left of bus", "unstated")]
    lines = [json.dumps({"line": 1, "stated": stated, "verdict": verdict}) for stated, verdict in verdicts]
    review.write_text("\n".join(lines))
    assert evaluate.main([str(path), "--review", str(review), "--out", str(out)]) == 0
    score = json.loads(out.read_text())
    assert "failures" not in score  # sentences are written where they are asked for
    assert (score["sentences_all_right"], score["pairs"], score["pairs_too_close"]) == (0, 1, 0)
    found = score["review"]
    assert (found["labels"], found["contradicts"], found["unstated"]) == (3, 1, 1)
    assert (found["ceiling"], found["ceiling_with_lucky_guesses"]) == (0.3333, 0.6667)
    assert found["on_the_rest"] == {"right": 1, "stated": 1, "accuracy": 1.0}
    capsys.readouterr()
    for place, value, message in FAULTS["review"]:
        good = {"line": 1, "stated": "cat above bus", "verdict": "unstated"}
        review.write_text(json.dumps(damaged(good, place, value)))
        assert evaluate.main([str(path), "--review", str(review)]) == 2
        assert message in capsys.readouterr().err
