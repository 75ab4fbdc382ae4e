"""The name that was probably meant, where one was typed that is none: one rule for all names."""

from collections.abc import Iterable

LIKE = 0.7
"""How alike two names must be (`difflib`'s ratio) for one to be taken for the other."""


def nearest(given: object, known: Iterable[str]) -> str | None:
    """The known name that is most like `given`, whatever the case of letters; None if none is.

    A name that `given` begins, and no other does, is meant even if it is far longer.
    """
    from difflib import get_close_matches  # wanted by messages alone

    by_fold = {name.casefold(): name for name in known}
    typed = str(given).casefold()
    found = get_close_matches(typed, by_fold, 1, LIKE)
    if not found and len(typed) > 1:
        begun = [name for name in by_fold if name.startswith(typed)]
        found = begun if len(begun) == 1 else []
    return by_fold[found[0]] if found else None


def hint(given: object, known: Iterable[str]) -> str:
    """`did you mean 'exact'? `, to stand before what is allowed; empty where nothing is near."""
    near = nearest(given, known)
    return "" if near is None else f"did you mean {near!r}? "
