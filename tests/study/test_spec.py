import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from xhat.study import codec
from xhat.study import spec as module
from xhat.study.measures import Evaluate
from xhat.study.spec import (
    Data,
    LawSpec,
    Member,
    Network,
    Probe,
    Record,
    TrainSpec,
    describe,
    run_key,
    source_digest,
)

SPEC = TrainSpec(
    Network("mlp", "batch", (("depth", 2),)),
    Data("digits", 100, 50, 2),
    (Member(0, 0.1), Member(1, 0.1)),
    steps=10,
    batch_size=8,
    probe=Probe((0,), (0.5, 1.0)),
    record=Record((0, 5), 16, ("hidden.0.0",)),
)
LAW = LawSpec("lipschitz")

# Every field of every part, with another value.
OTHERS = {
    TrainSpec: {
        "network": Network("vgg"),
        "data": Data("digits"),
        "members": (Member(0, 0.1),),
        "steps": 11,
        "batch_size": 9,
        "momentum": 0.9,
        "probe": None,
        "record": None,
        "measures": (Evaluate((0,)),),
        "gradients": True,
        "threads": 2,
        "device": "cuda",
    },
    Network: {"name": "vgg", "norm": "none", "options": (("depth", 3),)},
    Data: {"name": "fashion-mnist", "train": 99, "test": None, "pool": 1, "raw": True},
    Member: {"seed": 2, "lr": 0.2, "init": "xavier", "scale": 2.0, "decay": 0.1, "output_scale": 3.0},
    Probe: {"at": (0, 1), "ratios": (0.5,)},
    Record: {"at": (0,), "batch": 17, "layers": None},
    LawSpec: {"law": "curvature", "seed": 1, "threads": 2},
}


def with_part(part: object) -> TrainSpec | LawSpec:
    """The spec with one of its parts replaced."""
    match part:
        case TrainSpec() | LawSpec():
            return part
        case Network():
            return replace(SPEC, network=part)
        case Data():
            return replace(SPEC, data=part)
        case Member():
            return replace(SPEC, members=(part, SPEC.members[1]))
        case Probe():
            return replace(SPEC, probe=part)
        case _:
            return replace(SPEC, record=part)


PARTS = (SPEC, SPEC.network, SPEC.data, SPEC.members[0], SPEC.probe, SPEC.record, LAW)
CHANGES = [
    pytest.param(
        with_part(part), with_part(replace(part, **{name: value})), id=f"{type(part).__name__}.{name}"
    )
    for part in PARTS
    for name, value in OTHERS[type(part)].items()
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_every_field_enters_the_key(before, after):
    assert run_key(before) != run_key(after)


def test_the_table_above_knows_every_field():
    for kind, others in OTHERS.items():
        assert set(others) == {field.name for field in fields(kind)}


def test_keys_are_short_names_that_any_file_system_takes():
    assert re.fullmatch(r"[0-9a-f]{20}", run_key(SPEC))
    assert run_key(SPEC) == run_key(replace(SPEC))


def test_the_order_of_members_enters_the_key():
    assert run_key(SPEC) != run_key(replace(SPEC, members=SPEC.members[::-1]))


def test_digests_and_their_order_enter_the_key():
    keys = {
        run_key(SPEC, digests=digests) for digests in ((), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",))
    }
    assert len(keys) == 6


def test_torch_and_the_source_enter_the_key(monkeypatch):
    before = run_key(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        other_torch = run_key(SPEC)
    monkeypatch.setattr(module, "source_digest", lambda: "mended")
    assert len({before, other_torch, run_key(SPEC)}) == 3


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """A copy of xhat's source, of which the digest is taken."""
    package = tmp_path / "xhat"
    shutil.copytree(Path(module.xhat.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module.xhat, "__file__", str(package / "__init__.py"))
    return package


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        ("study/train.py", True),
        ("study/measures/evaluate.py", True),
        ("study/scene.py", True),
        ("study/tasks.py", True),
        ("study/networks.py", True),
        ("study/spec.py", True),
        ("landscape/_walk.py", True),
        ("data/__init__.py", True),
        ("study/laws/lipschitz.py", True),
        ("study/claims/larger_lr.py", False),
        ("study/verdict.py", False),
        ("study/claims/_tuned.py", False),
        ("study/cost.py", False),
        ("study/subjects.py", False),
        ("lang/__init__.py", False),
        ("models/mlp.py", True),
        ("reference.py", True),
        ("report/build.py", False),
        ("report/templates/page.css", False),
        ("cli/main.py", False),
    ],
)
def test_a_change_in_the_source_counts_unless_it_only_asks_judges_or_shows(copied, place, counts):
    digest = source_digest.__wrapped__
    before = digest()
    with (copied / place).open("a") as file:
        file.write("\n# mended\n")
    assert (digest() != before) == counts


def test_a_renamed_module_counts(copied):
    digest = source_digest.__wrapped__
    before = digest()
    (copied / "memory.py").rename(copied / "memories.py")
    assert digest() != before


def test_keys_are_the_same_in_another_process():
    code = (
        "from tests.study.test_spec import SPEC, LAW\nfrom xhat.study.spec import run_key\n"
        "print(run_key(SPEC, digests=('a',)), run_key(LAW))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split() == [run_key(SPEC, digests=("a",)), run_key(LAW)]


def test_a_description_is_plain_data():
    described = describe(SPEC)
    assert described["kind"] == "train"
    assert describe(LAW)["kind"] == "law"
    assert json.loads(codec.dumps(described))["members"][1] == {
        "seed": 1,
        "lr": 0.1,
        "init": "he",
        "scale": 1.0,
        "decay": 0.0,
        "output_scale": None,
    }


@pytest.mark.parametrize(
    ("name", "is_one"), [("mlp", True), ("deep-linear", True), ("vgg", False), ("a:b", False)]
)
def test_what_trains_as_an_ensemble(name, is_one):
    assert Network(name).is_ensemble == is_one


def test_every_name_that_the_key_leaves_out_exists():
    root = Path(module.xhat.__file__).parent
    assert all((root / name).exists() for name in module.NOT_MEASURING)


def test_what_trains_is_kept_from_importing_what_the_key_leaves_out():
    """But the store's types and words, which decide no number."""
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (contract,) = [c for c in settings["tool"]["importlinter"]["contracts"] if "NOT_MEASURING" in c["name"]]
    forbidden = {name.removeprefix("xhat.").replace(".", "/") for name in contract["forbidden_modules"]}
    left_out = {name.removesuffix(".py") for name in module.NOT_MEASURING if name.startswith("study/")}
    types = {f"study/{name}" for name in ("codec", "environment", "result", "store")}
    assert forbidden == left_out - types
