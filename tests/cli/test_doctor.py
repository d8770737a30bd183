"""``xhat doctor``: every format, exit codes, repairs, and what goes wrong."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from xhat.doctor import RULES

from .running import running
from .test_commands import Said

NETWORK = """
import math
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 4),
    )
    for x in batches() * 10:
        net(x)
    return net.eval()


def sick():
    net = model()
    net[1].running_mean[3] = math.nan
    net[4].momentum = 0.99
    return net


def new():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8))


def plain():
    return nn.Linear(3, 4)


def failing():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))


def batches():
    torch.manual_seed(1)
    return [torch.randn(64, 3) for _ in range(4)]


def once():
    yield from batches()


def interrupted():
    yield batches()[0]
    raise KeyboardInterrupt
"""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Run ``xhat doctor …`` with the network above, in an empty folder; ``net:`` stands for its module."""
    with running(NETWORK, tmp_path, monkeypatch, capsys, columns=80) as (name, run):
        yield lambda *words: run(*(str(word).replace("net:", f"{name}:") for word in words))


def test_text_tells_the_worst_first_and_what_was_not_looked_at(command):
    said = command("doctor", "net:sick", "--data", "net:batches")
    assert said.code == 1
    assert said.out.index("BN201") < said.out.index("BN106") < said.out.index("BN101")
    assert "in 1 of 8 channels: 3" in said.out
    assert "Not looked at (needs the optimizer): BN108" in said.out
    assert "2 batch norms, 4 batches: 1 error, 1 warning, 1 info" in said.out
    assert "`xhat explain BN201` says more." in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_without_data_weights_and_settings_are_looked_at(command):
    said = command("doctor", "net:sick")
    assert said.code == 1
    assert "BN201" in said.out
    assert "(needs batches): BN101, BN102" in said.out


@pytest.mark.parametrize(("fail_on", "code"), [("info", 1), ("warning", 0), ("error", 0), ("never", 0)])
def test_exit_code_of_a_healthy_model(command, fail_on, code):
    said = command("doctor", "net:model", "--data", "net:once", "--fail-on", fail_on)
    assert said.code == code
    assert "BN101" in said.out


@pytest.mark.parametrize(("fail_on", "code"), [("error", 1), ("never", 0)])
def test_exit_code_of_a_sick_one(command, fail_on, code):
    assert command("doctor", "net:sick", "--fail-on", fail_on).code == code


def test_json_is_what_programs_can_read(command):
    said = command("doctor", "net:sick", "--data", "net:batches", "--format", "json")
    made = json.loads(said.out)
    assert made["version"] == 1
    assert made["counts"] == {"error": 1, "warning": 1, "info": 1}
    assert [finding["code"] for finding in made["findings"]] == ["BN201", "BN106", "BN101"]
    assert made["findings"][1]["evidence"] == {"momentum": 0.99}
    assert made["findings"][0]["module"] == "1"
    assert {skipped["code"] for skipped in made["skipped"]} >= {"BN108"}
    assert said.code == 1


def test_json_into_a_file(command, tmp_path):
    said = command("doctor", "net:model", "--format", "json", "--out", tmp_path / "found.json")
    assert said.code == 0
    assert json.loads((tmp_path / "found.json").read_text())["batch_norms"] == 2
    assert said.out == ""
    assert not list(tmp_path.glob(".found*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "json", "--out", "no/found.json"], "there is no folder no"),
        (["--format", "html", "--out", "."], "a folder: name the file in it"),
        (["--fix", "no/new.safetensors"], "there is no folder no"),
    ],
)
def test_a_file_that_cannot_be_written_is_wrong_usage(command, tmp_path, options, message):
    said = command("doctor", "net:model", *options)
    assert said.code == 2
    assert message in said.err
    assert not (tmp_path / "no").exists()


def test_sarif_has_what_the_standard_requires(command):
    """SARIF 2.1.0: what its schema requires, and that what points somewhere points right."""
    made = json.loads(command("doctor", "net:sick", "--data", "net:batches", "--format", "sarif").out)
    assert made["version"] == "2.1.0"
    assert made["$schema"].endswith("sarif-2.1.0.json")
    (run,) = made["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "xhat"
    assert [rule["id"] for rule in driver["rules"]] == list(RULES)
    for rule in driver["rules"]:
        assert {*rule} <= {
            "id",
            "name",
            "shortDescription",
            "fullDescription",
            "help",
            "helpUri",
            "defaultConfiguration",
        }
        assert rule["name"].isalnum()
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        (place,) = result["locations"]
        (where,) = place["logicalLocations"]
        assert where["fullyQualifiedName"]
        assert all(isinstance(print_, str) for print_ in result["partialFingerprints"].values())
    (ran,) = run["invocations"]
    assert ran["executionSuccessful"] is True
    for told in ran["toolExecutionNotifications"]:
        assert told["message"]["text"]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_is_whole_and_fetches_nothing(command, tmp_path, lang):
    said = command("doctor", "net:sick", "--data", "net:batches", "--format", "html", "--lang", lang)
    page = (tmp_path / "xhat-doctor.html").read_text(encoding="utf-8")
    assert f'<html lang="{lang}">' in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "http" not in page.split("</style>")[1].replace("http-equiv", "")
    assert page.index("BN201") < page.index("BN106")
    assert page.count("<svg") == 2
    assert said.code == 1


def test_names_of_a_user_cannot_write_into_the_page():
    from torch import nn

    from xhat.doctor import diagnose
    from xhat.report.doctor_page import build_doctor_page

    model = nn.Sequential()
    model.add_module("<b>x", nn.BatchNorm1d(3, momentum=0.99))
    page = build_doctor_page(model, diagnose(model), name="<script>alert(1)</script>")
    assert "<b>x" not in page
    assert "<script" not in page


def test_fix_writes_repaired_statistics_and_shows_what_the_code_has_to_change(command, tmp_path):
    said = command("doctor", "net:sick", "--data", "net:once", "--fix", "mended.safetensors")
    state: dict[str, Any] = load_file(tmp_path / "mended.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert {"0.bias", "1.running_mean"} <= set(state)  # the bias is the code's to take away
    assert said.code == 1  # momentum stays
    told = " ".join(said.err.split())
    assert "1: statistics recalibrated on 4 batches" in told
    assert "In the code (BN106): Write momentum=0.01" in told
    assert "Findings before: 3, after: 2" in told


def test_fix_recalibrates_on_all_batches_and_limit_is_for_looking(command, tmp_path):
    for data in ("net:batches", "net:once"):
        said = command("doctor", "net:sick", "--data", data, "--limit", "1", "--fix", "mended.safetensors")
        assert "2 batch norms, 1 batch" in said.out
        assert "1: statistics recalibrated on 4 batches" in " ".join(said.err.split())


def test_a_refusal_of_the_whole_model_has_a_name(command):
    said = command("doctor", "net:new", "--fix", "mended.safetensors")
    assert "(model): BN203 has no repair by itself." in " ".join(said.err.split())
    assert not any(line.startswith(":") for line in said.err.splitlines())


def test_fix_without_batches_says_what_it_needs(command, tmp_path):
    said = command("doctor", "net:sick", "--fix", "mended.safetensors")
    assert not (tmp_path / "mended.safetensors").exists()
    assert "batches=" in said.err
    assert "Nothing to write" in said.err


def test_fixed_weights_are_healthy(command, tmp_path):
    command("doctor", "net:sick", "--data", "net:batches", "--fix", "mended.safetensors")
    said = command("doctor", "net:model", "--weights", "mended.safetensors", "--data", "net:batches")
    assert said.code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("net:sick", "--fix", "weights.pt"), 2, "weights.safetensors"),
        (("net:sick", "--out", "x.txt"), 2, "--format json"),
        (("net:sick", "--format", "xml"), 2, "xml"),
        (("net:nothing",), 2, "nothing"),
        (("net:failing", "--data", "net:batches"), 1, "evaluation mode"),
        (("net:model", "--data", "net:interrupted"), 130, "Stopped."),
    ],
)
def test_errors(command, words, code, message):
    said = command("doctor", *words)
    assert said.code == code
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_model_without_batch_norm_is_fine(command):
    said = command("doctor", "net:plain")
    assert said.code == 0
    assert "The model has no batch norm." in said.out


@pytest.mark.parametrize("name", ["BN203", "bn203"])
def test_explain_prints_a_rule_s_page(command, name):
    said = command("explain", name)
    assert said.code == 0
    told = " ".join(said.out.split())
    for part in RULES["BN203"].page:
        assert " ".join(part.split()) in told
    assert "error: Evaluation mode does not normalise at all." in told


def test_the_catalogue_lists_the_rules(command):
    said = command("explain")
    assert all(code in said.out for code in RULES)


def test_an_unknown_rule_is_told_with_its_neighbours(command):
    said = command("explain", "BN999")
    assert said.code == 2
    assert "BN" in said.err
