"""Why something is left as it is, as an exception on the way to the list of refusals."""

from xhat.lang import Name, say


class Refused(Exception):  # noqa: N818 - it is a reason, found and listed
    """Why a module is left as it is.

    Args:
        reason: A clause; made by ``say`` where it is to be said in other languages.
        needless: Whether the module needs no change.
    """

    def __init__(self, reason: str, *, needless: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason  # str() of the exception would forget how it was made
        self.needless = needless


def changed_without(raised: str | None) -> str:
    """Return the reason that stands for a part without which the outputs were others.

    Args:
        raised: What the model raised in the trial; None where it ran.
    """
    if raised is not None:
        return say("the model raised {error} without it", error=Name(raised))
    return say("without it the outputs changed by more than rounding")
