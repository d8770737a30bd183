"""Write docs/claims.md from the words of the claims and laws: ``python docs/make_claims.py``."""

import html
import inspect
from pathlib import Path

from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS
from xhat.study.result import ClaimText

PAGE = Path(__file__).with_name("claims.md")

HEAD = """\
# Claims and laws

<!-- Written by docs/make_claims.py from the source: do not edit. -->

`xhat explain NAME` shows the same in the terminal. [The study](study.md) says how verdicts are drawn. The
words stand in the source beside the code that measures. The thresholds were written before the first run; what else
of a protocol was changed after it stands under each claim.

[S] is Santurkar, Tsipras, Ilyas, Madry 2018, arXiv 1805.11604; [IS] is Ioffe, Szegedy 2015, arXiv
1502.03167. “The notes” are lecture notes on BN in Chinese, after shine-lee's post “Batch Normalization详解”.
"""


def page() -> str:
    """Return the page."""
    claims = [_claim(claim.text, takes=claim.takes_networks) for claim in CLAIMS.values()]
    laws = [_law(name, inspect.getmodule(check).__doc__ or "") for name, check in LAWS.items()]
    return "\n".join([HEAD, "## Claims\n", *claims, "## Laws\n", LAWS_ARE, *laws]).rstrip() + "\n"


LAWS_ARE = "Exact statements, each checked in float64 against torch's own BN.\n"


def _claim(text: ClaimText, *, takes: bool) -> str:
    parts = {
        "The notes say": text.says,
        "Measured here": text.measured,
        "Verdict": text.threshold,
        "Does not show": text.does_not_show,
        "Source": text.source,
        "Expected there": text.expected,
        "Changed after a first run": text.changes or "Nothing.",
        "Expected cost on 2 cores": text.cost,
        "Your own network": "yes, with `--model` and `--data`" if takes else "no",
    }
    words = "\n\n".join(f"**{head}:** {html.escape(body, quote=False)}" for head, body in parts.items())
    return f"### {text.id}\n\n{text.title}\n\n{words}\n"


def _law(name: str, docstring: str) -> str:
    title, _, body = inspect.cleandoc(docstring).partition("\n")
    title = html.escape(title.removeprefix("Law: "), quote=False)
    # The formulas stand on lines of their own.
    if title[:2].isascii():  # γ and dγ keep their case
        title = title[0].upper() + title[1:]
    return f"### {name}\n\n{title}\n\n```text\n{body.strip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
