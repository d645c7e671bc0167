"""Libraries that are served elsewhere and one on this machine answer as one library of all their videos."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import add_video, axis
from parted import ENCODED_AGAIN, FOOTAGE, NAMES, QUERIES, SEEN, answers, moving
from serving import PATIENCE_S, Site, serving

from vfindex.search.calibration.labels import META_KEY, SCORES, Calibration, ModalityCalibration
from vfindex.search.query.ast import Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.image import Picture, Pictures
from vfindex.search.query.like import Like
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Request
from vfindex.search.remote import member as member_module
from vfindex.search.remote.address import Address
from vfindex.search.remote.connection import Connection
from vfindex.search.remote.member import RemoteLibrary
from vfindex.search.results import Hits
from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryUnreachable, QueryError, UsageError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.shared_spec import use_own_spec
from vfindex.storage.records import ClipKey, Location
from vfindex.storage.writer import writing


def remote(site: Site) -> RemoteLibrary:
    return RemoteLibrary(Address("http", "127.0.0.1", site.port))


def arranged(folders: Sequence[Path], sites: Sequence[Site], here: Sequence[int]) -> tuple[SearchService, list[Path]]:
    """Return a service of all parts, some of them on this machine, and their folders in the order of the service."""
    there = [number for number in (1, 2, 3) if number not in here]
    service = SearchService([folders[number] for number in here], remotes=[remote(sites[number]) for number in there])
    return service, [folders[number] for number in (*here, *there)]


def documents(hits: Hits, places: dict[str, str]) -> tuple[list[dict[str, Any]], list[float]]:
    """Return hits as JSON, with names of libraries in place of paths and addresses; and all scores in them."""
    found, scores = [], list[float]()
    for hit in hits:
        document = hit.to_dict() | {"thumbnail": None, "score": None}
        scores += [hit.score, *(each.score for each in hit.moments)]
        scores += [value for value in hit.modalities.values() if value is not None]
        document["modalities"] = {m: value is None for m, value in hit.modalities.items()}
        document["library"] = places[document["library"]]
        for each in document["also"]:
            each["library"] = places[each["library"]]
        for each in document["moments"]:
            del each["score"]
        found.append(document)
    return found, scores


def places(folders: Sequence[Path], sites: Sequence[Site]) -> dict[str, str]:
    named = {str(folder): folder.name for folder in folders}
    return named | {remote(site).place: folder.name for site, folder in zip(sites, folders, strict=True)}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("per_video", [1, 3])
def test_two_served_libraries_and_one_here_answer_as_one(
    folders: list[Path], sites: list[Site], query: str, per_video: int
) -> None:
    options: dict[str, Any] = {"top_k": 12, "per_video": per_video, "min_confidence": "none"}
    one = SearchService(folders[0]).search(query, **options)
    service, _ = arranged(folders, sites, [1])
    several = service.search(query, **options)
    assert several.missing == () and one
    assert answers(several) == answers(one)
    np.testing.assert_allclose([hit.score for hit in several], [hit.score for hit in one], atol=1e-6)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("here", [(1, 2), (3,), ()])
def test_it_does_not_matter_which_libraries_are_served(
    folders: list[Path], sites: list[Site], query: str, here: tuple[int, ...]
) -> None:
    service, order = arranged(folders, sites, here)
    several, local = (each.search(query, top_k=12, min_confidence="none") for each in (service, SearchService(order)))
    assert several.missing == () and several.hints == local.hints
    named = places(folders, sites)
    (shown, scores), (wanted, known) = documents(several, named), documents(local, named)
    assert shown == wanted and local
    np.testing.assert_allclose(scores, known, atol=1e-6)
    assert [hit.score for hit in several] == sorted((hit.score for hit in several), reverse=True)


@pytest.mark.parametrize("here", [(1,), (3, 2), ()])
def test_footage_of_two_machines_is_one_hit(
    folders: list[Path], sites: list[Site], here: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: dict.fromkeys(("visual", "text"), SEEN[3 * FOOTAGE]))
    service, order = arranged(folders, sites, here)
    hits = service.search("a", top_k=24, min_confidence="none")
    names = [NAMES[FOOTAGE], NAMES[ENCODED_AGAIN]] if order.index(folders[1]) < order.index(folders[3]) else []
    names = names or [NAMES[ENCODED_AGAIN], NAMES[FOOTAGE]]
    assert hits[0].video == f"/videos/{names[0]}".encode() and len(hits) == 23
    [place] = hits[0].also
    owner = folders[1] if names[1] == NAMES[FOOTAGE] else folders[3]
    site = sites[folders.index(owner)]
    assert place.video == f"/videos/{names[1]}".encode()
    assert place.library == (owner if owner in order[: len(here)] else remote(site).place)


def test_a_content_of_two_machines_is_one_hit_of_this_one(folders: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    with Library.open(copy).snapshot() as snapshot, writing(copy) as writer:
        for video in snapshot.videos():
            writer.catalog.place(video.id, Location(f"/archive/{video.fingerprint}".encode(), 100, 1, 1))
    options: dict[str, Any] = {"top_k": 50, "per_video": 3, "min_confidence": "none"}
    with SearchService(copy) as served, serving(served) as first, serving(served) as second:
        here = SearchService(folders[1], remotes=[remote(first), remote(second)]).search("a", **options)
        alone = SearchService(folders[1]).search("a", **options)
        assert [hit.key for hit in here] == [hit.key for hit in alone]
        assert {hit.library for hit in here} == {folders[1]}
        elsewhere = {(place.video, place.library) for place in here[0].also}
        name = here[0].key.fingerprint
        paths = (f"/videos/{name}".encode(), f"/archive/{name}".encode())
        assert elsewhere == {(path, remote(site).place) for path in paths for site in (first, second)}
        archived = SearchService(folders[1], remotes=[remote(first), remote(second)]).search("a in:/archive", **options)
        assert [hit.key for hit in archived] == [hit.key for hit in alone]
        assert {hit.library for hit in archived} == {remote(first).place}, "of two servers, the first"


@pytest.mark.parametrize("here", [(1,), (1, 2), ()])
def test_clips_of_any_library_are_examples(folders: list[Path], sites: list[Site], here: tuple[int, ...]) -> None:
    service, order = arranged(folders, sites, here)
    local = SearchService(order)
    for like in ("v01@1", "v09@6", "/videos/v20@12", ClipKey("v20", 0)):
        several, one = service.similar(like, top_k=30), local.similar(like, top_k=30)
        assert answers(several) == answers(one) and several.missing == ()
        np.testing.assert_allclose([hit.score for hit in several], [hit.score for hit in one], atol=1e-6)
    with pytest.raises(QueryError, match=r"no clip of v20 covers 99 s|no clip of /videos/v20 covers 99 s"):
        service.similar("/videos/v20@99")
    with pytest.raises(QueryError, match="nowhere"):
        service.similar("nowhere@1")
    words = service.search("heron", images=[Like(Path("v09"), 6.0)], min_confidence="none")
    assert answers(words) == answers(local.search("heron", images=[Like(Path("v09"), 6.0)], min_confidence="none"))


def test_pictures_are_read_by_a_library_here(
    folders: list[Path], sites: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pictures, "encode", lambda *_: axis(3))
    service, order = arranged(folders, sites, [1])
    picture = Picture("a picture", ())
    several, one = (each.search(images=[picture], top_k=30) for each in (service, SearchService(order)))
    assert answers(several) == answers(one) and several.images == ("a picture",)
    with pytest.raises(UsageError, match=r"pictures .* are read by the models of a library on this machine"):
        arranged(folders, sites, [])[0].search(images=[picture])


def test_weights_and_exact_scans_reach_the_servers(folders: list[Path], sites: list[Site]) -> None:
    service, order = arranged(folders, sites, [1])
    for options in ({"weights": {"speech": 0.0}}, {"exact": True}, {"weights": {"text": 0.0, "visual": 2.5}}):
        several, one = (
            each.search("heron a", min_confidence="none", **options)  # type: ignore[arg-type]
            for each in (service, SearchService(order))
        )
        assert answers(several) == answers(one)
        np.testing.assert_allclose([hit.score for hit in several], [hit.score for hit in one], atol=1e-6)
    with pytest.raises(UsageError, match="rrf fuses ranks"):
        service.search("a", combine="rrf")
    plain = Query.plain("said:heron -a")
    with pytest.raises(UsageError, match="has no text that is parsed to it"):
        service.search(plain)
    assert answers(service.search(Query.plain("heron"))) == answers(service.search("heron"))


@pytest.mark.parametrize("per_video", [1, 3])
def test_a_question_has_three_steps(
    folders: list[Path], sites: list[Site], per_video: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, steps = Connection.ask, list[str]()

    def counted(self: Any, step: str, *arguments: Any) -> Any:
        steps.append(step)
        return ask(self, step, *arguments)

    monkeypatch.setattr(Connection, "ask", counted)
    service, _ = arranged(folders, sites, [1, 2])
    assert service.search("lake b", per_video=per_video, top_k=20, min_confidence="none").missing == ()
    assert steps == ["statistics", "candidates", "hits"]


def test_a_label_must_hold_on_every_machine(folders: list[Path], tmp_path: Path) -> None:
    def calibrated(folder: Path, name: str, low: float) -> Path:
        copy = shutil.copytree(folder, tmp_path / name)
        levels = {"low": low, "medium": low + 1, "high": low + 2}
        each = {m: ModalityCalibration(0.9, 50, 200, 1.0, **levels) for m in ("visual", "speech", "text")}
        with writing(copy) as writer:
            writer.catalog.put(META_KEY, Calibration(10, each).to_json())
        return copy

    assert SCORES
    here, there = calibrated(folders[1], "here", 0.1), calibrated(folders[2], "there", 0.6)
    with SearchService(there) as served, serving(served) as site:
        several = SearchService(here, remotes=[remote(site)]).search("a", top_k=30, min_confidence="none")
    local = SearchService([here, there]).search("a", top_k=30, min_confidence="none")
    assert [(hit.key, hit.confidence, hit.share) for hit in several] == [
        (hit.key, hit.confidence, hit.share) for hit in local
    ]
    assert {hit.confidence for hit in local} >= {"none", "low"}


def test_a_library_that_grows_while_it_is_asked_is_asked_again(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = shutil.copytree(folders[2], tmp_path / "growing")
    ask, steps = Connection.ask, list[str]()

    def disturbed(self: Any, step: str, *arguments: Any) -> Any:
        steps.append(step)
        if step == "candidates" and steps.count(step) <= changes:
            with writing(growing) as writer:
                add_video(writer, f"new{len(steps)}", [moving(3 * len(NAMES) + steps.count(step) % 4)])
                writer.publish()
        return ask(self, step, *arguments)

    monkeypatch.setattr(Connection, "ask", disturbed)
    with SearchService(growing) as served, serving(served) as site:
        service = SearchService(folders[1], remotes=[remote(site)])
        changes = 1
        hits = service.search("a", top_k=50, min_confidence="none")
        assert hits.missing == () and "new2" in {hit.key.fingerprint for hit in hits}
        changes = 100
        [missing] = service.search("a", min_confidence="none").missing
        assert missing.reason == "it changes too fast to be searched; ask again after its run"


def test_servers_that_are_silent_together_fail_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "_AT_ONCE_S", float(PATIENCE_S))
    begun = threading.Event()

    def silent(self: Any, *_: Any) -> Any:
        assert begun.wait(PATIENCE_S)
        raise LibraryUnreachable("https://films.example", "it does not answer in time")

    monkeypatch.setattr(Connection, "ask", silent)
    library, query = RemoteLibrary(Address("https", "films.example", 443)), parse("a")
    with library.ask(Request("a"), query, None) as member:
        threading.Timer(0.01, begun.set).start()
        assert member.failure() == "it does not answer in time"


def test_another_spec_is_named_and_the_others_answer(folders: list[Path], tmp_path: Path) -> None:
    own = shutil.copytree(folders[2], tmp_path / "own")
    use_own_spec(own)
    with SearchService(own) as served, serving(served) as site:
        hits = SearchService(folders[1], remotes=[remote(site)]).search("a", min_confidence="none")
    [missing] = hits.missing
    assert missing.library == remote(site).place and len(hits) == 7
    assert missing.reason.startswith(f"its models or spec differ from those of {folders[1]} (")


def test_another_version_is_named(folders: list[Path], sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "__version__", "0.0.1")
    [missing] = SearchService(folders[1], remotes=[remote(sites[2])]).search("a").missing
    assert missing.reason.startswith("it runs vfindex ") and "and this is 0.0.1; install one" in missing.reason


def test_a_server_of_several_libraries_is_no_member(folders: list[Path]) -> None:
    with SearchService(folders[2:4]) as served, serving(served) as site:
        [missing] = SearchService(folders[1], remotes=[remote(site)]).search("a").missing
    assert "serves several libraries as one; serve each at an address of its own" in missing.reason


def test_members_are_searched_and_nothing_else(sites: list[Site]) -> None:
    service = SearchService([], remotes=[remote(sites[1])])
    for call in (service.status, service.statuses, service.videos, service.version, lambda: service.video("v01")):
        with pytest.raises(UsageError, match="libraries on other machines can only be searched"):
            call()
    service.close()
