from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from xhat.errors import DataError, ModelError, StoreError, UsageError
from xhat.study import run
from xhat.study.claims import CLAIMS
from xhat.study.result import ClaimResult, LawResult, Study
from xhat.study.store import Store

from .users import DATA, NETWORK

ASKED = ("larger-lr", "diverging-distributions", "lipschitz", "standardise")


class Here(Executor):
    """Does a task when it is handed in, in this process, and counts."""

    def __init__(self) -> None:
        self.done = 0

    def submit(self, work: Callable, /, *args, **kwargs) -> Future:
        self.done += 1
        future: Future = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Heard:
    """What a listener was told."""

    planned_: dict[str, float] = field(default_factory=dict)
    progressed_: dict[str, float] = field(default_factory=dict)
    finished_: dict[str, ClaimResult | LawResult] = field(default_factory=dict)

    def planned(self, name: str, cost: float) -> None:
        self.planned_[name] = cost

    def progressed(self, name: str, done: float) -> None:
        self.progressed_[name] = done

    def finished(self, name: str, result: ClaimResult | LawResult) -> None:
        assert name not in self.finished_
        self.finished_[name] = result


@dataclass
class Finished:
    folder: Path
    study: Study
    heard: Heard
    runs: int

    def again(self, **asked) -> tuple[Study, int]:
        """Run the same study again; return it and how many runs it did."""
        here = Here()
        return run("smoke", claims=ASKED, seeds=3, out=self.folder, executor=here, **asked), here.done


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, here, heard = tmp_path_factory.mktemp("study") / "deep" / "runs", Here(), Heard()
    study = run("smoke", claims=ASKED, seeds=3, out=folder, executor=here, listener=heard)
    return Finished(folder, study, heard, here.done)


def numbers(study: Study) -> str:
    """All that a study found, without when it was and the time it took."""
    claims = tuple(replace(c, seconds=0.0) for c in study.claims)
    timeless = replace(
        study, started="", seconds=0.0, measured_from="", measured_to="", work=0.0, claims=claims
    )
    return repr(timeless)


def test_a_study_has_what_was_asked(finished):
    study = finished.study
    assert [claim.text.id for claim in study.claims] == list(ASKED[:2])
    assert [law.id for law in study.laws] == list(ASKED[2:])
    assert all(law.passed for law in study.laws)
    assert (study.unfinished, study.problems) == ((), ())
    assert (study.preset, study.subject) == ("smoke", "")
    assert study.seconds > 0
    assert study.environment.torch
    assert all(claim.seconds > 0 and claim.figures for claim in study.claims)


def test_a_smoke_run_decides_nothing(finished):
    for claim in finished.study.claims:
        assert claim.verdict == "inconclusive"
        assert {effect.verdict for effect in claim.effects} == {"inconclusive"}
        assert "too small to decide anything" in claim.found[0]


def test_the_store_has_the_study_and_its_runs(finished):
    store = Store(finished.folder)
    assert repr(store.get_study()) == repr(finished.study)
    assert len(store.keys()) == finished.runs
    used = {key for claim in finished.study.claims for key in claim.runs}
    assert used <= set(store.keys())
    assert len(store.keys()) == len(used) + 2  # and the laws


def test_a_runs_record_says_what_it_is(finished):
    kinds = {run_.key: run_.record["spec"]["kind"] for run_ in Store(finished.folder).runs()}
    assert sorted(kinds.values()).count("law") == 2
    assert all(run_.record["seconds"] >= 0 for run_ in Store(finished.folder).runs())


def test_claims_share_runs(finished):
    larger, diverging = (set(claim.runs) for claim in finished.study.claims)
    assert len(larger & diverging) == 2  # the grids without and with BN


def test_the_listener_is_told(finished):
    heard = finished.heard
    assert set(heard.planned_) == {"laws", *ASKED[:2]}
    assert set(heard.finished_) == set(ASKED)
    for name, cost in heard.planned_.items():
        assert heard.progressed_[name] == pytest.approx(cost)
    assert heard.finished_["larger-lr"] == finished.study.claims[0]


def test_a_finished_study_costs_nothing(finished):
    study, runs = finished.again()
    assert runs == 0
    assert numbers(study) == numbers(finished.study)


def test_a_part_of_a_finished_study_costs_nothing(finished):
    here = Here()
    study = run("smoke", claims=["diverging-*"], seeds=3, out=finished.folder, executor=here)
    assert here.done == 0
    assert numbers(replace(study, asked="")) == numbers(
        replace(finished.study, asked="", claims=finished.study.claims[1:], laws=())
    )


def test_other_seeds_are_other_runs_and_single_networks_are_kept(finished):
    here = Here()
    run("smoke", claims=["larger-lr"], seeds=4, out=finished.folder, executor=here)
    assert 0 < here.done < finished.runs


def test_damaged_runs_are_done_again_with_the_same_numbers(finished, caplog):
    store = Store(finished.folder)
    keys = [finished.study.claims[0].runs[0], finished.study.claims[1].runs[-1]]
    before = {key: store.get(key).arrays for key in keys}
    (store.folder / "runs" / keys[0] / "arrays.npz").write_bytes(b"damaged")
    (store.folder / "runs" / keys[1] / "record.json").unlink()
    study, runs = finished.again()
    assert runs == 2
    assert numbers(study) == numbers(finished.study)
    assert [message.split()[1].rstrip(":") for message in caplog.messages] == keys
    for key, arrays in before.items():
        again = store.get(key).arrays
        assert all(again[name].tobytes() == array.tobytes() for name, array in arrays.items())


# --- studies that go wrong


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"preset": "smok"}, "Did you mean smoke?"),
        ({"claims": ["larger-lt"]}, "Did you mean larger-lr?"),
        ({"data": "digit"}, "Did you mean digits?"),
        ({"model": "net:make"}, "go together"),
    ],
)
def test_wrong_usage_makes_no_folder(tmp_path, asked, words):
    with pytest.raises(UsageError) as caught:
        run(**asked, out=tmp_path / "out", executor=Here())
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StoreError, match="cannot be used"):
        run("smoke", claims=["lipschitz"], out=tmp_path / "out", executor=Here())


FAILS_WITH_BN = """

class Tired(nn.Sequential):
    def forward(self, x):
        self.passes = getattr(self, "passes", 0) + 1
        if self.passes > 5:
            raise RuntimeError("too tired")
        return super().forward(x)


def tires(norm):
    return Tired(*make_model(norm)) if norm == "batch" else make_model(norm)


def too_wide(norm):
    return nn.Sequential(nn.Flatten(), nn.Linear(65, 10), *[nn.BatchNorm1d(10)] * (norm == "batch"))
"""


def users_study(write_module, folder: Path, model: str, **asked) -> Study:
    name = write_module(NETWORK + DATA + FAILS_WITH_BN)
    return run(
        "smoke",
        model=f"{name}:{model}",
        data=f"{name}:make_data",
        out=folder / "out",
        folder=folder,
        executor=Here(),
        **asked,
    )


def test_a_users_network(write_module, tmp_path):
    study = users_study(write_module, tmp_path, "make_model")
    assert [claim.text.id for claim in study.claims] == [n for n, c in CLAIMS.items() if c.takes_networks]
    assert study.problems == ()
    assert study.subject.endswith(":make_data")
    assert repr(Store(tmp_path / "out").get_study()) == repr(study)


def test_a_run_that_fails_leaves_its_claim_unfinished_and_the_others_go_on(write_module, tmp_path, caplog):
    study = users_study(write_module, tmp_path, "tires", claims=["larger-lr", "lipschitz"])
    assert study.claims == ()
    assert study.unfinished == ("larger-lr",)
    assert [law.id for law in study.laws] == ["lipschitz"]
    assert study.problems
    assert all("of larger-lr failed: RuntimeError: too tired" in problem for problem in study.problems)
    assert repr(Store(tmp_path / "out").get_study()) == repr(study)
    assert "too tired" in caplog.text


def test_a_network_that_does_not_fit_ends_the_study(write_module, tmp_path):
    with pytest.raises(ModelError, match=r"input of shape \(\d+, 1, 8, 8\)"):
        users_study(write_module, tmp_path, "too_wide")


def test_too_little_data_end_the_study(write_module, tmp_path):
    name = write_module(NETWORK + DATA.replace("120", "30"))
    with pytest.raises(DataError, match="24 training samples; a batch of 32 does not fit"):
        run(
            "smoke",
            model=f"{name}:make_model",
            data=f"{name}:make_data",
            out=tmp_path / "out",
            folder=tmp_path,
            executor=Here(),
        )


def test_a_store_that_fails_ends_the_study_and_keeps_what_was_done(tmp_path, monkeypatch):
    put, kept = Store.put, []

    def full_after_two(self, key, record, arrays):
        if len(kept) == 2:
            raise StoreError("the disk is full")
        kept.append(key)
        put(self, key, record, arrays)

    monkeypatch.setattr(Store, "put", full_after_two)
    laws = ["lipschitz", "standardise", "curvature", "gradients"]
    with pytest.raises(StoreError, match="full"):
        run("smoke", claims=laws, out=tmp_path, executor=Here())
    assert sorted(Store(tmp_path).keys()) == sorted(kept)
    monkeypatch.undo()
    here = Here()
    assert len(run("smoke", claims=laws, out=tmp_path, executor=here).laws) == 4
    assert here.done == 2


def test_our_networks_take_other_data(tmp_path):
    here = Here()
    study = run("smoke", claims=["init-insensitive"], data="digits", out=tmp_path, executor=here)
    assert study.problems == ()
    assert {run_.record["spec"]["data"]["name"] for run_ in Store(tmp_path).runs()} == {"digits"}
