import sys

import pytest

from xhat.errors import DataError, ModelError, UsageError
from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS
from xhat.study.plan import Plan, make_plan
from xhat.study.spec import Data, LawSpec, Member, Network, TrainSpec

from .users import DATA, NETWORK


def plan(preset: str = "smoke", **asked) -> Plan:
    nothing = dict.fromkeys(("claims", "model", "data", "seeds", "steps", "folder"))
    return make_plan(preset, **{**nothing, **asked})


@pytest.mark.parametrize(
    ("asked", "claims", "laws"),
    [
        (None, list(CLAIMS), list(LAWS)),
        (["larger-lr"], ["larger-lr"], []),
        ("larger-lr", ["larger-lr"], []),
        (["*-lr", "lip*"], ["larger-lr"], ["lipschitz"]),
        (["lipschitz", "larger-lr", "lipschitz"], ["larger-lr"], ["lipschitz"]),
        (iter(["curvature"]), [], ["curvature"]),
        (["*"], list(CLAIMS), list(LAWS)),
    ],
)
def test_claims_and_laws_are_chosen_by_name_and_pattern(asked, claims, laws):
    found = plan(claims=asked)
    assert [claim.text.id for claim in found.claims] == claims
    assert list(found.laws) == laws


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"preset": "quik"}, "unknown preset 'quik'. Did you mean quick?"),
        ({"preset": "nightly"}, "There are: full, paper, quick, smoke."),
        ({"claims": ["larger-rl"]}, "unknown claim or law 'larger-rl'. Did you mean larger-lr?"),
        ({"claims": ["lipshitz"]}, "Did you mean lipschitz?"),
        ({"claims": [""]}, "unknown claim or law ''"),
        ({"data": "fashion-mnits"}, "unknown data 'fashion-mnits'. Did you mean fashion-mnist?"),
        ({"seeds": 2}, "2 seeds decide nothing; ask for 3 at least"),
        ({"steps": 9}, "9 steps train nothing; ask for 10 at least"),
        ({"steps": 9, "model": "a:b", "data": "digits"}, "10 at least"),
        ({"device": "gpu"}, "unknown device 'gpu'. Did you mean cpu?"),
        ({"model": "net:make"}, "--model and --data go together"),
        ({"preset": "paper"}, "--data cifar10:FOLDER"),
        ({"preset": "paper", "data": "digits"}, "--data cifar10:FOLDER"),
        (
            {"model": "net:make", "data": "digits", "claims": ["deep-saturating"]},
            "takes no --model. These claims do: ",
        ),
        ({"data": "net"}, "There are: "),
    ],
)
def test_what_does_not_exist_or_fit_is_told_before_any_work(asked, words):
    with pytest.raises(UsageError) as caught:
        plan(**asked)
    assert words in str(caught.value)


def test_data_and_network_are_loaded_before_any_work(write_module, tmp_path):
    good, broken = write_module(NETWORK + DATA), write_module("1 / 0")
    with pytest.raises(DataError, match="cifar"):
        plan("paper", data="cifar10:nowhere", folder=tmp_path)
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        plan(model=f"{good}:make_model", data=f"{broken}:data", folder=tmp_path)
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        plan(model=f"{broken}:model", data=f"{good}:make_data", folder=tmp_path)


def test_a_users_network_takes_the_claims_that_can(write_module, tmp_path):
    name = write_module(NETWORK + DATA)
    found = plan(model=f"{name}:make_model", data=f"{name}:make_data", folder=tmp_path, seeds=5, steps=33)
    assert [c.text.id for c in found.claims] == [n for n, c in CLAIMS.items() if c.takes_networks]
    assert found.laws == ()
    assert found.subject == f"{name}:make_model on {name}:make_data"
    assert (found.context.seeds, found.context.steps, found.context.data) == (5, 33, None)


def test_callables_go_by_their_name(write_module, tmp_path):
    name = write_module(NETWORK + DATA)
    plan(data=f"{name}:make_data", folder=tmp_path)
    module = sys.modules[name]
    found = plan(model=module.make_model, data=module.make_data, folder=tmp_path)
    assert found.subject == f"{name}:make_model on {name}:make_data"


def in_main() -> None: ...


in_main.__module__ = "__main__"


@pytest.mark.parametrize("model", [lambda norm: None, in_main])
def test_callables_that_workers_cannot_find(model):
    with pytest.raises(UsageError, match="cannot be found by worker processes"):
        plan(model=model, data="digits")


def test_what_was_asked_in_words():
    assert plan(claims=["larger-lr", "lipschitz"]).asked == "Do these hold: larger-lr, lipschitz?"
    assert plan().asked == f"Do these hold: {len(CLAIMS)} claims of the notes, {len(LAWS)} laws?"


# --- keys


def test_data_enter_the_key_by_their_content_and_a_network_by_its_source(write_module, tmp_path):
    one, same, other = (write_module(NETWORK + DATA + extra) for extra in ("", "", "# another line\n"))
    data = write_module(DATA)
    louder = write_module(DATA.replace("0.3", "0.4"))
    here = plan(data=f"{data}:make_data", folder=tmp_path)

    def key(network: str, data: str) -> str:
        return here.key(TrainSpec(Network(network), Data(data), (Member(0, 0.1),), 10, 8))

    before = key(f"{one}:make_model", f"{data}:make_data")
    assert key(f"{one}:make_model", f"{data}:make_data") == before
    assert key(f"{one}:make_model", f"{louder}:make_data") != before
    assert key(f"{same}:make_model", f"{data}:make_data") != before  # another name
    assert key("mlp", "digits") != key("mlp", "fashion-mnist")
    file = tmp_path / f"{one}.py"
    file.write_text(file.read_text() + "# mended\n")
    assert key(f"{one}:make_model", f"{data}:make_data") != before
    assert other


def test_the_deep_linear_network_and_laws_need_no_data():
    here = plan()
    assert here.key(LawSpec("lipschitz")) != here.key(LawSpec("curvature"))
    assert here.key(TrainSpec(Network("deep-linear"), Data("gaussian"), (Member(0, 0.1),), 10, 8))


def test_a_network_that_ignores_norm_is_refused(tmp_path):
    (tmp_path / "same_net.py").write_text(
        "from torch import nn\ndef make_model(norm):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    with pytest.raises(ModelError, match="same network for 'batch' and for 'none'"):
        plan(model="same_net:make_model", data="digits", folder=tmp_path)


def test_a_network_is_named_with_a_colon(tmp_path):
    with pytest.raises(UsageError, match="write module:callable"):
        plan(model="mlp", data="digits", folder=tmp_path)
