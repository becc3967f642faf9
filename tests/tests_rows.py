"""Functions over rows for the tests of runners: workers of other processes import them."""

import os


def shipped(word: str) -> str:
    """The word and the process that saw it."""
    return f"{word.upper()} {os.getpid()}"


def at_odds(number: int) -> int:
    if number == 40:
        raise ValueError("forty")
    return number


def dying(number: int) -> int:
    if number == 40:
        os._exit(1)
    return number
