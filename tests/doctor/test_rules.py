"""Every rule has its severity, its page and its name."""

import re

import pytest

from xhat.doctor.finding import Severity
from xhat.doctor.rule import NEEDS, found
from xhat.doctor.rules import RULES
from xhat.doctor.severities import DEFINITIONS, SEVERITIES


def test_the_table_of_severities_is_the_registry():
    assert set(SEVERITIES) == set(RULES)
    assert set(DEFINITIONS) == set(Severity)
    assert list(RULES) == sorted(RULES)


@pytest.mark.parametrize("code", RULES)
def test_a_rule_says_what_it_is(code):
    rule = RULES[code]
    assert re.fullmatch(r"BN[1-5]\d\d", code)
    assert rule.code == code
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
    assert set(rule.needs) <= set(NEEDS)
    assert set(rule.explained_by) <= set(RULES)
    title, *paragraphs = rule.page
    assert title
    assert not title.endswith(".")
    assert [
        head
        for head in ("Looked for", "Why it harms: ", "Source: ", "Remedy: ", "Repair: ")
        if not any(part.startswith(head) for part in paragraphs)
    ] == []


@pytest.mark.parametrize("code", RULES)
def test_severities_are_told_mildest_first(code):
    ranks = [severity.rank for severity in SEVERITIES[code]]
    assert ranks == sorted(ranks)
    assert all(SEVERITIES[code].values())


def test_a_finding_cannot_have_a_severity_that_the_table_does_not_have():
    with pytest.raises(ValueError, match="BN106 has severities warning, not error"):
        found("BN106", "bn", "m", evidence={}, remedy="r", severity=Severity.error)
    with pytest.raises(ValueError, match="BN205"):
        found("BN205", "bn", "m", evidence={}, remedy="r")
