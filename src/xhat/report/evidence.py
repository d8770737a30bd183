"""The measured ``full`` run that xhat ships, so that a small run's verdicts can be held against larger ones."""

import lzma
from functools import lru_cache
from pathlib import Path

from xhat.errors import UsageError
from xhat.files import replacing
from xhat.study import codec
from xhat.study.result import Study

SHIPPED = Path(__file__).parent / "evidence" / "full.json.xz"


@lru_cache
def shipped() -> Study | None:
    """Return the shipped study of preset ``full``, or ``None`` if none was measured yet."""
    return read_shipped(SHIPPED.read_bytes()) if SHIPPED.is_file() else None


def read_shipped(content: bytes) -> Study:
    """Return the study that ``write_shipped`` wrote.

    Raises:
        ValueError: it holds something else.
        lzma.LZMAError: it is no such file, or damaged.
    """
    return codec.loads(lzma.decompress(content).decode(), Study)


def write_shipped(study: Study, path: str | Path) -> Path:
    """Write a study as the shipped one: the same study gives the same bytes.

    Raises:
        UsageError: the study is not a whole ``full`` run of xhat's own networks and data.
    """
    if study.preset != "full" or study.subject or study.unfinished or not study.claims:
        raise UsageError(
            f"a study of preset {study.preset} on {study.subject or 'xhat’s own networks'} with "
            f"{len(study.claims)} claims done and {len(study.unfinished)} names open is no evidence to ship: "
            "it takes a whole `xhat study --preset full`"
        )
    path = Path(path)
    with replacing(path) as part:
        part.write_bytes(lzma.compress(codec.dumps(study).encode(), preset=9))
    return path
