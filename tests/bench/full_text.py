"""Recall and precision of full text search in nine languages: python tests/bench/full_text.py

Data: six subtitle lines per language, and words with the lines that contain them in any form. Each tokenizer is queried
for each word as a quoted string. Prints recall and precision per language, the size of the index and the time of a
query over many lines.

--documents N: instead, the time of `Words.match` for words of every frequency in a library of N documents, and the rank
of the newest document, which contains all words. --before FILE: compare with another full_text.py, alternately.
"""
# ruff: noqa: RUF001  this file is about letters of other scripts

from __future__ import annotations

import argparse
import importlib.util
import inspect
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vfindex.storage.text import full_text as words_module
from vfindex.storage.text.corrected import NO_CORRECTIONS
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER, index_form

# language -> (lines, word -> numbers of the lines that contain it, in any form)
SAMPLE: dict[str, tuple[tuple[str, ...], dict[str, tuple[int, ...]]]] = {
    "English": (
        (
            "My cats sleep on the sofa.",
            "We walked the dog in the park today.",
            "The education of doctors is long.",
            "He studies computers at the university.",
            "Many dogs and a cat are in the car park.",
            "A scar on the carpet.",
        ),
        {"cat": (0, 4), "dog": (1, 4), "parks": (1, 4), "car": (4,), "walking": (1,), "computer": (3,), "pet": ()},
    ),
    "Chinese": (
        (
            "我的猫喜欢睡在沙发上。",
            "今天天气很好，我们去公园吧。",
            "他在北京大学学习计算机。",
            "火车晚点了两个小时。",
            "公园里有很多狗和猫。",
            "大学生活很有意思。",
        ),
        {"猫": (0, 4), "公园": (1, 4), "大学": (2, 5), "火车": (3,), "计算机": (2,), "天气": (1,), "沙发": (0,)},
    ),
    "Japanese": (
        (
            "猫がソファーの上で寝ています。",
            "今日は公園で犬と遊びました。",
            "東京の電車はとても速いです。",
            "電車が三十分遅れました。",
            "コンピューターを勉強しています。",
            "公園の猫に会いたいです。",
        ),
        {
            "猫": (0, 5),
            "公園": (1, 5),
            "電車": (2, 3),
            "東京": (2,),
            "コンピューター": (4,),
            "ソファー": (0,),
            "犬": (1,),
        },
    ),
    "Thai": (
        (
            "แมวของฉันชอบนอนบนโซฟา",
            "วันนี้อากาศดีมาก เราไปสวนสาธารณะกัน",
            "รถไฟมาสายสองชั่วโมง",
            "เขาเรียนคอมพิวเตอร์ที่มหาวิทยาลัย",
            "ในสวนมีหมาและแมวหลายตัว",
            "ฉันขึ้นรถไฟไปทำงานทุกวัน",
        ),
        {"แมว": (0, 4), "รถไฟ": (2, 5), "สวน": (1, 4), "อากาศ": (1,), "คอมพิวเตอร์": (3,), "หมา": (4,)},
    ),
    "Korean": (
        (
            "고양이가 소파에서 자고 있어요.",
            "오늘은 공원에서 강아지와 놀았어요.",
            "기차가 두 시간 늦게 왔어요.",
            "그는 대학교에서 컴퓨터를 공부해요.",
            "공원에 고양이와 강아지가 많아요.",
            "저는 매일 기차를 타요.",
        ),
        {"고양이": (0, 4), "공원": (1, 4), "기차": (2, 5), "컴퓨터": (3,), "강아지": (1, 4)},
    ),
    "Hindi": (
        (
            "मेरी बिल्ली सोफे पर सोती है।",
            "आज हम पार्क में कुत्ते के साथ खेले।",
            "रेलगाड़ी दो घंटे देर से आई।",
            "वह विश्वविद्यालय में कंप्यूटर पढ़ता है।",
            "पार्क में बिल्ली और कुत्ते हैं।",
            "किताब मेज़ पर है।",
        ),
        {"बिल्ली": (0, 4), "पार्क": (1, 4), "रेलगाड़ी": (2,), "कंप्यूटर": (3,), "किताब": (5,), "कल": ()},
    ),
    "Russian": (
        (
            "Моя кошка спит на диване.",
            "Сегодня мы гуляли с собакой в парке.",
            "Поезд опоздал на два часа.",
            "Он изучает компьютеры в университете.",
            "В парке много кошек и собак.",
            "Я еду на поезде каждый день.",
        ),
        {"кошка": (0, 4), "собака": (1, 4), "поезд": (2, 5), "парк": (1, 4), "университет": (3,), "диване": (0,)},
    ),
    "Arabic": (
        (
            "القطة تنام على الأريكة.",
            "ذهبنا إلى الحديقة مع الكلب اليوم.",
            "تأخر القطار ساعتين.",
            "يدرس الحاسوب في الجامعة.",
            "في الحديقة قطة وكلب.",
            "مُحَمَّدٌ في القطار كلَّ يوم.",
        ),
        {"قطة": (0, 4), "الحديقة": (1, 4), "القطار": (2, 5), "الجامعة": (3,), "محمد": (5,), "كلب": (1, 4), "كل": (5,)},
    ),
    "German": (
        (
            "Die Katze schläft auf dem Wohnzimmersofa.",
            "Wir waren mit der Hundeleine im Stadtpark.",
            "Der Zug hatte zwei Stunden Verspätung.",
            "Er lernt an der Universität Computertechnik.",
            "Im Park sind viele Hunde und Katzen.",
            "Der Nachtzug fährt jeden Tag.",
        ),
        {"Katze": (0, 4), "Hund": (1, 4), "Park": (1, 4), "Zug": (2, 5), "Sofa": (0,), "Verspätung": (2,), "rat": ()},
    ),
}
WAYS: dict[str, tuple[str, Callable[[str], str]]] = {
    "porter unicode61": ("porter unicode61 remove_diacritics 2", str),
    "trigram": ("trigram", str),
    "ours": (INDEX_TOKENIZER, index_form),
}
LINES = 50_000


def table(tokenizer: str) -> sqlite3.Connection:
    """Return a database with an empty index."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize=\"{tokenizer}\")")
    return connection


def ask(connection: sqlite3.Connection, form: Callable[[str], str], word: str) -> set[int]:
    """Return the numbers of the lines that contain a word."""
    found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", ('"' + form(word) + '"',))
    return {row[0] for row in found}


def quality(language: str, tokenizer: str, form: Callable[[str], str]) -> tuple[float, float]:
    """Return (recall, precision) over all pairs of word and line."""
    lines, words = SAMPLE[language]
    connection = table(tokenizer)
    connection.executemany("INSERT INTO words(rowid, text) VALUES (?, ?)", [(i, form(s)) for i, s in enumerate(lines)])
    right = wanted = given = 0
    for word, expected in words.items():
        found = ask(connection, form, word)
        right, wanted, given = right + len(found & set(expected)), wanted + len(expected), given + len(found)
    return right / wanted, right / given if given else 1.0


def cost(tokenizer: str, form: Callable[[str], str]) -> tuple[float, float]:
    """Return (megabytes, milliseconds per query) over many lines of words of all languages."""
    pool = [word for lines, _ in SAMPLE.values() for line in lines for word in line.split()]
    draw = random.Random(0)
    connection = table(tokenizer)
    rows = ((i, form(" ".join(draw.choices(pool, k=8)))) for i in range(LINES))
    connection.executemany("INSERT INTO words(rowid, text) VALUES (?, ?)", rows)
    connection.execute("INSERT INTO words(words) VALUES ('optimize')")
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    words = [word for _, asked in SAMPLE.values() for word in asked]
    start = time.perf_counter()
    for word in words:
        ask(connection, form, word)
    return pages * size / 1e6, 1000 * (time.perf_counter() - start) / len(words)


# Query -> number of videos searched, None for all. The word `w<n>` is in one of n documents, `left` in every second,
# `right` in the others, both in the newest.
QUESTIONS: dict[str, int | None] = {
    "w1000 w5000": None,
    "w2": None,
    "w2 w3": None,
    "w2 w3 w4 w6": None,
    "w2 w3 w1000": None,
    "w2 w20 w200": None,
    "w2 w3 w1000 in": 20,
    "w2 w3 in": 3000,
    "left right": None,
}
WORD_FREQUENCIES = (2, 3, 4, 6, 20, 200, 1000, 5000)
DOCUMENTS_PER_VIDEO = 20
TIMES = 9


def library(documents: int) -> sqlite3.Connection:
    """Return a database for `Words` with this many documents; the newest contains every word."""
    connection, draw = sqlite3.connect(":memory:"), random.Random(0)
    connection.executescript(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT); INSERT INTO meta VALUES ('fold', '1');"
        "CREATE TABLE video (id INTEGER PRIMARY KEY, state TEXT);"
        "CREATE TABLE segment (id INTEGER PRIMARY KEY, start_s REAL, end_s REAL, source TEXT, box TEXT,"
        " word_times TEXT, speakers TEXT);"
        "CREATE TABLE document (id INTEGER PRIMARY KEY, video_id INTEGER, segment_id INTEGER, kind TEXT, text TEXT);"
        "CREATE INDEX document_by_video ON document (video_id);"
        f"CREATE VIRTUAL TABLE document_fts USING fts5(text, content='', tokenize=\"{INDEX_TOKENIZER}\");"
    )
    connection.executemany(
        "INSERT INTO video VALUES (?, 'indexed')", ((i,) for i in range(documents // DOCUMENTS_PER_VIDEO + 1))
    )
    for id_ in range(1, documents + 1):
        chosen = [f"w{n}" for n in WORD_FREQUENCIES if id_ == documents or draw.random() < 1 / n]
        chosen += ["left", "right"] if id_ == documents else ["right" if id_ % 2 else "left"]
        line = " ".join(chosen + draw.choices(["some", "more", "words", "of", "speech"], k=draw.randint(4, 14)))
        connection.execute("INSERT INTO segment (id, start_s, end_s, source) VALUES (?, 0.0, 1.0, 'asr')", (id_,))
        connection.execute(
            "INSERT INTO document VALUES (?, ?, ?, 'speech', ?)", (id_, (id_ - 1) // DOCUMENTS_PER_VIDEO, id_, line)
        )
        connection.execute("INSERT INTO document_fts (rowid, text) VALUES (?, ?)", (id_, index_form(line)))
    return connection


def matched(module: Any, connection: sqlite3.Connection, question: str, videos: Sequence[int] | None) -> list[int]:
    """Return the documents that a module's `Words` finds in a new snapshot, queried as by the engine."""
    known = KNOWN.setdefault(module.__name__, {})
    corrected = [NO_CORRECTIONS] if "corrections" in inspect.signature(module.Words).parameters else []
    words = module.Words(
        lambda query, parameters: connection.execute(query, parameters).fetchall(),
        lambda key, compute: known[key] if key in known else known.setdefault(key, compute()),
        *corrected,
    )
    asked = [word for word in question.split() if word != "in"]
    found = [match.document_id for match in words.match(asked, 100, videos)]
    if hasattr(words, "documents_with"):  # the engine's next call until 2026
        words.documents_with(asked, found)
    return found


KNOWN: dict[str, dict[str, Any]] = {}


def compare(documents: int, before: Path | None) -> None:
    """Print the median time of each query for both modules, alternately, and the rank of the newest document."""
    modules: dict[str, Any] = {"now": words_module}
    if before is not None:
        spec = importlib.util.spec_from_file_location("words_before", before)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{before} is no module")
        modules["before"] = importlib.util.module_from_spec(spec)
        sys.modules["words_before"] = modules["before"]
        spec.loader.exec_module(modules["before"])
    connection = library(documents)
    last = documents // DOCUMENTS_PER_VIDEO - 1
    print(f"{f'{documents} documents':20}" + "".join(f"{name:>28}" for name in modules) + "   ratio")
    for question, some in QUESTIONS.items():
        step = 1 if some is None else max(1, last // some)
        videos = None if some is None else frozenset(range(last, -1, -step)[:some])
        times: dict[str, list[float]] = {name: [] for name in modules}
        places = {}
        for _ in range(TIMES):
            for name, module in modules.items():
                start = time.process_time()  # processor time of one thread
                found = matched(module, connection, question, videos)
                times[name].append(1000 * (time.process_time() - start))
                places[name] = found.index(documents) + 1 if documents in found else "absent"
        medians = {name: statistics.median(each[1:]) for name, each in times.items()}
        cells = [f"{medians[name]:.1f} ms, newest {places[name]}" for name in modules]
        ratio = f"{medians['now'] / medians['before']:8.2f}" if "before" in medians else ""
        print(f"{question:20}" + "".join(f"{cell:>28}" for cell in cells) + ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure full text search.")
    parser.add_argument("--documents", type=int, help="time words in a library of so many documents")
    parser.add_argument("--before", type=Path, help="a storage/text/full_text.py to compare with")
    arguments = parser.parse_args()
    if arguments.documents:
        compare(arguments.documents, arguments.before)
        return
    print(f"{'recall / precision':20}" + "".join(f"{name:>20}" for name in WAYS))
    for language in SAMPLE:
        cells = ["{:.2f} / {:.2f}".format(*quality(language, *way)) for way in WAYS.values()]
        print(f"{language:20}" + "".join(f"{cell:>20}" for cell in cells))
    cells = ["{:.1f} MB, {:.2f} ms".format(*cost(*way)) for way in WAYS.values()]
    print(f"{LINES} lines".ljust(20) + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
