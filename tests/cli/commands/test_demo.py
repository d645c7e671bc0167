"""The whole demo with the real models: videos made, indexed and searched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from vfindex.cli.demo_media import QUESTIONS, VIDEOS


def test_the_demo_answers_visual_and_speech_queries(models_cache: Path, tmp_path: Path) -> None:
    program = "from vfindex.cli.app import main; main()"
    command = [sys.executable, "-c", program, "demo", "--json", "--library", str(tmp_path / "library")]
    env = {**os.environ, "VFINDEX_CACHE": str(models_cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=220)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {question.modality for question in QUESTIONS} == {"visual", "speech"}
    assert [answer["query"] for answer in document["answers"]] == [question.text for question in QUESTIONS]
    for answer in document["answers"]:
        first = answer["hits"][0]
        assert os.path.basename(first["video"]) == answer["expected"], answer["query"]
        assert first["score"] > 0
        assert first["modalities"][answer["modality"]] > first["score"] / 2, "it is found for the right reason"
        assert Path(first["thumbnail"]).is_file()
    with Image.open(document["contact_sheet"]) as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000
    made = {os.path.basename(hit["video"]) for answer in document["answers"] for hit in answer["hits"]}
    assert made <= {video.name for video in VIDEOS}
