"""The page: what it makes, what it recalls and refuses, its API, and its password."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.errors import UserError
from ldm.generation.pipeline import ModelChoice, choose_model
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.spacetime.layout import Layout, LayoutObject
from ldm.web.asked import Limits, WebSettings, layout_of
from ldm.web.recall import Recalled, recall
from ldm.web.serve import named
from ldm.web.studio import Drawn, Progress, Session, Studio
from tests import diffusers_folders
from tests.scripts_under_test import refusal

pytest.importorskip("gradio", reason="the page needs the extra [web]")

SENTENCE = "A cat to the left of a bus."
LAYOUT = Layout((LayoutObject("A cat", 0.25, 0.5), LayoutObject("a bus", 0.75, 0.5)), SENTENCE)
MOST = {"steps": 200, "width": 1024, "height": 1024, "seed": 2**63}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The embedded model, and one that can't be loaded."""
    emoji = choose_model(project_file(EMOJI_CONFIG))
    broken = tmp_path_factory.mktemp("models") / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    models = {"emoji": emoji, "broken": ModelChoice(emoji.config, broken, embedded=False)}
    made = Studio(models, device="cpu", limits=Limits(side=128, steps=60, upload=1 << 20))
    yield made
    made.close()
    assert not made.folder.exists()


def wish(**more: Any) -> WebSettings:
    return WebSettings((SENTENCE,), **{"steps": 4, "preset": "fixed", "sampler": "plms", **more})


def make(studio: Studio, session: Session, settings: WebSettings, layout: Layout = LAYOUT) -> Drawn:
    *_, last = studio.draw(session, "emoji", settings, layout)
    assert isinstance(last, Drawn)
    return last


@pytest.fixture
def session(studio: Studio) -> Iterator[Session]:
    yield studio.session("somebody")
    studio.leave("somebody")


def test_an_image_is_drawn_and_its_file_recalls_it(studio: Studio, session: Session) -> None:
    told = list(studio.draw(session, "emoji", wish(preset="per-step", baseline=True, seed=7), LAYOUT))
    steps = [update for update in told if isinstance(update, Progress)]
    assert [(s.done, s.total) for s in steps] == [(n, 4) for n in (1, 2, 3, 4)] * 2
    assert steps[0].preview is not None and steps[0].preview.shape == (128, 128, 3) and steps[0].loss is not None
    drawn = told[-1]
    assert isinstance(drawn, Drawn) and session.drawn == [drawn]
    kinds = {"image", "baseline", "layout", "comparison", "weights", "losses", "layout_file"}
    assert set(drawn.files) == kinds and all(path.is_file() for path in drawn.files.values())
    assert drawn.facts["seed"] == "7" and drawn.facts["time"].endswith(" s")
    found = recall(drawn.files["image"], "00000.png", MOST)
    expected = {"prompt": SENTENCE, "preset": "per-step", "steps": 4, "seed": 7, "scale": 5.0, "sampler": "plms"}
    assert found.settings.items() >= {**expected, "width": 128, "height": 128}.items() and not found.notes
    assert found.layout == LAYOUT
    assert recall(drawn.files["layout_file"], "layout.json", MOST).layout == LAYOUT
    again = make(studio, session, replace(drawn.settings, baseline=False))
    assert Image.open(again.files["image"]).tobytes() == Image.open(drawn.files["image"]).tobytes()


def test_regions_are_recalled_with_all_that_belongs_to_them(studio: Studio, session: Session) -> None:
    entries = [
        {"phrase": 'a "cat", black; (small)', "box": [0.1, 0.1, 0.5, 0.6], "weight": 1.5, "end": 0.5},
        {"phrase": "a bus", "polygon": [[0.5, 0.5], [1, 0.5], [0.75, 1]], "prompt": "a red bus", "optimize": False},
        {"phrase": "a dog", "x": 0.5, "y": 0.5, "radius": 0.1, "negative_prompt": "a cat"},
    ]
    layout = layout_of({"objects": entries}, SENTENCE, "blurry")
    drawn = make(studio, session, wish(), layout)
    for file in (drawn.files["image"], drawn.files["layout_file"]):
        found = recall(file, file.name, MOST)
        assert found.layout is not None and found.layout.objects == layout.objects
    assert json.loads(drawn.files["layout_file"].read_text())["negative_prompt"] == "blurry"


def test_short_forms_of_regions_are_read(tmp_path: Path) -> None:
    places = "a cat (0.250 0.500); a bus (box 0.100 0.200 0.300 0.400); the sun (ellipse 0.000 0.000 0.500 0.200)"
    text = f'a cat\nSteps: 4, Sampler: PLMS, Spacetime layout: "{places}; x (polygon 0 1)"'
    found = read(png(tmp_path / "a.png", parameters=text))
    assert found.layout is not None and [thing.to_json() for thing in found.layout.objects] == [
        {"phrase": "a cat", "x": 0.25, "y": 0.5},
        {"phrase": "a bus", "box": [0.1, 0.2, 0.3, 0.4]},
        {"phrase": "the sun", "ellipse": [0.25, 0.1, 0.25, 0.1]},
    ]
    assert "Not all objects" in found.notes[0]


def test_the_best_of_several_is_kept_and_can_be_made_alone(studio: Studio, session: Session) -> None:
    best = make(studio, session, wish(samples=3, seed=1))
    losses = [float(loss) for loss in best.facts["losses"].split(", ")]
    assert best.settings.seed == 1 + losses.index(min(losses)) and best.settings.samples == 1 and len(losses) == 3


def test_without_objects_or_with_the_plain_model(studio: Studio, session: Session) -> None:
    plain = make(studio, session, wish(preset=None))
    empty = make(studio, session, wish(), Layout(()))
    assert set(plain.files) == {"image", "layout_file"}
    assert Image.open(plain.files["image"]).tobytes() == Image.open(empty.files["image"]).tobytes()


def test_stop_keeps_what_is_there(studio: Studio, session: Session) -> None:
    for preset, steps in (("per-step", 50), ("iccv-2023", 10)):
        session.stop.clear()
        last: Any = None
        for update in studio.draw(session, "emoji", wish(preset=preset, steps=steps), LAYOUT):
            if isinstance(update, Progress) and update.done == 2:
                session.stop.set()
            last = update
        assert isinstance(last, Drawn)
        after = last.settings.stopped
        assert after is not None and 2 <= after <= 4 and last.facts["stopped"] == f"after step {after}"
        assert f"Stopped after step: {after}" in Image.open(last.files["image"]).info["parameters"]
    with pytest.raises(UserError, match="no image"):
        make(studio, session, wish())  # still told to stop


def test_a_visitor_who_leaves_ends_the_run_and_leaves_nothing(studio: Studio) -> None:
    session = studio.session("leaver")
    make(studio, session, wish())
    run = studio.draw(session, "emoji", wish(steps=60), LAYOUT)
    next(run)
    studio.leave("leaver")
    with pytest.raises(UserError, match="nobody waits"):
        list(run)
    assert not session.folder.exists() and "leaver" not in studio.sessions
    run = studio.draw(studio.session("closer"), "emoji", wish(steps=60), LAYOUT)
    next(run)
    run.close()  # as Gradio does where the connection is lost
    assert not any(thread.name == "draw" for thread in threading.enumerate())


def test_a_session_keeps_a_number_of_images(studio: Studio, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.web.studio.KEPT", 2)
    drawn = [make(studio, session, wish(steps=1, seed=seed, preset=None)) for seed in range(4)]
    assert session.drawn == drawn[2:]
    assert sorted(path.name for path in session.folder.glob("*/*")) == ["00002", "00002.png", "00003", "00003.png"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps": 61}, "steps can be 60"),
        ({"steps": 0}, "steps must be from 1"),
        ({"width": 256}, "up to 128"),
        ({"height": 40}, "multiple of 64"),
        ({"samples": 9}, "best of can be 8"),
        ({"preset": "best"}, "preset 'best' is unknown"),
        ({"scale": float("nan")}, "finite"),
    ],
)
def test_more_than_is_allowed_is_refused(studio: Studio, session: Session, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(studio, session, wish(**more))


def test_a_model_that_cannot_be_loaded_is_told_and_the_others_go_on(studio: Studio, session: Session) -> None:
    with pytest.raises(UserError, match=r"broken\.ckpt"):
        list(studio.draw(session, "broken", wish(), LAYOUT))
    assert make(studio, session, wish()).model == "emoji"


# ------------------------------------------------------------------------------------------------ recall


def png(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text, zip=len(text) > 10_000)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def read(path: Path) -> Recalled:
    return recall(path, path.name, MOST)


def test_a_model_of_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    choice = choose_model(model=str(diffusers_folders.build("xl", tmp_path / "tiny-1.5")))
    models = named([choice])
    assert next(iter(models)) == "tiny-1.5"
    studio = Studio(models, device="cpu")
    try:
        *_, last = studio.draw(studio.session("a"), "tiny-1.5", wish(width=32, height=16), LAYOUT)
        assert isinstance(last, Drawn) and Image.open(last.files["image"]).size == (32, 16)
    finally:
        studio.close()


def test_flags_of_a_model_of_diffusers_need_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "go with --model" in refusal(capfd, "web", "--lora", tmp_path / "a.safetensors")


def test_images_of_web_uis_are_recalled(tmp_path: Path) -> None:
    text = (
        "a cat, (masterpiece:1.2)\nsecond line\nNegative prompt: blurry, dark\n"
        'Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 12345, Size: 512x768, Model hash: abc, Version: "v1, x: 2"'
    )
    found = read(png(tmp_path / "a.png", parameters=text))
    assert found.settings == {
        **{"prompt": "a cat, (masterpiece:1.2)\nsecond line", "negative_prompt": "blurry, dark"},
        **{"steps": 20, "seed": 12345, "width": 512, "height": 768, "scale": 7.5},
    }
    assert found.layout is None and "Euler a" in found.notes[0]
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").settings == found.settings


def test_numbers_over_the_limits_are_left_and_told(tmp_path: Path) -> None:
    found = read(png(tmp_path / "a.png", parameters="a cat\nSteps: 900, Sampler: DDIM, Seed: 5, Size: 4096x64"))
    assert found.settings == {"prompt": "a cat", "negative_prompt": "", "seed": 5, "height": 64, "sampler": "ddim"}
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"", "empty"),
        ("a.png", b"\x89PNG\r\n\x1a\nrest", "not an image"),
        ("a.png", b"<html>", "web page"),
        ("a.txt", b"hello", "not an image"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"[" * 200_000, "nested too deeply|not valid JSON"),
        ("a.json", b'{"objects": [' + b" " * (1 << 20) + b"]}", "larger than any layout"),
        ("a.json", b'{"objects": [{"phrase": "a cat", "x": 2, "y": 0}]}', "between 0 and 1"),
        ("a.json", b'{"objects": [{"phrase": "a cat", "x": NaN, "y": 0}]}', "finite|JSON"),
        ("a.json", b'{"settings": [], "layout": 3}', "layout"),
    ],
)
def test_uploads_of_no_use_are_told(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as told:
        read(path)
    assert str(tmp_path) not in str(told.value)


def test_hostile_texts_in_images_are_answered_at_once(tmp_path: Path) -> None:
    start = time.process_time()
    for text in ("word " * 180_000, "a\nSteps " + "b " * 200_000, ',"' * 400_000, "no parameters at all"):
        with pytest.raises(UserError):
            read(png(tmp_path / "a.png", parameters=text))
    with contextlib.suppress(UserError):
        read(png(tmp_path / "a.png", parameters="Steps:" * 90_000))
    with pytest.raises(UserError, match="damaged"):
        read(png(tmp_path / "b.png", parameters="x" * (3 << 20)))  # a megabyte is what Pillow takes
    with pytest.raises(UserError, match="no parameters"):
        read(png(tmp_path / "c.png"))
    assert time.process_time() - start < 5


def test_settings_of_an_image_are_recalled_where_they_are_of_their_type(tmp_path: Path) -> None:
    record = {
        "layout": LAYOUT.to_json(),
        "settings": {"steps": "many", "seed": 3, "scale": True, "preset": "fixed", "sampler": "../x", "width": -1},
    }
    (tmp_path / "settings.json").write_text(json.dumps(record))
    found = read(tmp_path / "settings.json")
    assert found.settings == {"prompt": SENTENCE, "seed": 3, "preset": "fixed"} and found.layout == LAYOUT


# ----------------------------------------------------------------------------------------- the page itself


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    from ldm.web.serve import served

    with served(studio) as url:
        yield url


@pytest.fixture
def client(address: str, tmp_path: Path) -> Iterator[Any]:
    from gradio_client import Client

    made = Client(address, download_files=str(tmp_path), verbose=False)
    yield made
    made.close()


def test_programs_call_the_page(client: Any) -> None:
    layout = client.predict(SENTENCE, api_name="/layout")
    assert [thing["phrase"] for thing in layout["objects"]] == ["A cat", "a bus"]
    made = client.predict(SENTENCE, layout=layout, steps=2, preset="fixed", baseline=True, api_name="/draw")
    assert made["layout"] == layout and made["facts"]["seed"] == "42"
    assert Image.open(made["image"]).size == Image.open(made["baseline"]).size == (128, 128)
    assert recall(Path(made["image"]), "image", MOST).settings["steps"] == 2


@pytest.mark.parametrize(
    "more",
    [
        {"steps": 61},
        {"steps": "x"},
        {"steps": 1e400},
        {"width": 4096},
        {"best_of": 10**9},
        {"preset": 5},
        {"layout": {"objects": [{"phrase": "a cat", "x": 0.5, "y": 0.5}] * 21}},
        {"layout": {"objects": 3}},
        {"model": "../../etc/passwd"},
        {"model": "broken"},
        {"seed": -1},
    ],
    ids=str,
)
def test_programs_are_refused_in_a_sentence(client: Any, more: dict[str, Any]) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises((AppError, ValueError)) as told:
        client.predict(SENTENCE, **more, api_name="/draw")
    assert "Traceback" not in str(told.value) and len(str(told.value)) < 500


def test_two_at_once_get_their_own_images(address: str, studio: Studio, tmp_path: Path) -> None:
    from gradio_client import Client

    clients = [Client(address, download_files=str(tmp_path / str(i)), verbose=False) for i in range(2)]
    jobs = [
        who.submit(f"a {name}", steps=4, preset="fixed", seed=1, api_name="/draw")
        for who, name in zip(clients, ("cat", "bus"), strict=True)
    ]
    made = [job.result(timeout=60) for job in jobs]
    assert [entry["layout"]["prompt"] for entry in made] == ["a cat", "a bus"]
    assert [len(studio.sessions[who.session_hash].drawn) for who in clients] == [1, 1]
    folders = [studio.sessions[who.session_hash].folder for who in clients]
    for who in clients:
        who.close()
    end = time.monotonic() + 20
    while any(folder.exists() for folder in folders) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(folder.exists() for folder in folders)


def test_uploads_have_a_limit(address: str) -> None:
    import httpx

    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", b"x" * (2 << 20))})
    assert answer.status_code == 413


def test_a_password_is_asked_for(studio: Studio) -> None:
    import httpx

    from ldm.web.serve import served

    with served(studio, password="open sesame") as url:
        for given, code in (("wrong", 400), ("open sesame", 200)):
            assert httpx.post(f"{url}login", data={"username": "me", "password": given}).status_code == code
        assert httpx.get(f"{url}config").status_code == 401


def test_flags_that_are_of_no_use(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        assert "--password-file" in refusal(capfd, "web", "--host", host)
    (tmp_path / "short").write_text("1234\n")
    assert "8 characters" in refusal(capfd, "web", "--password-file", tmp_path / "short")
    assert "does not exist" in refusal(capfd, "web", "--ckpt", tmp_path / "none.ckpt")
    assert "cannot be read" in refusal(capfd, "web", "--password-file", tmp_path)
