"""Sentences keep their template and values: through JSON, and into another language."""

import math
import pickle

import pytest

from xhat.errors import UsageError
from xhat.lang import Phrase, catalogue, listed, needs_translation, say, template_of, translator
from xhat.lang import _catalogue as module
from xhat.study import codec
from xhat.study.result import LawCheck, Table

NESTED = say("{what} of {share:.3g}", what=say("a loss on {net}", net="MLP"), share=0.123456)


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A catalogue of our own in place of the Chinese one."""
    made: dict[str, str] = {}
    monkeypatch.setattr(module, "catalogue", lambda language: made if language == "zh" else {})
    return made


@pytest.mark.parametrize(
    "phrase",
    [
        NESTED,
        listed(["a", say("{n} b", n=2)]),
        say("no values"),
        say("{x:g} is not {y}", x=math.nan, y="NaN"),
        say("{{braces}} and {n}", n=-math.inf),
    ],
)
def test_a_phrase_goes_through_json_and_pickle(phrase):
    stored = codec.loads(codec.dumps(LawCheck(phrase, 0.0, 1.0, True)), LawCheck).name
    for back in (stored, pickle.loads(pickle.dumps(phrase))):
        assert isinstance(back, Phrase)
        assert (back, back.template) == (phrase, phrase.template)
        assert [str(value) for value in back.values.values()] == [str(v) for v in phrase.values.values()]
        assert translator("en")(back) == phrase


def test_a_phrase_may_be_a_tables_cell():
    table = Table(say("{n} rows", n=1), ("a",), ((say("none of {n}", n=3),),))
    back = codec.loads(codec.dumps(table), Table)
    assert back == table
    assert template_of(back.rows[0][0]) == "none of {n}"


def test_values_are_translated_too_and_may_change_places(entries):
    entries |= {"{what} of {share:.3g}": "{share:.2g}：{what}", "a loss on {net}": "{net} 的损失"}
    assert translator("zh")(NESTED) == "0.12：MLP 的损失"


def test_parts_of_a_list_are_translated_each(entries):
    entries |= {"left": "左", "{n} right": "右 {n}"}
    assert translator("zh")(listed(["left", say("{n} right", n=2), "MLP"])) == "左; 右 2; MLP"


def test_what_is_missing_stays_english_and_is_told(entries):
    missing: list[str] = []
    translate = translator("zh", missing=missing.append)
    entries["known"] = "已知"
    assert [translate(text) for text in ("known", "unknown", say("{n} seeds", n=3), "12.5", "≥ 3")] == [
        "已知",
        "unknown",
        "3 seeds",
        "12.5",
        "≥ 3",
    ]
    assert missing == ["unknown", "{n} seeds"]


@pytest.mark.parametrize(("text", "needed"), [("{a}; {b:.3g} × 10", False), ("{a} seeds", True), ("", False)])
def test_which_texts_have_words(text, needed):
    assert needs_translation(text) == needed


def test_an_unknown_language_is_told():
    with pytest.raises(UsageError, match=r"unknown language 'zhh'\. Did you mean zh\?"):
        translator("zhh")


def test_files_in_folders_are_found_and_must_agree(tmp_path, monkeypatch):
    (tmp_path / "zh" / "claims").mkdir(parents=True)
    (tmp_path / "zh" / "page.json").write_text('{"a": "甲"}')
    (tmp_path / "zh" / "claims" / "one.json").write_text('{"a": "甲", "b": "乙"}')
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    catalogue.cache_clear()
    try:
        assert catalogue("zh") == {"a": "甲", "b": "乙"}
        catalogue.cache_clear()
        (tmp_path / "zh" / "claims" / "one.json").write_text('{"a": "丙"}')
        with pytest.raises(ValueError, match="a second translation of 'a'"):
            catalogue("zh")
    finally:
        catalogue.cache_clear()
