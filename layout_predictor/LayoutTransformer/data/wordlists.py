"""Long word lists, written as running text."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """Words separated by blanks."""
    return text.split()


def phrases(text: str) -> list[str]:
    """Phrases separated by semicolons."""
    return [phrase.strip() for phrase in text.split(";")]
