"""Fold the batch norms of third-party zoos with xhat.fold, and with torch.fx's fuse beside it.

    .venv/bin/pip install --no-deps --target ZOOS -r requirements/zoos.txt
    .venv/bin/python benchmarks/fold_zoo.py --zoos ZOOS --json benchmarks/results/fold_zoo.json

The smallest architectures with BN of every family, of a seeded draw: see _zoo.py. Each runs in a process of its own,
within limits of time and memory. γ, β and the statistics are randomised so that activations keep their scale, and
outputs in eval mode, in float64, are compared with the original's on the inputs that folding saw and on others.
Which BN directly follows its only convolution or linear is judged by _follows.py, without xhat.dataflow. What is
done already stands in the JSON and is not done again, unless --again says so.
"""

import argparse
import copy
import importlib.util
import json
import random
import resource
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))
import _zoo
from _environment import environment
from _follows import Follows, follows

PER_FAMILY = {"pytorchcv": 1, "timm": 2}
SEED, SECONDS, GIGABYTES = 0, 900, 9
TOLERANCE = 1e-6  # of outputs, relative to the largest, in float64
Made = dict[str, Any]


def randomise_(model: nn.Module, inputs: tuple[Any, ...], *, seed: int) -> None:
    """Draw γ and β; set statistics to those of the input that each BN sees, perturbed."""
    drawn = torch.Generator().manual_seed(seed)
    seen = set()

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=drawn, dtype=torch.float64).to(like) * (high - low) + low

    def set_(module: _BatchNorm, args: tuple[Any, ...]) -> None:
        if module in seen or module.num_features == 0:
            return
        seen.add(module)
        if module.affine:
            module.weight.data = uniform(module.weight, 0.6, 1.4)
            module.bias.data = uniform(module.bias, -0.4, 0.4)
        if module.running_mean is not None and args[0].ndim > 1:
            values = args[0].detach().transpose(0, 1).flatten(1)
            mean, var = values.mean(1), values.var(1, unbiased=False)
            # Two samples may agree: without a floor such a channel would be blown up.
            var = var * uniform(var, 0.6, 1.6) + 0.05 * values.square().mean() + 1e-6
            module.running_mean.copy_(mean + 0.3 * var.sqrt() * uniform(mean, -1, 1))
            module.running_var.copy_(var)

    hooks = [m.register_forward_pre_hook(set_) for m in model.modules() if isinstance(m, _BatchNorm)]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


def blind(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """Return the affine batch norms that the outputs do not depend on: there a wrong fold would not be seen."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.affine}
    tensors = [
        x for x in tree_leaves(model(*copy.deepcopy(inputs))) if isinstance(x, Tensor) and x.requires_grad
    ]
    drawn = torch.Generator().manual_seed(0)
    total = sum((x * torch.randn(x.shape, generator=drawn, dtype=x.dtype)).sum() for x in tensors)
    wanted = [parameter for norm in norms.values() for parameter in (norm.weight, norm.bias)]
    if not tensors or not wanted:
        return list(norms)
    found = torch.autograd.grad(total, [x.requires_grad_() for x in wanted], allow_unused=True)
    moved = [gradient is not None and bool(gradient.any()) for gradient in found]
    return [name for name, a, b in zip(norms, moved[::2], moved[1::2], strict=True) if not (a or b)]


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors of the model's output, in eval mode; noise in it is seeded."""
    torch.manual_seed(0)
    with torch.no_grad():
        return [x for x in tree_leaves(model(*copy.deepcopy(inputs))) if isinstance(x, Tensor)]


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest value of its tensor; inf where shapes differ."""
    if [x.shape for x in a] != [x.shape for x in b]:
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.numel() and x.is_floating_point():
            scale = max(float(x.abs().max()), 1e-30)
            differs = float((x - y).abs().max()) / scale
            worst = max(worst, differs if differs == differs else float("inf"))
    return worst


def by_fx(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, set[str], Made]:
    """Fuse with torch.fx; return the model and the names of the BN that remain."""
    from torch.fx.experimental.optimization import fuse

    # A BN with a forward of its own is traced through and never fused: folded is what was called and is no more.
    before, fused = torch.fx.symbolic_trace(model), fuse(model)
    folded = called(before) - called(fused)
    remaining = {n for n, m in model.named_modules() if isinstance(m, _BatchNorm) and n not in folded}
    return fused, remaining, {}


def called(model: torch.fx.GraphModule) -> set[str]:
    """Return the names of the batch norms that a traced model calls."""
    names = {str(node.target) for node in model.graph.nodes if node.op == "call_module"}
    return {name for name in names if isinstance(model.get_submodule(name), _BatchNorm)}


def by_xhat(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, set[str], Made]:
    """Fold with xhat; return the model, the names of the BN that remain, and why."""
    import xhat

    surgery = xhat.fold(model, *inputs)
    norms = {name: m for name, m in surgery.model.named_modules() if isinstance(m, _BatchNorm)}
    remaining = {name for name, norm in norms.items() if not is_neutral(norm)}
    refusals = {refusal.module: refusal.reason for refusal in surgery.refusals}
    modules = dict(model.named_modules())
    more = {
        "reasons": Counter(
            " ".join(_kind(word, modules) for word in why.split()) for why in refusals.values()
        ),
        "neutral": len(norms) - len(remaining),
        "max_abs_error": surgery.max_abs_error,
    }
    return surgery.model, remaining, {"refusals": refusals, **more}


def _kind(word: str, modules: dict[str, nn.Module]) -> str:
    """A word of a reason; a layer's name is replaced by its class, so that reasons can be counted."""
    name = word.rstrip(",.:")
    return f"({type(modules[name]).__name__})" + word[len(name) :] if name in modules and name else word


def is_neutral(norm: _BatchNorm) -> bool:
    """Whether a BN that is still there passes its input on: a class that does more than normalise stays so."""
    if norm.running_mean is None or not norm.affine:
        return False
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - scale * norm.running_mean
    return bool(
        torch.allclose(scale, torch.ones_like(scale)) and torch.allclose(shift, torch.zeros_like(shift))
    )


def side(
    fold: Callable[[nn.Module, tuple[Any, ...]], tuple[nn.Module, set[str], Made]],
    model: nn.Module,
    inputs: tuple[Any, ...],
    others: tuple[Any, ...],
    direct: dict[str, Follows],
) -> Made:
    """Fold and compare; a failure of the whole model stands under "refused"."""
    norms = {name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    start = time.perf_counter()
    try:
        folded, remaining, more = fold(copy.deepcopy(model), inputs)
    except Exception as error:  # whatever a folder raises refuses the model as a whole
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}"[:400]
        return {"refused": what, "at": f"{Path(where.filename).name}:{where.lineno}"}
    seconds = time.perf_counter() - start
    try:
        differs = max(difference(outputs(model, x), outputs(folded.eval(), x)) for x in (inputs, others))
    except Exception as error:  # a folded model that does not run is wrong
        return {
            "seconds": seconds,
            "difference": float("inf"),
            "error": f"{type(error).__name__}: {error}"[:400],
        }
    missed = {name: direct[name].layer for name in sorted(remaining & direct.keys()) if direct[name].plain}
    own = sum(not direct[name].plain for name in remaining & direct.keys())
    counts = {"folded": len(norms - remaining), "missed": missed, "missed_own_forward": own}
    return {"seconds": seconds, "difference": differs, **counts, **more}


def measure(zoo: str, name: str) -> Made:
    """Return what one architecture gave."""
    torch.manual_seed(SEED)
    model = _zoo.build(zoo, name).double()
    inputs = _zoo.inputs(model, torch.float64)
    randomise_(model, inputs, seed=SEED)
    others = tuple(torch.randn_like(x) if x.is_floating_point() else x for x in inputs)
    first = outputs(model, inputs)
    moved = copy.deepcopy(model)
    for module in moved.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.bias.data += 1e-3
    direct = follows(model, *inputs)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    found: Made = {
        "inputs": [list(x.shape) for x in inputs],
        "parameters": sum(x.numel() for x in model.parameters()),
        "norms": len(norms),
        "direct": sum(norm.plain for norm in direct.values()),
        "direct_own_forward": sum(not norm.plain for norm in direct.values()),
        "repeats_itself": difference(first, outputs(model, inputs)) == 0.0,
        "moves_with_beta": difference(first, outputs(moved, inputs)),
        "blind": blind(model, inputs),
        "fx": side(by_fx, model, inputs, others, direct),
    }
    if importlib.util.find_spec("xhat.surgery.fold"):
        found["xhat"] = side(by_xhat, model, inputs, others, direct)
    return found


def in_process(zoo: str, name: str, zoos: Path) -> Made:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--zoos", str(zoos), "--one", zoo, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {SECONDS} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:400]}


def one(zoo: str, name: str, zoos: Path) -> None:
    """Measure here and print JSON: what the process of one architecture does."""
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES << 30, GIGABYTES << 30))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _zoo.put_on_path(zoos)
    try:
        found = measure(zoo, name)
    except Exception as error:  # whatever a zoo raises
        found = {"failed": f"{type(error).__name__}: {error}"[:400]}
    print(json.dumps(found))


def summary(models: dict[str, Made]) -> Made:
    """Return totals by side."""
    done = {name: found for name, found in models.items() if "failed" not in found}
    totals: Made = {"models": len(done), "not_run": len(models) - len(done)}
    totals |= {
        key: sum(found[key] for found in done.values()) for key in ("norms", "direct", "direct_own_forward")
    }
    if all("blind" in found for found in done.values()):
        totals["blind"] = sum(len(found["blind"]) for found in done.values())
    for who in ("fx", "xhat"):
        sides = {name: found[who] for name, found in done.items() if who in found}
        if not sides:
            continue
        whole = [name for name, made in sides.items() if "refused" in made]
        wrong = [name for name, made in sides.items() if not made.get("difference", 0) <= TOLERANCE]
        totals[who] = {
            "models": len(sides),
            "refused_as_a_whole": whole,
            "wrong": wrong,
            "folded": sum(made.get("folded", 0) for name, made in sides.items() if name not in wrong),
            "neutral": sum(made.get("neutral", 0) for name, made in sides.items() if name not in wrong),
            "missed": sum(
                len(made["missed"]) if "missed" in made else done[name]["direct"]
                for name, made in sides.items()
            ),
            "missed_own_forward": sum(
                made.get("missed_own_forward", done[name]["direct_own_forward"])
                for name, made in sides.items()
            ),
            "refused": sum(len(made.get("refusals", {})) for made in sides.values()),
            "seconds": sum(made.get("seconds", 0.0) for made in sides.values()),
            "reasons": dict(
                sum((Counter(made.get("reasons", {})) for made in sides.values()), Counter()).most_common()
            ),
        }
    return totals


def main() -> None:
    """Measure every architecture that is not in the JSON yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--zoos", type=Path, required=True, help="the folder that pip installed the zoos into"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="parts of names: zoo/architecture")
    parser.add_argument("--again", action="store_true", help="also what stands in the JSON")
    parser.add_argument("--one", nargs=2, metavar=("ZOO", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one, arguments.zoos)
        return
    path = arguments.json
    content: Made = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}
    if "chosen" not in content:
        _zoo.put_on_path(arguments.zoos)
        content["chosen"] = [
            f"{zoo}/{name}"
            for zoo, count in PER_FAMILY.items()
            for name in _zoo.chosen(zoo, seed=SEED, per_family=count)
        ]
    models = content.setdefault("models", {})

    def write() -> None:
        whole = {
            "environment": environment(),
            "seed": SEED,
            "zoos": {zoo: _zoo.version(arguments.zoos, zoo) for zoo in PER_FAMILY},
            "tolerance": TOLERANCE,
            "summary": summary(models),
            "chosen": content["chosen"],
            "models": {name: models[name] for name in content["chosen"] if name in models},
        }
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".new")
            beside.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            beside.replace(path)

    wanted = [
        name
        for name in content["chosen"]
        if (arguments.again or name not in models)
        and (not arguments.only or any(part in name for part in arguments.only))
    ]
    random.Random(SEED).shuffle(wanted)  # so that a part of the run is a fair one
    write()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        under_way = {pool.submit(in_process, *name.split("/", 1), arguments.zoos): name for name in wanted}
        for future in as_completed(under_way):
            name = under_way[future]
            models[name] = future.result()
            print(line(name, models[name]), flush=True)
            write()
    print(json.dumps(summary(models), indent=1))


def line(name: str, found: Made) -> str:
    """One line of progress."""
    if "failed" in found:
        return f"{name}: not run: {found['failed']}"
    text = f"{name}: {found['norms']} BN, {found['direct']} direct"
    for who in ("fx", "xhat"):
        made = found.get(who)
        if made and "refused" in made:
            text += f"; {who} REFUSED {made['refused'][:80]}"
        elif made:
            text += f"; {who} {made.get('folded')}, {made.get('neutral', 0)} stay, {made['difference']:.0e}"
            text += f" in {made['seconds']:.1f} s"
            text += "" if made["difference"] <= TOLERANCE else " WRONG"
            text += f", MISSED {len(made['missed'])}" if who == "xhat" and made.get("missed") else ""
    return text


if __name__ == "__main__":
    main()
