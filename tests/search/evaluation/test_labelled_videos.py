"""Readers of labelled videos: each format, and a sentence for each file that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfindex.search.evaluation.labelled_videos import label_of, read_labelled
from vfindex.storage.errors import QueryError, UsageError


def read(path: Path, text: str, split: int | None = None) -> dict[str, str]:
    path.write_text(text, encoding="utf-8")
    return {each.stem: each.label for each in read_labelled(path, split)}


def test_each_format(tmp_path: Path) -> None:
    ours = '{"video": "trip/a.mp4", "label": "cooking"}\n\n{"video": "b.mkv", "label": "sport"}\n'
    assert read(tmp_path / "ours.jsonl", ours) == {"a": "cooking", "b": "sport"}
    ucf = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\nYoYo/v_YoYo_g02_c01.avi\n"
    assert read(tmp_path / "list.txt", ucf) == {
        "v_ApplyEyeMakeup_g01_c01": "apply eye makeup",
        "v_YoYo_g02_c01": "yo yo",
    }
    kinetics = read(tmp_path / "k.csv", "label,youtube_id,time_start,time_end,split\nyoga,-Ab_9,10,20,val\n")
    assert kinetics == {"-Ab_9": "yoga"}
    assert label_of("-Ab_9_000010_000020", kinetics) == label_of("-Ab_9", kinetics) == "yoga"
    assert label_of("-Ab_8", kinetics) is None


def test_the_splits_of_folders(tmp_path: Path) -> None:
    (tmp_path / "testlist02.txt").write_text("YoYo/v_YoYo_g02_c01.avi\n")
    assert [each.label for each in read_labelled(tmp_path, 2)] == ["yo yo"]
    hmdb = tmp_path / "hmdb"
    hmdb.mkdir()
    (hmdb / "brush_hair_test_split1.txt").write_text("one.avi 1 \ntwo two.avi 2 \nthree.avi 0 \n")
    (hmdb / "wave_test_split1.txt").write_text("four.avi 2\n")
    assert {each.stem: each.label for each in read_labelled(hmdb)} == {"two two": "brush hair", "four": "wave"}
    with pytest.raises(QueryError, match="no labelled videos"):
        read_labelled(hmdb, 3)
    with pytest.raises(UsageError, match="the splits are 1, 2, 3, not 4"):
        read_labelled(hmdb, 4)


@pytest.mark.parametrize("text", ['{"video": 5, "label": "x"}', '{"video": "a"}', "{", "no list", "", "A/"])
def test_a_wrong_file_gets_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(QueryError, match=r"wrong\.txt"):
        read(tmp_path / "wrong.txt", text)
