"""Print the predicted center of every object of a sentence, or write the layouts of a file of sentences.

python layout_predictor/inference/inference_coco.py --sentence "The silver bed was to the right of the couch."
python layout_predictor/inference/inference_coco.py --from-file prompts.txt --out layouts.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script from anywhere, installed or not

from ldm import boundary  # noqa: E402
from ldm.errors import UserError  # noqa: E402
from ldm.files import refuse_own_input  # noqa: E402

_SIDE = 512


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = boundary.Parser(description="Predict where the objects of a sentence go.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--sentence", type=boundary.text)
    source.add_argument("--from-file", "--from_file", help="a text file with one sentence a line; needs --out")
    parser.add_argument("--out", help="with --from-file: the JSON lines to write; a stopped run goes on")
    parser.add_argument("--json", action="store_true", help="print the layout as JSON")
    parser.add_argument("--image", help="PNG or JPEG to write: the layout drawn")
    parser.add_argument("--heatmap", help="PNG or JPEG to write: each object's density as a heat map")
    parser.add_argument("--picture", help="draw over this image instead of an empty canvas")
    parser.add_argument(
        "--width", type=boundary.PIXELS, help=f"of the drawings in pixels; default {_SIDE} or the image's"
    )
    parser.add_argument(
        "--height", type=boundary.PIXELS, help=f"of the drawings in pixels; default {_SIDE} or the image's"
    )
    parser.add_argument("--checkpoint", help="exported, training or published weights (see docs/usage.md)")
    parser.add_argument("--tokenizer", help="tokenizer.json of a .pth checkpoint")
    nouns = parser.add_mutually_exclusive_group()
    nouns.add_argument("--all_nouns", "--all-nouns", action="store_true", help="every noun is an object")
    nouns.add_argument(
        "--mscoco", action="store_true", help="as published: COCO's categories are objects (the default)"
    )
    parser.add_argument("--raw", action="store_true", help="the model's own centers, not checked against the sentence")
    parser.add_argument("--sample", action="store_true", help="draw a mixture component instead of the likeliest")
    parser.add_argument("--seed", type=boundary.SEED, default=0, help="seed of --sample")
    return parser.parse_args(argv)


def run_sentence(arguments: argparse.Namespace) -> str:
    """Predict one sentence and write what was asked for; return what to print."""
    from layout_predictor.inference.heatmap import blank, read_image, shade  # seconds, which --help need not wait for
    from layout_predictor.inference.predictor import load_predictor
    from ldm.generation.images import COLORS, check_image_name, draw_layout, save_image

    canvas = blank(arguments.width or _SIDE, arguments.height or _SIDE)
    for name in (arguments.image, arguments.heatmap):
        if name:
            check_image_name(Path(name))
            refuse_own_input(Path(name), arguments.picture, "--picture")
    if arguments.picture:  # an image that cannot be read is said before the model is loaded
        given = arguments.width or arguments.height
        canvas = read_image(arguments.picture, canvas.shape[1::-1] if given else None)
    prediction = load_predictor(arguments.checkpoint, arguments.tokenizer).predict(
        arguments.sentence,
        all_nouns=arguments.all_nouns,
        sample=arguments.sample,
        seed=arguments.seed,
        raw=arguments.raw,
    )
    for note in prediction.notes:
        logging.getLogger(__name__).warning("%s", note)
    layout = prediction.layout
    if not layout.objects:
        raise UserError("no object was found in the sentence; name one of COCO's, or give --all-nouns")
    if arguments.image:
        save_image(Path(arguments.image), draw_layout(canvas, layout))
    if arguments.heatmap:
        save_image(Path(arguments.heatmap), draw_layout(shade(canvas, prediction.mixture, COLORS), layout, radius=0.0))
    if arguments.json:
        return json.dumps(layout.to_json(), indent=2, ensure_ascii=False)
    positions = [f"{item.phrase} position: ({item.x:.3f}, {item.y:.3f})" for item in layout.objects]
    return "\n".join([arguments.sentence, *positions])  # as published


def run_file(arguments: argparse.Namespace) -> str:
    """Predict every sentence of a file; return what to print."""
    if not arguments.out:
        raise UserError("--from-file needs --out, the JSON lines to write")
    drawing = [name for name in ("image", "heatmap", "picture", "json") if getattr(arguments, name)]
    if drawing:
        raise UserError(f"--{drawing[0]} is for one --sentence; a file of sentences gives JSON lines")
    from tqdm import tqdm

    from layout_predictor.inference.batch import predict_file, read_sentences
    from layout_predictor.inference.checkpoints import default_weights
    from layout_predictor.inference.predictor import load_predictor

    refuse_own_input(Path(arguments.out), arguments.from_file, "--from-file")
    sentences = read_sentences(arguments.from_file)
    weights = Path(arguments.checkpoint or default_weights())
    predictor = load_predictor(weights, arguments.tokenizer)
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("all_nouns", "sample", "seed", "raw")}
    identity = f"{weights.resolve()} {weights.stat().st_mtime_ns}"
    with tqdm(total=len(sentences), desc="layouts", disable=None) as bar:
        counts = predict_file(
            sentences, arguments.out, predictor, settings=settings, identity=identity, progress=bar.update
        )
    told = {
        "resumed": "were there from a run that was stopped",
        "empty": "without an object",
        "failed": "failed, with the reason in their line",
    }
    notes = [f"{counts[kind]} {text}" for kind, text in told.items() if counts[kind]]
    return "; ".join([f"{counts['layouts']} of {len(sentences)} layouts in {arguments.out}", *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; an error is one line and exit code 2, an interrupt 130."""

    def action() -> None:
        arguments = parse(argv)
        boundary.log_lines(logging.WARNING, "%(levelname)s: %(message)s")
        print(run_sentence(arguments) if arguments.sentence is not None else run_file(arguments))

    return boundary.run(action)


if __name__ == "__main__":
    sys.exit(main())
