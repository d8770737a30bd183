"""Write docs/rules.md from the words of the doctor's rules: ``python docs/make_rules.py``."""

import argparse
import html
import re
from pathlib import Path

from xhat.doctor import RULES, SEVERITIES, Rule
from xhat.doctor.rule import NEEDS
from xhat.doctor.severities import DEFINITIONS

PAGE = Path(__file__).with_name("rules.md")

HEAD = """\
# The doctor's rules

<!-- Written by docs/make_rules.py from the source: do not edit. -->

`xhat explain CODE` shows the same in the terminal. [The doctor](doctor.md) says how to use them.
"""
CODE = re.compile(r"`[^`]+`")


def page() -> str:
    """Return the page."""
    parts = [HEAD, "## Severities\n", _definitions(), _table(), "## The rules, one by one\n"]
    return "\n".join([*parts, *map(_rule, RULES.values())]).rstrip() + "\n"


def _definitions() -> str:
    return "\n".join(f"- **{severity}**: {means}" for severity, means in DEFINITIONS.items()) + "\n"


def _table() -> str:
    rows = ["| rule | severity | what it means |", "|---|---|---|"]
    for code, severities in SEVERITIES.items():
        for severity, means in severities.items():
            rows.append(f"| {code} {RULES[code].name} | {severity} | {means} |")
    return "\n".join(rows) + "\n"


def _rule(rule: Rule) -> str:
    title, *paragraphs = rule.page
    needs = sorted({NEEDS[need] for need in rule.needs})
    body = "\n\n".join(_paragraph(part) for part in paragraphs)
    about = f"`{rule.name}`" + (f", {'; '.join(needs)}" if needs else "")
    return f"### {rule.code}\n\n{_escaped(title)} ({about}).\n\n{body}\n"


def _paragraph(part: str) -> str:
    if part.startswith("    "):
        return part
    head, colon, body = part.partition(":")
    bold = colon and head in ("Looked for", "Why it harms", "Source", "Remedy", "Repair")
    return f"**{head}:**{_escaped(body)}" if bold else _escaped(part)


def _escaped(text: str) -> str:
    """Return text whose signs Markdown leaves alone; what stands between backticks stays."""
    made, end = [], 0
    for code in CODE.finditer(text):
        made += [_signs(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*made, _signs(text[end:])])


def _signs(text: str) -> str:
    return re.sub(r"([*_\[\]])", r"\\\1", html.escape(text, quote=False))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
