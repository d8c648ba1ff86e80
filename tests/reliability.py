"""Tries every reader and kills every long command, and writes what came of it to docs/reliability.md.

python -m tests.reliability --examples 1000 --kills 20
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ldm.evaluation.report.markdown import markdown_table, update_page
from ldm.files import write_json
from tests.golden_data import ROOT
from tests.kills import COMMANDS, kill_and_go_on
from tests.readers import READERS, try_reader
from tests.tiny_world import build


def main() -> None:
    """Stops at the first failure, which it shows; the page is written when there was none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="of each reader")
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    options = parser.parse_args()
    readers, kills = [["reader", "tried", "refused with a sentence", "other errors"]], [["command", "killed", "damage"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for reader in READERS:
            counts = try_reader(reader, options.examples, folder)
            readers.append([reader.name, str(counts.total()), str(counts["refused"]), "0"])
            print(*readers[-1], sep="\t", flush=True)
        world = build(folder)
        for command in COMMANDS if options.kills else ():
            (folder / command.name).mkdir()
            met = kill_and_go_on(command, folder / command.name, world, options.kills)
            kills.append([command.name, str(met), "0"])
            print(*kills[-1], sep="\t", flush=True)
    write_json(ROOT / "docs" / "results" / "reliability.json", {"readers": readers[1:], "kills": kills[1:]})
    update_page(ROOT / "docs" / "reliability.md", {"readers": markdown_table(readers), "kills": markdown_table(kills)})


if __name__ == "__main__":
    main()
