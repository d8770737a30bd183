"""Tidy tables: every number of a study, once, and the same after a round trip through a file."""

import pandas as pd
import pytest

from xhat.errors import UsageError
from xhat.report import study_tables, write_tables

from .sample import claims, drift, laws, study


@pytest.fixture(scope="module")
def tables():
    return study_tables(study())


def test_one_row_an_effect(tables):
    effects = [effect for claim in claims() for effect in claim.effects]
    assert tables["effects"]["estimate"].tolist() == pytest.approx([e.estimate for e in effects], nan_ok=True)
    assert tables["effects"]["verdict"].tolist() == [e.verdict for e in effects]
    assert tables["effects"].set_index("effect").loc["Range of the loss", "claim"] == "smoother-loss"


def test_one_row_a_check(tables):
    assert len(tables["laws"]) == sum(len(law.checks) for law in laws())
    assert set(tables["laws"].query("not law_passed")["law"]) == {"lipschitz"}


def test_one_row_a_point_of_every_frame(tables):
    moved = tables["curves"].query("figure == 'drift'")
    figure = drift()
    points = sum(len(curve.x) for frame in figure.frames for panel in frame.panels for curve in panel.curves)
    assert len(moved) == points
    assert moved["frame"].drop_duplicates().tolist() == [frame.label for frame in figure.frames]
    assert moved["low"].isna().all()


def test_law_figures_are_among_the_curves(tables):
    assert set(tables["curves"]["kind"]) == {"claim", "law"}


def test_an_empty_study_has_the_same_columns(tables):
    empty = study_tables(study(claims=(), laws=()))
    for name, table in tables.items():
        assert empty[name].dtypes.equals(table.dtypes)
        assert len(empty[name]) == 0


def test_csv_round_trip(tables, tmp_path):
    paths = write_tables(tables, tmp_path / "new")
    assert [path.name for path in paths] == ["effects.csv", "laws.csv", "curves.csv"]
    for path, table in zip(paths, tables.values(), strict=True):
        types = table.dtypes.to_dict()
        again = pd.read_csv(
            path,
            dtype=types,
            keep_default_na=False,
            na_values={c: [""] for c in table if types[c].kind == "f"},
        )
        pd.testing.assert_frame_equal(again, table)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)


def test_parquet_round_trip(tables, tmp_path):
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    for path, table in zip(write_tables(tables, tmp_path, "parquet"), tables.values(), strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(path), table)


def test_parquet_without_pyarrow_names_the_extra(tables, tmp_path, monkeypatch):
    monkeypatch.setattr("xhat.report.export.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="extra `parquet`"):
        write_tables(tables, tmp_path, "parquet")


def test_an_unknown_format_is_refused(tables, tmp_path):
    with pytest.raises(UsageError, match="Did you mean parquet"):
        write_tables(tables, tmp_path, "parket")
