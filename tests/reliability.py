"""Tries every reader, stops every long command, and writes what came of it to docs/reliability.md.

python -m tests.reliability --examples 1000 --kills 20
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ldm.evaluation.report.markdown import markdown_table, update_page
from ldm.files import read_json, read_kept, write_json
from tests.golden_data import ROOT
from tests.kills import COMMANDS, Command, kill_and_go_on
from tests.readers import READERS, Reader, try_reader
from tests.tiny_world import TinyWorld, build

RESULTS, PAGE = ROOT / "docs" / "results" / "reliability.json", ROOT / "docs" / "reliability.md"
UNFINISHED = ROOT / "outputs" / "reliability.json"  # what a run that was stopped had done
HEADS = {
    "readers": ["reader", "tried", "refused with a sentence", "other errors"],
    "kills": ["command", "stopped", "finished as if never stopped", "damage"],
}


def tables(results: Mapping[str, list[list[str]]]) -> dict[str, str]:
    """The blocks of the page."""
    return {name: markdown_table([head, *results[name]]) for name, head in HEADS.items()}


def read(reader: Reader, examples: int, folder: Path) -> list[str]:
    """The row of a reader."""
    counts = try_reader(reader, examples, folder)
    return [reader.name, str(counts.total()), str(counts["refused"]), "0"]


def stop(command: Command, kills: int, folder: Path, world: TinyWorld) -> list[str]:
    """The row of a command."""
    (own := folder / command.name).mkdir()
    return [command.name, str(kills), str(kill_and_go_on(command, own, world, kills)), "0"]


def main() -> int:
    """A failure is shown and counted, and the rest goes on; the next run keeps what was tried often enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="of each reader")
    parser.add_argument("--kills", type=int, default=4, help="of each command")
    options = parser.parse_args()
    done: dict[str, list[str]] = read_kept(UNFINISHED)

    def row(name: str, asked: int, action: Callable[[], list[str]]) -> list[str]:
        if name not in done or int(done[name][1]) < asked:
            try:
                done[name] = action()
            except Exception:
                traceback.print_exc()
                return [name, "", "", "1"]
            write_json(UNFINISHED, done)
        print(*done[name], sep="\t", flush=True)
        return list(done[name])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = build(folder)
        readers = [row(each.name, options.examples, partial(read, each, options.examples, folder)) for each in READERS]
        kills = [row(each.name, options.kills, partial(stop, each, options.kills, folder, world)) for each in COMMANDS]
    write_json(RESULTS, {"readers": readers, "kills": kills})
    update_page(PAGE, tables(read_json(RESULTS)))
    if failed := sum(each[-1] != "0" for each in (*readers, *kills)):
        print(f"{failed} failed; the next run tries them again", file=sys.stderr)
        return 1
    UNFINISHED.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
