"""The page in a real browser, as a person uses it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image

from ldm.generation.pipeline import choose_model
from ldm.paths import EMOJI_CONFIG, project_file
from ldm.web.asked import Limits
from ldm.web.studio import Studio

pytest.importorskip("gradio", reason="the page needs the extra [web]")
pytest.importorskip("selenium", reason="browser tests need selenium")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver: make browser installs them"
)

SENTENCE = "A cat to the left of a bus."
T = TypeVar("T")


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    made = Studio({"emoji": choose_model(project_file(EMOJI_CONFIG))}, device="cpu", limits=Limits(side=128))
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    from ldm.web.serve import served

    with served(studio) as url:
        studio.warm()
        yield url


class Person:
    """Somebody at a browser."""

    def __init__(self, address: str, folder: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        flags = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage")
        for flag in (*flags, "no-first-run", "window-size=1300,1400", f"user-data-dir={folder / 'browser'}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        options.add_experimental_option("prefs", {"download.default_directory": str(self.downloads)})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.get(address)
        self.wait(lambda: self.one("#sentence textarea").is_displayed() and self.one(".sheet text"))
        self.wait(self.still)

    def wait(self, what: Callable[[], T], seconds: float = 60) -> T:
        """The first true value of `what`."""
        end, last = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                if value := what():
                    return value
            except Exception as error:  # noqa: BLE001  not there yet
                last = error
            time.sleep(0.05)
        raise AssertionError(f"waited in vain; the page says {self.one('#notes').text!r}") from last

    def still(self) -> bool:
        """Whether the page has found its layout."""
        before = self.one(".sheet").rect
        time.sleep(0.5)
        return bool(self.one(".sheet").rect == before)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def say(self, selector: str, text: str) -> None:
        from selenium.webdriver.common.keys import Keys

        box = self.one(selector)
        box.send_keys(Keys.CONTROL + "a")
        box.send_keys(text)

    def shown(self, selector: str) -> bool:
        return any(found.is_displayed() for found in self.all(selector))

    def steps(self, number: int) -> None:
        if not self.shown("#steps input[type=number]"):
            self.one("#more > button").click()
        self.wait(lambda: self.shown("#steps input[type=number]"))
        self.say("#steps input[type=number]", f"{number}\t")

    def layout(self, sentence: str) -> None:
        self.say("#sentence textarea", sentence)
        self.one("#layout").click()

    def objects(self) -> dict[str, tuple[float, float]]:
        """Centers of the drawn objects in percent, by phrase."""
        labels = [group.get_attribute("aria-label").split(", ") for group in self.all(".sheet g")]
        return {label[0]: tuple(float(part.split("%")[0].split()[-1]) for part in label[1:3]) for label in labels}  # type: ignore[misc]

    def draw(self) -> None:
        before = len(self.all("#gallery img"))
        self.one("#draw").click()
        self.wait(lambda: len(self.all("#gallery img")) == before + 1 and self.shown("#draw"))

    def saved(self, selector: str) -> Path:
        """The file that a button saves."""
        known = set(self.downloads.glob("*"))
        self.one(selector).click()
        made = self.wait(lambda: {p for p in self.downloads.glob("*") if p.suffix in (".png", ".json")} - known)
        return made.pop()

    def image(self) -> Image.Image:
        """The image, as it is saved."""
        return Image.open(self.saved("#get-image"))

    def keys(self, *keys: str, held: str = "") -> None:
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.driver)
        chain = chain.key_down(held).send_keys(*keys).key_up(held) if held else chain.send_keys(*keys)
        chain.perform()


@pytest.fixture
def person(address: str, tmp_path: Path) -> Iterator[Person]:
    made = Person(address, tmp_path)
    yield made
    made.driver.quit()


def test_somebody_lays_out_drags_draws_compares_and_recalls(person: Person, studio: Studio, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    person.layout(SENTENCE)
    before = person.wait(person.objects)
    assert before["A cat"][0] < 45 and before["a bus"][0] > 55
    person.steps(6)
    person.draw()
    first = person.image()
    assert first.info["parameters"].startswith(SENTENCE) and "Steps: 6" in first.info["parameters"]

    # The cat goes to where the bus is, and the bus to where the cat was.
    sheet = person.one(".sheet").rect["width"]
    for name, far, down in (("A cat", 0.45, 0.3), ("a bus", -0.45, 0)):
        disc = next(g for g in person.all(".sheet g") if g.get_attribute("aria-label").startswith(name))
        chain = ActionChains(person.driver).move_to_element(disc.find_element("css selector", "rect")).click_and_hold()
        chain.move_by_offset(round(sheet * far / 2), 5).move_by_offset(round(sheet * far / 2), round(sheet * down))
        chain.release().perform()
    after = person.objects()
    assert after["A cat"][0] > 55 and after["a bus"][0] < 45
    person.draw()
    moved = person.image()
    assert moved.tobytes() != first.tobytes()

    # Compare: two images under a slider; with the layout on them, another file is shown.
    assert len([image for image in person.all("#slider img") if image.is_displayed()]) == 2
    source = {image.get_attribute("src") for image in person.all("#slider img")}
    person.one("#discs input").click()
    person.wait(lambda: {image.get_attribute("src") for image in person.all("#slider img")} - source)
    assert "seed" in person.one("#facts").text

    # Recall the first from the gallery, whose newest comes first: layout, sentence and steps come back.
    person.say("#sentence textarea", "something else")
    person.steps(9)
    person.all("#gallery button")[1].click()
    person.wait(lambda: person.one("#sentence textarea").get_attribute("value") == SENTENCE)
    person.wait(lambda: person.objects() == before)
    assert person.one("#steps input[type=number]").get_attribute("value") == "6"

    # Nothing came from anywhere else, and no script stumbled.
    events = [json.loads(entry["message"])["message"] for entry in person.driver.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [u for u in urls if not u.startswith(("http://127.0.0.1:", "data:", "chrome:", "blob:"))] == []
    assert [entry for entry in person.driver.get_log("browser") if entry["level"] == "SEVERE"] == []

    # A file recalls, too, and a file of no use is told of.
    moved.save(tmp_path / "plain.png")
    person.one("#file input").send_keys(str(tmp_path / "plain.png"))
    person.wait(lambda: "no parameters" in person.one("#notes").text)


def test_the_canvas_by_keyboard_and_list(person: Person) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    sheet = person.one(".sheet")
    ActionChains(person.driver).move_to_element_with_offset(sheet, -60, -40).double_click().perform()
    person.keys("a dog", Keys.ENTER)
    x, y = person.wait(lambda: person.objects()["a dog"])
    assert x < 50 and y < 50
    person.one(".sheet g").click()
    person.keys(*[Keys.ARROW_RIGHT] * 3)
    person.keys(Keys.ARROW_DOWN, held=Keys.SHIFT)
    assert person.objects()["a dog"] == (x + 3, y + 5)
    person.keys("+", "+")
    assert "radius 22%" in person.one(".sheet g").get_attribute("aria-label")
    person.keys("z", held=Keys.CONTROL)
    assert "radius 21%" in person.one(".sheet g").get_attribute("aria-label")
    person.one("[data-tool=box]").click()
    person.one("[data-tool=add]").click()
    person.keys("a tree", Keys.TAB)
    assert ", box at" in person.all(".sheet g")[-1].get_attribute("aria-label")
    person.say("li.selected input[data-key=weight]", f"1.5{Keys.TAB}")
    person.say("li.selected input[data-key=negative_prompt]", f"leaves{Keys.TAB}")
    person.one("li.selected .x").click()
    assert list(person.objects()) == ["a dog"]
    person.one("[data-tool=undo]").click()
    assert set(person.objects()) == {"a dog", "a tree"}
    value = person.driver.execute_script(
        "return document.querySelector('li:nth-child(2) .dot').closest('li').querySelector('input').value"
    )
    assert value == "a tree"
    person.one(".sheet g[data-i='0']").send_keys(Keys.DELETE)
    assert list(person.objects()) == ["a tree"]


def test_stop_keeps_what_is_there_and_another_visitor_sees_nothing(
    person: Person, address: str, studio: Studio, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Person(address, tmp_path_factory.mktemp("other"))
    try:
        for who, sentence, steps in ((person, "a cat and a dog", 200), (other, "a bus", 4)):
            who.say("#sentence textarea", sentence)
            who.steps(steps)
        person.one("#draw").click()
        person.wait(lambda: person.one("#stage .look img"))
        other.one("#draw").click()
        other.wait(lambda: other.shown("#stop"))
        other.layout("a cat")  # does not wait for the image
        other.wait(lambda: list(other.objects()) == ["a cat"], 10)
        person.one("#stop").click()
        person.wait(lambda: "after step" in person.one("#facts").text)
        assert "Stopped after step" in person.image().info["parameters"]
        other.wait(lambda: len(other.all("#gallery img")) == 1)
        assert [len(who.all("#gallery img")) for who in (person, other)] == [1, 1]
        folders = [session.folder for session in studio.sessions.values() if session.drawn]
        other.steps(200)
        other.one("#draw").click()
        other.wait(lambda: other.one("#stage .look img"))
    finally:
        other.driver.quit()  # in the middle of it
    end = time.monotonic() + 30
    while time.monotonic() < end and (
        all(folder.exists() for folder in folders) or any(thread.name == "draw" for thread in threading.enumerate())
    ):
        time.sleep(0.1)
    assert sum(folder.exists() for folder in folders) == 1
    assert not any(thread.name == "draw" for thread in threading.enumerate())
