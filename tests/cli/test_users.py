"""The model, weights and batches of a user, as commands load them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xhat.cli._users import load_batches, load_model
from xhat.cli._weights import load_weights_, save_weights
from xhat.errors import DataError, ModelError, UsageError

from ..study.users import module_writer


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.chdir(tmp_path)
    return module_writer(tmp_path, monkeypatch)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained() -> nn.Module:
    model = net()
    for tensor in model.state_dict().values():
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 1)
    return model


# --- models


def test_a_model(write):
    name = write("from torch import nn\nmodel = lambda: nn.Linear(2, 3)")
    assert isinstance(load_model(f"{name}:model"), nn.Linear)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def model(): return 3", "returned a int; a network is needed"),
        ("def model(size): pass", "called without arguments(.|\n)*missing 1 required positional"),
        ("def model(): raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_model_that_is_none(write, source, message):
    with pytest.raises(ModelError, match=message):
        load_model(f"{write(source)}:model")


# --- weights


KINDS: dict[str, Callable[[dict, Path], None]] = {
    "plain": lambda state, path: torch.save(state, path),
    "state_dict": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "model": lambda state, path: torch.save({"model": state, "lr": 0.1}, path),
    "ddp": lambda state, path: torch.save({f"module.{key}": value for key, value in state.items()}, path),
    "ddp-compiled": lambda state, path: torch.save(
        {"model_state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}}, path
    ),
    "safetensors": lambda state, path: save_file(state, path),
    "half": lambda state, path: torch.save({key: value.half() for key, value in state.items()}, path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights(kind, tmp_path):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    KINDS[kind](dict(trained().state_dict()), path)
    model = net()
    load_weights_(model, path)
    torch.testing.assert_close(model.state_dict(), trained().state_dict(), rtol=0, atol=0)


def test_a_models_own_prefix_stays(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights_(nn.ModuleDict({"module": nn.Linear(2, 2)}), tmp_path / "w.pt")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = self.one


def test_tied_weights_come_back(tmp_path):
    saved, loaded = Tied(), Tied()
    save_weights(saved, tmp_path / "new folder" / "w.safetensors")
    assert {*load_file(tmp_path / "new folder" / "w.safetensors")} == {*saved.state_dict()}
    load_weights_(loaded, tmp_path / "new folder" / "w.safetensors")
    assert torch.equal(saved.one.weight, loaded.two.weight)
    save_file(
        {key: value for key, value in saved.state_dict().items() if "one" in key},
        tmp_path / "half.safetensors",
    )
    load_weights_(Tied(), tmp_path / "half.safetensors")  # as safetensors' save_model leaves the doubles out


WRONG: dict[str, tuple[Callable[[dict], object], str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if "0." not in k}, r"0\.weight, 0\.bias missing"),
    "unexpected": (lambda s: {**s, "head.bias": torch.ones(1)}, r"head\.bias not in the model"),
    "shape": (lambda s: {**s, "2.bias": torch.ones(7)}, r"2\.bias is \(7,\), needed is \(2,\)"),
    "many": (lambda s: {f"x.{i}": torch.ones(1) for i in range(9)}, "and 4 more"),
    "tensor": (lambda s: torch.ones(3), "no state_dict"),
    "numbers": (lambda s: {"epoch": 3}, "no state_dict"),
    "pickle": (lambda s: net(), "holds more than weights, as a whole pickled network"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit(make, message, tmp_path):
    torch.save(make(dict(trained().state_dict())), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        load_weights_(net(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_that_is_damaged_or_not_there(name, tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        load_weights_(net(), tmp_path / name)
    (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="no weights file, or a damaged one"):
        load_weights_(net(), tmp_path / name)


def test_which_part_of_a_checkpoint_was_taken(tmp_path):
    state = {f"module.{key}": value for key, value in trained().state_dict().items()}
    torch.save({"model": state, "ema": {}, "epoch": 3}, tmp_path / "w.pt")
    notes = load_weights_(net(), tmp_path / "w.pt")
    assert [str(note) for note in notes] == [
        f"weights are those under “model” in {tmp_path / 'w.pt'}",
        "left aside: ema",
        "the prefix “module.” of its keys is taken off",
    ]
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    assert load_weights_(net(), tmp_path / "w.pt") == []


# --- batches


def test_batches_that_fail_are_told_as_the_users(write):
    name = write(
        "import torch\n"
        "def once():\n    yield torch.ones(2)\n    raise FileNotFoundError('/data/1.png')\n"
        "class Again:\n    def __len__(self): return 2\n    def __iter__(self): return once()\n"
    )
    for kind in ("once", "Again"):
        batches = load_batches(f"{name}:{kind}")
        with pytest.raises(
            DataError, match=r"failed at batch 1, counted from 0(.|\n)*FileNotFoundError: /data/1.png"
        ):
            list(batches)
    assert len(load_batches(f"{name}:Again")) == 2  # type: ignore[arg-type]
    assert next(iter(batches)).shape == (2,)  # from the beginning


def test_loaders_and_lists_pass_through(write):
    name = write(
        "import torch\nfrom torch.utils.data import DataLoader\n"
        "batches = [{'x': torch.ones(2, 3)}, {'x': torch.ones(1, 3)}, 7]\n"
        "loader = DataLoader(torch.ones(6, 2), batch_size=4)\n"
        "as_list = lambda: batches\nas_loader = lambda: loader\n"
        "pair = lambda: (loader, batches)\ntwo = lambda: [loader, loader]\n"
        "numbers = lambda: iter(batches)"
    )
    batches = load_batches(f"{name}:as_list")
    assert isinstance(batches, list)
    assert len(batches) == 3
    for which in ("as_loader", "pair", "two"):
        loader = load_batches(f"{name}:{which}")
        assert len(loader) == 2  # type: ignore[arg-type]
        assert [len(batch) for batch in loader] == [4, 2]
    assert next(iter(load_batches(f"{name}:numbers"))) is batches[0]


def test_a_data_set_is_put_into_mixed_batches_once_and_for_all(write):
    name = write(
        "import torch, numpy as np\nfrom torch.utils.data import TensorDataset\n"
        "x, y = torch.arange(200.0), torch.arange(200) // 100\n"
        "data_set = lambda: TensorDataset(x, y)\narrays = lambda: (x, y)\n"
        "train_test = lambda: (TensorDataset(x, y), TensorDataset(x[:9], y[:9]))\n"
        "numbers = lambda: ((x.double().numpy(), y.numpy()), (x.numpy(), y.numpy()))\n"
        "pixels = lambda: (x.byte(), y)"
    )
    first = [batch[0] for batch in load_batches(f"{name}:data_set")]
    assert [len(batch) for batch in first] == [64, 64, 64, 8]
    assert torch.equal(torch.cat(first).sort().values, torch.arange(200.0))
    for which in ("data_set", "arrays", "train_test", "numbers"):
        loader = load_batches(f"{name}:{which}")
        for _ in range(2):
            again, classes = zip(*loader, strict=True)
            assert torch.equal(torch.cat(again), torch.cat(first))
            assert again[0].dtype == torch.float32
            assert 16 < int(classes[0].sum()) < 48
    pixels = torch.cat([batch[0] for batch in load_batches(f"{name}:pixels")])
    torch.testing.assert_close(pixels.max(), torch.tensor(199 / 255))


def test_a_stream(write):
    name = write(
        "from torch.utils.data import IterableDataset\n"
        "class Stream(IterableDataset):\n"
        "    def __iter__(self):\n        return iter(float(i) for i in range(70))"
    )
    assert [len(batch) for batch in load_batches(f"{name}:Stream")] == [64, 6]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def data(): return 3", "returned a int"),
        ("import torch\ndef data(): return torch.ones(3, 2)", "returned a Tensor"),
        ("def data(): return {'x': 1}", "returned a dict"),
        ("def data(): return 1 / 0", "called without arguments(.|\n)*ZeroDivisionError"),
    ],
)
def test_data_without_batches(write, source, message):
    with pytest.raises(DataError, match=message):
        load_batches(f"{write(source)}:data")
