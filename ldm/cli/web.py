"""A page to draw on: a sentence, its objects on a canvas, the image while it is made.

    python scripts/web.py                                    http://127.0.0.1:7860, for this machine alone
    python scripts/web.py --ckpt models/a.ckpt models/b.ckpt more models to choose from
    python scripts/web.py --host 0.0.0.0 --password-file FILE for others too; any name and this password

Without a Stable Diffusion checkpoint in place it uses the small embedded model of emoji scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ldm import boundary
from ldm.cli import common
from ldm.errors import UserError


def build_parser() -> common.Parser:
    """All flags."""
    parser = common.Parser(__doc__, argument_default=None)
    add = parser.add_argument_group("where it is").add_argument
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    add("--port", type=boundary.whole(0, 65535), default=7860, metavar="N", help="0 takes a free one (7860)")
    add("--password-file", type=Path, metavar="FILE", help="its first line is asked for; needed for other addresses")
    add = parser.add_argument_group("the models").add_argument
    add("--config", type=Path, metavar="YAML", help="of the checkpoints")
    add("--ckpt", type=Path, nargs="+", default=[], metavar="FILE", help=".ckpt or .safetensors, to choose from")
    add("--clip", metavar="NAME|FILE", help="the CLIP of the loss, for the first of the models")
    add("--predictor", type=Path, metavar="FILE", help="weights of the layout predictor")
    common.add_diffusers_flags(parser, nargs="+", default=[])
    common.add_device_flags(parser, precision=False)
    add = parser.add_argument_group("what visitors may ask for, at most").add_argument
    add("--max-side", type=boundary.PIXELS, default=1024, metavar="PX", help="width and height (1024)")
    add("--max-steps", type=boundary.STEPS, default=200, metavar="N", help="steps (200)")
    add("--max-upload", type=boundary.whole(1, 1000), default=20, metavar="MB", help="size of a file (20)")
    return parser


def action(options: argparse.Namespace, progress: common.Progress) -> Iterator[str]:
    """Serve until Ctrl-C; yields the line that says where."""
    password = read_password(options.host, options.password_file)
    common.set_threads(options.threads)
    from ldm.generation.pipeline import choose_model

    given = [choose_model(options.config, path) for path in options.ckpt]
    adapted = options.dtype, options.offload, options.lora or ()
    given += [choose_model(None, None, name, *adapted) for name in options.model]
    if not options.model:
        choose_model(None, None, None, *adapted)  # says what goes with --model only
    if options.config is not None and not given:
        given = [choose_model(options.config)]
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError("the page needs Gradio; install it with: pip install -e '.[web]'") from error
    from ldm.web.asked import Limits
    from ldm.web.serve import named, serve
    from ldm.web.studio import Studio

    limits = Limits(side=options.max_side, steps=options.max_steps, upload=options.max_upload << 20)
    more = {"device": options.device, "clip": options.clip, "predictor": options.predictor, "limits": limits}
    yield from serve(lambda: Studio(named(given), **more), options.host, options.port, password)


def read_password(host: str, path: Path | None) -> str | None:
    """The password in a file. Raises UserError where one is needed and none is there."""
    import ipaddress

    if path is None:
        try:
            own = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            own = False
        if not own:
            raise UserError(f"--host {host} lets others in; give a password with --password-file")
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--password-file {path} cannot be read as text") from error
    if not lines or len(lines[0].strip()) < 8:
        raise UserError(f"--password-file {path} needs a password of at least 8 characters in its first line")
    return lines[0].strip()


main = common.Script(build_parser, action)
