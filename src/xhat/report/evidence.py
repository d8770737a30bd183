"""The measured ``full`` run that xhat ships, so that a small run's verdicts can be held against larger ones."""

import lzma
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from xhat.errors import UsageError
from xhat.report._files import replacing
from xhat.study import codec
from xhat.study.result import Study


@lru_cache
def shipped() -> Study | None:
    """Return the shipped study of preset ``full``, without figures, or ``None`` if none was measured yet."""
    place = files("xhat.report").joinpath("evidence", "full.json.xz")
    return read_shipped(place.read_bytes()) if place.is_file() else None


def read_shipped(content: bytes) -> Study:
    """Return the study that ``write_shipped`` wrote.

    Raises:
        ValueError: it holds something else.
        lzma.LZMAError: it is no such file, or damaged.
    """
    return codec.loads(lzma.decompress(content).decode(), Study)


def write_shipped(study: Study, path: str | Path) -> Path:
    """Write a study as the shipped one: the same study gives the same bytes.

    Figures and the keys of runs stay behind: what stands beside another run is verdicts and effects.

    Raises:
        UsageError: the study is not a whole ``full`` run of xhat's own networks and data.
    """
    if study.preset != "full" or study.subject or study.unfinished or not study.claims:
        raise UsageError(
            f"a study of preset {study.preset} on {study.subject or 'xhat’s own networks'} with "
            f"{len(study.claims)} claims done and {len(study.unfinished)} names open is no evidence to ship: "
            "it takes a whole `xhat study --preset full`"
        )
    claims = tuple(replace(claim, figures=(), runs=()) for claim in study.claims)
    laws = tuple(replace(law, figures=()) for law in study.laws)
    path = Path(path)
    with replacing(path) as part:
        part.write_bytes(lzma.compress(codec.dumps(replace(study, claims=claims, laws=laws)).encode()))
    return path
