"""Sizes as people write them, and back. Inside the compiler a size is a whole number of bytes."""

import re

UNIT_BYTES = {
    "B": 1,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
"""IEC 80000-13: k, M, G, T are powers of ten; Ki, Mi, Gi, Ti powers of two. GPU sellers mean GiB when they write GB."""

_UNIT_OF = {unit.lower(): unit for unit in UNIT_BYTES}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)")


def parse_size(value: object) -> int:
    """Bytes of a size such as `8GB`, `8 GiB` or `8192 MiB`. Raises ValueError with the fix in its text.

    >>> parse_size("8 GiB"), parse_size("8GB"), parse_size("8192 MiB"), parse_size("7.5GiB")
    (8589934592, 8000000000, 8589934592, 8053063680)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a size such as `8 GiB`")
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"`{value}` is not a size; write a number and a unit, such as `8 GiB`")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"a size needs a unit; write {_with_unit(float(number), number)}")
    if unit.lower() not in _UNIT_OF:
        guess = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}.get(unit.lower().rstrip("i"))
        hint = f"`{number} {guess}`" if guess else "one of " + ", ".join(UNIT_BYTES)
        raise ValueError(f"`{unit}` is not a unit of size; write {hint}")
    size_bytes = round(float(number) * UNIT_BYTES[_UNIT_OF[unit.lower()]])
    if not 0 < size_bytes < 2**60:
        raise ValueError("a size must be above zero and below 1 EiB; write one such as `8 GiB`")
    return size_bytes


def _with_unit(size: float, text: str) -> str:
    """What a bare number most likely meant."""
    if size >= 10**7:
        return f"`{size / 2**30:.6g} GiB` if these are bytes"
    return f"`{text} MiB`" if size >= 1000 else f"`{text} GiB`"


def format_size(size_bytes: float) -> str:
    """A size for people, in powers of two.

    >>> format_size(8589934592), format_size(123456789), format_size(900), format_size(-2**30)
    ('8.00 GiB', '117.7 MiB', '900 B', '-1.00 GiB')
    """
    size = abs(size_bytes)
    sign = "-" if size_bytes < 0 else ""
    if size >= 2**30:
        return f"{sign}{size / 2**30:.2f} GiB"
    if size >= 2**20:
        return f"{sign}{size / 2**20:.1f} MiB"
    return f"{sign}{size / 2**10:.1f} KiB" if size >= 2**10 else f"{sign}{size:.0f} B"
