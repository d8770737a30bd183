"""What modules are called in messages."""

from xhat.lang import Name, say


def module_name(name: str) -> str:
    """Return a module's full name for a message, the same in every language; the model itself has none."""
    return Name(name) if name else say("the model itself")
