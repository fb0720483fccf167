"""Options of a method that are words: each is one of a few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def check_choices(options: object, choices: Mapping[str, Sequence[str]]) -> None:
    """See that every attribute of `options` that `choices` names has a value that is listed there.

    Raises:
        ValueError: one has not.
    """
    for name, listed in choices.items():
        value = getattr(options, name)
        if value not in listed:
            raise ValueError(f"{name} cannot be {value!r}: choose one of {', '.join(listed)}")
