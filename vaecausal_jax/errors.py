"""Messages that name what was given and the nearest that exists."""

import difflib
from collections.abc import Iterable


def unknown_choice(kind: str, given: object, valid: Iterable[object]) -> str:
    """A message for a name that is not among the valid ones, with the nearest that is."""
    names = [str(name) for name in valid]
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.0)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {given!r}.{hint} Valid choices: {', '.join(names) or 'none'}."
