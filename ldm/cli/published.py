"""The command line of the published main.py in terms of ours: `-t True`, and every option of the trainer as a flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

TRUTH = {"true": True, "yes": True, "t": True, "y": True, "1": True, "false": False, "no": False, "f": False}
TRUTH |= {"n": False, "0": False}
SWITCHES = ("-t", "--train", "--no-test", "-d", "--debug", "--scale_lr")


def truth(text: str) -> bool:
    """A flag's text as a truth value, an argparse type."""
    if text.lower() not in TRUTH:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return TRUTH[text.lower()]


def rewrite(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """`words` so that `parser` takes them.

    A switch takes the word behind it when it is a truth value, and no config entry. A long flag that `parser` does not
    know is the trainer's: `--max_epochs 5` becomes `lightning.trainer.max_epochs=5`, where it is checked.
    """
    known = {flag for action in parser._actions for flag in action.option_strings}
    made, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if word in SWITCHES:
            made.append(f"{word}={rest.pop(0) if rest and rest[0].lower() in TRUTH else 'true'}")
        elif flag.startswith("--") and flag != "--" and not any(name.startswith(flag) for name in known):
            if not equals:
                value = rest.pop(0) if rest and not rest[0].startswith("-") and "=" not in rest[0] else "true"
            made.append(f"lightning.trainer.{flag[2:].replace('-', '_')}={value}")
        else:
            made.append(word)
    return made
