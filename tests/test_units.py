"""Sizes as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.units import UNIT_BYTES, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8 GiB", 8 * 2**30),
        ("8GiB", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("8192 MiB", 8 * 2**30),
        ("7.5 GiB", 15 * 2**29),
        (".5TiB", 2**39),
        ("1kB", 1000),
    ],
)
def test_a_size_is_read_by_its_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        (8, "write `8 GiB`"),
        ("8", "write `8 GiB`"),
        (8192, "write `8192 MiB`"),
        (8589934592, "`8 GiB` if these are bytes"),
        ("8G", "write `8 GiB`"),
        ("8 gi", "write `8 GiB`"),
        ("8 parsecs", "GiB"),
        ("eight", "such as `8 GiB`"),
        ("-8 GiB", "such as `8 GiB`"),
        ("0 GiB", "above zero"),
        ("9999999 TiB", "below 1 EiB"),
        (True, "such as `8 GiB`"),
        ([], "such as `8 GiB`"),
    ],
)
def test_what_is_no_size_is_refused_with_what_to_write(value: object, fix: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit") as caught:
        parse_size(value)
    assert fix in str(caught.value)


@given(st.integers(1, 2**20), st.sampled_from(sorted(UNIT_BYTES)))
def test_any_whole_number_of_any_unit_is_exact(number: int, unit: str) -> None:
    size_bytes = number * UNIT_BYTES[unit]
    if size_bytes < 2**60:
        assert parse_size(f"{number} {unit}") == size_bytes


@given(st.integers(2**20, 2**50))
def test_what_is_printed_can_be_read_back_within_its_digits(size_bytes: int) -> None:
    assert abs(parse_size(format_size(size_bytes)) - size_bytes) <= size_bytes / 20
