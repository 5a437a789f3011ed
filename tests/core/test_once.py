from __future__ import annotations

from theory.once import once


def test_what_was_worked_out_for_this_very_argument_is_remembered() -> None:
    calls: list[list[int]] = []

    @once
    def total(numbers: list[int]) -> int:
        calls.append(numbers)
        return sum(numbers)

    numbers = [1, 2]
    assert [total(numbers), total(numbers), total([1, 2])] == [3, 3, 3]
    assert len(calls) == 2


def test_an_argument_never_gets_the_result_of_one_that_is_gone() -> None:
    """An id is used again as soon as its object is gone, unless somebody keeps that."""
    total = once(sum)
    assert all(total([number, 1]) == number + 1 for number in range(2000))
