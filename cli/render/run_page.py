"""The report of a run as one self-contained HTML page, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from vfindex.cli.output import clock, plain
from vfindex.cli.render.run_report import COUNTS, LISTS, endings, label

if TYPE_CHECKING:
    from vfindex.search.status import RunInfo

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;"
    "vertical-align:top;overflow-wrap:anywhere}th{font-weight:600}"
)


def run_page(run: RunInfo) -> str:
    """Return the page. Names and reasons are escaped."""
    report = run.report or {}
    facts = [("began", run.started_at), ("ended", run.finished_at or "not yet: in progress, or killed")]
    facts += [(label(name), str(report[name])) for name in COUNTS if report.get(name) is not None]
    if report.get("video_seconds") and report.get("wall_s"):
        speed = report["video_seconds"] / report["wall_s"]
        facts.append(("video read", f"{clock(report['video_seconds'])}, {speed:.1f} times real time"))
    if "wall_s" in report:
        facts.append(("took", clock(report["wall_s"])))
    facts += [("it was", text) for text in endings(report)]
    title = f"vfindex: run {run.id}, {run.command}"
    parts = [f"<h1>{_text(title)}</h1>", _table((), facts)]
    for name in LISTS:
        found = report.get(name) or ()
        rows = [(row["path"], row["reason"], row["next"]) for row in found]
        if rows:
            parts += [f"<h2>{_text(name.replace('_', ' ').capitalize())}: {len(rows)}</h2>"]
            parts += [_table(("file", "why", "what to do"), rows)]
        for row in found:
            lines = row.get("traceback", "").splitlines()
            parts += [f"<h3>{_text(row['path'])}</h3><pre>" + "\n".join(map(_text, lines)) + "</pre>"] if lines else []
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(word)}</th>" for word in heads)
    lines = [f"<tr>{head}</tr>"] if heads else []
    lines += ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _text(words: str) -> str:
    return escape(plain(words))
