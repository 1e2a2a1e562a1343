"""Text for people: from outside, so that nothing in it can act on a terminal or mislead who reads it; and counts."""


def escape_unprintable(text: str) -> str:
    """The text with all that does not print (controls, bidirectional marks, odd spaces, …) as escapes."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def escape_surrogates(text: str) -> str:
    """The text with the bytes that were not UTF-8 (decoded by `surrogateescape`) as escapes, so that it can be sent."""
    return text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def counted(number: int, noun: str) -> str:
    """How many there are of something: `1 alert`, `1,200 alerts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
