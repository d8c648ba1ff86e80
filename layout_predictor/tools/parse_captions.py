"""Make parsed_caption_label_dict from COCO's captions: which words of a caption name which category.

python layout_predictor/tools/parse_captions.py --captions data/coco/annotations/captions_train2017.json \
    --out data/coco/parsed_caption_label_dict.pkl
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script from anywhere, installed or not

from layout_predictor.LayoutTransformer.data.records import read_json, table  # noqa: E402
from ldm import boundary  # noqa: E402
from ldm.util import UserError, atomic_write  # noqa: E402

Parsed = tuple[int, str, list[str], list[tuple[int, str, str]]]  # image id, caption, words, (word, category, phrase)


def read_coco_captions(path: str | Path) -> Iterator[tuple[str, int]]:
    """(caption, image id) of COCO's captions file. UserError names the record and the field that is wrong."""
    for where, record in table(read_json(path), "annotations", ("image_id", "caption"), str(path)):
        if not isinstance(record["caption"], str) or not isinstance(record["image_id"], int):
            raise UserError(f"{where} has no text as 'caption' or no number as 'image_id'")
        yield " ".join(record["caption"].split()), record["image_id"]


def parse(captions: Iterable[tuple[str, int]], *, processes: int = 1) -> Iterator[Parsed]:
    """Words of every caption, and its noun chunks that name a category; a caption without one is left out."""
    from layout_predictor.inference.reading import language_model  # seconds, which --help need not wait for
    from layout_predictor.LayoutTransformer.data.categories import match_category

    pipe = language_model().pipe(captions, as_tuples=True, batch_size=256, n_process=processes)
    for document, image_id in pipe:
        candidates = []
        for chunk in document.noun_chunks:
            phrase = document[chunk.start : chunk.root.i + 1]  # what follows the head says nothing of the category
            match = match_category([token.lower_ for token in phrase])
            if match is not None:
                candidates.append((chunk.root.i, match[0], phrase.text))
        if candidates:
            yield image_id, document.text, [token.text_with_ws for token in document], candidates


def write_parsed(parsed: Iterable[Parsed], path: Path) -> int:
    """Write the published pickle (.pkl), or JSON lines (.jsonl); how many captions there are."""
    records = list(parsed)
    with atomic_write(path) as temporary:
        if path.suffix == ".jsonl":
            names = ("image_id", "caption", "words", "candidates")
            lines = [json.dumps(dict(zip(names, record, strict=True))) + "\n" for record in records]
            temporary.write_text("".join(lines), encoding="utf-8")
        else:
            by_image: dict[int, list[list[Any]]] = {}
            for image_id, caption, words, candidates in records:
                by_image.setdefault(image_id, []).append([caption, words, *map(list, candidates)])
            temporary.write_bytes(pickle.dumps(by_image))
    return len(records)


def run(arguments: argparse.Namespace) -> int:
    """Parse the captions of all files into one; how many were written."""
    from tqdm import tqdm

    out = Path(arguments.out)
    if out.suffix not in (".pkl", ".jsonl"):
        raise UserError(f"--out {out} must end in .pkl or .jsonl")
    captions = [pair for path in arguments.captions for pair in read_coco_captions(path)]
    if not captions:
        raise UserError(f"there is no caption in {', '.join(arguments.captions)}")
    shown = tqdm(captions, unit="caption", disable=None)
    return write_parsed(parse(shown, processes=arguments.processes), out)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error is one line and exit code 2, an interrupt 130."""
    parser = boundary.Parser(description="Find the categories that COCO's captions name.")
    parser.add_argument("--captions", nargs="+", required=True, help="captions_<set>.json of COCO, one or more")
    parser.add_argument("--out", required=True, help="a .pkl in the published form, or .jsonl")
    parser.add_argument("--processes", type=boundary.THREADS, default=1, help="of spaCy")

    def action() -> None:
        arguments = parser.parse_args(argv)
        print(f"{run(arguments)} captions that name a category in {arguments.out}")

    return boundary.run(action)


if __name__ == "__main__":
    sys.exit(main())
