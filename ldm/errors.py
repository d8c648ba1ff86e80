"""What a user did wrong, as one sentence. Every module may raise it; `ldm.util` has it under its usual name."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's (path, size, flag, file), told in one sentence that says what to do."""
