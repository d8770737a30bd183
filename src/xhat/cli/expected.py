"""How long a large study takes, told before it begins."""

from fnmatch import fnmatchcase

from xhat.lang import Translate, say
from xhat.report import shipped
from xhat.report._words import duration
from xhat.study.environment import cores
from xhat.study.result import Study


def expected(preset: str, claims: list[str] | None, workers: int | None, _: Translate = str) -> str:
    """Return what is known of the time that a study will take; nothing for the presets of minutes."""
    kept = _("Finished runs are kept: stop it when you like, and go on with the same command.")
    if preset == "paper":
        return _("The preset paper is for a large machine; it takes far longer than full.") + " " + kept
    if preset != "full":
        return ""
    full = shipped()
    if full is None:
        return _("A full study takes hours on 2 cores.") + " " + kept
    here = workers or cores()
    words = say(
        "Expected: about {time} with {workers} worker processes, judged by the shipped full run ({processor}).",
        time=duration(_work(full, claims) / here),
        workers=here,
        processor=full.environment.processor or "–",
    )
    return _(words) + " " + kept


def _work(full: Study, claims: list[str] | None) -> float:
    """Return the seconds of one process; runs that claims share count for each of some chosen claims."""
    if claims is None:
        return full.work
    chosen = (c for c in full.claims if any(fnmatchcase(c.text.id, pattern) for pattern in claims))
    return sum(claim.seconds for claim in chosen)
