"""Our quick dataclasses beside those of the standard library."""

import copy
import dataclasses

import pytest

from compiler import quick


def test_a_quick_dataclass_is_one_to_the_standard_library():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Plain:
        first: int
        second: tuple[int, ...] = ()
        third: dict[str, int] = dataclasses.field(default_factory=dict)

    @quick.dataclass(frozen=True, slots=True)
    class Quick:
        first: int
        second: tuple[int, ...] = ()
        third: dict[str, int] = dataclasses.field(default_factory=dict)

    for cls in (Plain, Quick):
        one = cls(1, third={"a": 2})
        assert repr(one).rpartition(".")[2].partition("(")[2] == "first=1, second=(), third={'a': 2})"
        assert dataclasses.asdict(one) == {"first": 1, "second": (), "third": {"a": 2}}
        assert dataclasses.replace(one, second=(3,)) == cls(1, (3,), {"a": 2}) != one
        assert [field.name for field in dataclasses.fields(cls)] == ["first", "second", "third"]
        assert copy.copy(one) == copy.deepcopy(one) == one != (1, (), {"a": 2})
        assert cls(2).third == {} and cls(2).third is not cls(2).third
        assert hash(cls(1, (), third=None)) == hash((1, (), None)) and not hasattr(one, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.first = 2
        with pytest.raises(TypeError):
            cls()
    assert Plain(1) != Quick(1)
