"""The runs themselves as tidy tables: members, losses, probes and distributions."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from xhat.study.store import Run


def run_tables(runs: Iterable[Run]) -> dict[str, pd.DataFrame]:
    """Return every number of the training runs.

    ``members``: a row a trained network. ``losses``: a row a step. ``probes``: a row a probe and step
    size. ``distributions``: a row a recorded step, layer and side. All join on (run, member).
    """
    trained = [run for run in runs if run.record["spec"]["kind"] == "train"]
    return {
        "members": pd.DataFrame([row for run in trained for row in _members(run)]),
        "losses": _joined(_losses(run) for run in trained),
        "probes": _joined(_probes(run) for run in trained if "probe_step" in run.arrays),
        "distributions": _joined(frame for run in trained for frame in _distributions(run)),
    }


def _joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    kept = list(frames)
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def _members(run: Run) -> Iterator[dict[str, Any]]:
    spec = run.record["spec"]
    for index, member in enumerate(spec["members"]):
        yield {
            "run": run.key,
            "member": index,
            "network": spec["network"]["name"],
            "norm": spec["network"]["norm"],
            **{f"network_{name}": value for name, value in spec["network"]["options"]},
            "data": spec["data"]["name"],
            **member,
            "steps": spec["steps"],
            "batch_size": spec["batch_size"],
            "momentum": spec["momentum"],
            **{
                name: run.arrays[name][index].item()
                for name in ("chance", "final_loss", "trains", "test_accuracy")
                if name in run.arrays
            },
        }


def _losses(run: Run) -> pd.DataFrame:
    loss = run.arrays["loss"]
    member, step = np.indices(loss.shape)
    return pd.DataFrame(
        {"run": run.key, "member": member.ravel(), "step": step.ravel(), "loss": loss.ravel()}
    )


def _probes(run: Run) -> pd.DataFrame:
    loss = run.arrays["probe_loss"]
    member, probe, point = (index.ravel() for index in np.indices(loss.shape))
    return pd.DataFrame(
        {
            "run": run.key,
            "member": member,
            "step": run.arrays["probe_step"][probe],
            "lr_multiple": run.arrays["probe_ratio"][point],
            "loss": loss.ravel(),
            "gradient_distance": run.arrays["probe_distance"].ravel(),
            "start_loss": run.arrays["probe_start"][member, probe],
            "gradient_norm": run.arrays["probe_gradient"][member, probe],
            "weight_norm": run.arrays["probe_weight"][member, probe],
        }
    )


def _distributions(run: Run) -> Iterator[pd.DataFrame]:
    for place, (layer, side) in enumerate(run.record.get("positions", ())):
        pooled = run.arrays[f"record_{place}_pooled"]
        snapshot, member = (index.ravel() for index in np.indices(pooled.shape[:2]))
        levels = run.arrays["record_quantile"]
        yield pd.DataFrame(
            {
                "run": run.key,
                "member": member,
                "step": run.arrays["record_step"][snapshot],
                "layer": layer,
                "side": side,
                "mean": run.arrays[f"record_{place}_mean"].mean(2).ravel(),
                "std": run.arrays[f"record_{place}_std"].mean(2).ravel(),
                "dead": run.arrays[f"record_{place}_dead"].ravel(),
                **{f"q{level:g}": pooled[:, :, q].ravel() for q, level in enumerate(levels)},
            }
        )
