"""What a user did wrong, as one sentence. Every module may raise it; `ldm.util` has it under its usual name."""

from __future__ import annotations

import pickle
import struct
import tokenize
import zipfile
import zlib

# What Python and its libraries raise where a file's content is not what it should be.
DAMAGED = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError, SyntaxError),
    *(EOFError, OSError, struct.error, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError, tokenize.TokenError),
)


class UserError(Exception):
    """A mistake of the user's (path, size, flag, file), told in one sentence that says what to do."""
