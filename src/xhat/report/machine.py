"""A diagnosis for other programs: JSON of our own, and SARIF 2.1.0, which code hosts and editors read."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import xhat
from xhat.doctor import RULES, SEVERITIES, Diagnosis, Rule, Severity
from xhat.report._diagnosis import counts

# Is raised when a field changes its meaning or goes away; new fields do not raise it.
JSON_VERSION = 1
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.info: "note", Severity.warning: "warning", Severity.error: "error"}


def to_json(diagnosis: Diagnosis, *, model: str = "") -> dict[str, Any]:
    """Return a diagnosis as plain dicts and lists; numbers that are not finite are None.

    Args:
        diagnosis: What was found.
        model: What the model is called, as ``module:callable``.
    """
    return {
        "version": JSON_VERSION,
        "xhat": xhat.__version__,
        "model": model,
        "batch_norms": diagnosis.batch_norms,
        "batches": diagnosis.batches,
        "counts": counts(diagnosis),
        "findings": [
            {
                "code": finding.code,
                "name": RULES[finding.code].name,
                "severity": finding.severity.value,
                "module": finding.module,
                "message": str(finding.message),
                "evidence": _plain(finding.evidence),
                "remedy": str(finding.remedy),
                "repairable": finding.repairable,
            }
            for finding in diagnosis.findings
        ],
        "skipped": [{"code": skipped.code, "reason": str(skipped.reason)} for skipped in diagnosis.skipped],
        "notes": [str(note) for note in diagnosis.notes],
    }


def to_sarif(diagnosis: Diagnosis, *, model: str = "") -> dict[str, Any]:
    """Return a diagnosis as a SARIF 2.1.0 log; modules are logical locations, since weights have no lines.

    Args:
        diagnosis: What was found.
        model: What the model is called, as ``module:callable``.
    """
    places = {code: place for place, code in enumerate(RULES)}
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": places[finding.code],
            "level": _LEVELS[finding.severity],
            "message": {"text": f"{finding.module or model or 'model'}: {finding.message}. {finding.remedy}"},
            "locations": [{"logicalLocations": [_location(finding.module, model)]}],
            "partialFingerprints": {"finding/v1": _fingerprint(model, finding.code, finding.module)},
            "properties": {"evidence": _plain(finding.evidence), "repairable": finding.repairable},
        }
        for finding in diagnosis.findings
    ]
    notifications = [
        {
            "level": "note",
            "message": {"text": f"not applied: {skipped.reason}"},
            "associatedRule": {"id": skipped.code},
        }
        for skipped in diagnosis.skipped
    ]
    notifications += [{"level": "note", "message": {"text": str(note)}} for note in diagnosis.notes]
    driver = {"name": "xhat", "version": xhat.__version__, "rules": [_rule(rule) for rule in RULES.values()]}
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notifications}],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    return {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    title, *paragraphs = rule.page
    worst = max(SEVERITIES[rule.code], key=lambda severity: severity.rank)
    body = "\n\n".join(paragraphs)
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": f"{title}."},
        "fullDescription": {"text": paragraphs[0]},
        "help": {"text": body, "markdown": body},
        "defaultConfiguration": {"level": _LEVELS[worst]},
    }


def _location(module: str, model: str) -> dict[str, str]:
    name = module or model or "model"
    return {"name": name.rpartition(".")[2], "fullyQualifiedName": name, "kind": "module"}


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)
