"""The page of a report: complete, self-contained, and safe whatever it shows."""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustkit.errors import BadInput
from robustkit.report import EvasionReport, Flag, Picture, Report, render, write_html
from robustkit.report.pictures import data_uri, difference
from tests.report.examples import HOSTILE, evasion, full, hostile, picture

# The elements of the page; whatever else appears was smuggled in.
HEAD = {"html", "head", "meta", "title", "style"}
BODY = {"body", "header", "main", "section", "footer"}
TEXT = {"div", "span", "p", "h1", "h2", "h3", "ul", "li", "dl", "dt", "dd", "strong", "small", "br"}
TABLES = {"table", "thead", "tbody", "tr", "th", "td"}
IMAGES = {"figure", "figcaption", "img", "svg", "line", "rect"}
CHARTS = {"path", "circle", "text", "details", "summary"}
ELEMENTS = HEAD | BODY | TEXT | TABLES | IMAGES | CHARTS | {"pre", "code"}
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text; checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.text += " "
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and not (self._open and self._open[-1] == tag):
            assert tag in ("line", "rect"), f"</{tag}> closes {self._open[-1:]}"
        elif tag not in VOID:
            self._open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def pixels(uri: str) -> Tensor:
    """The (C, H, W) bytes of an inline image."""
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    return torch.from_numpy(image.copy().reshape(*image.shape[:2], -1)).permute(2, 0, 1)


def test_the_page_says_what_the_report_says() -> None:
    page = Page(render(full(), [picture()])).words
    for sentence in (
        "Robust accuracy 40.0 % 16.8 % to 68.7 % 95 % interval, n = 10",
        "Clean accuracy 80.0 %",
        "4 robust 4 broken 2 misclassified",
        "warn few-examples Only 10 examples were used.",
        "every value by at most 8/255 (0.03137)",
        "pgd steps=20, restarts=5, step_size=none",
        "not in plan square, cgba",
        "undefended net Robust accuracy 0 (0 to 0.28). The attacks break what should break.",
        "cat → dog #4 pgd distance 0.125",
        "Difference \N{MULTIPLICATION SIGN} 4.0",
        "robustkit evaluate --threat linf",
        "1,234 forward and 800 backward passes (1,300 rows run) in 12 s",
        "11,173,962 parameters",
        "Training data CIFAR-10",
        "ab" * 32,
        "cd" * 32,
    ):
        assert sentence in page.replace("\u202f", " "), sentence


def test_a_report_without_anything_optional() -> None:
    report = replace(evasion(), attacks=(), skipped=(), flags=(), command=None)
    page = Page(render(report)).words
    assert "None ran" in page
    for heading in ("Flags", "Controls", "Broken examples", "Not run"):
        assert heading not in page


def test_a_void_number_is_struck_out() -> None:
    void = replace(evasion(), flags=(Flag(id="x", severity="void", message="Broken."),))
    assert "This number is not valid" in Page(render(void)).words
    assert "This number is not valid" not in Page(render(evasion())).words


def test_the_bar_of_outcomes_adds_up() -> None:
    bars = [rect for rect in Page(render(evasion())).all("rect") if "x" in rect]
    assert [(bar["class"], bar["x"], bar["width"]) for bar in bars] == [
        ("robust", "0.00", "40.00"),
        ("broken", "40.00", "40.00"),
        ("misclassified", "80.00", "20.00"),
    ]


class TestSafety:
    @pytest.mark.parametrize("make", [evasion, full, hostile])
    def test_nothing_runs_and_nothing_is_loaded(self, make: Callable[[], EvasionReport]) -> None:
        page = Page(render(make(), [picture(name=HOSTILE)]))
        assert {name for name, _ in page.elements} <= ELEMENTS
        for name, attributes in page.elements:
            assert not {attribute for attribute in attributes if attribute.startswith("on")}
            assert not {"href", "srcset", "style", "action", "background"} & set(attributes)
            if "src" in attributes:
                assert name == "img"
                assert attributes["src"].startswith("data:image/png;base64,")

    def test_the_policy_allows_this_style_and_inline_images_alone(self) -> None:
        text = render(evasion())
        style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
        policies = [meta["content"] for meta in Page(text).all("meta") if "http-equiv" in meta]
        assert policies[0].split("; ") == [
            "default-src 'none'",
            "img-src data:",
            f"style-src 'sha256-{digest}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
        assert "url(" not in style[0]
        assert "@import" not in style[0]

    def test_strings_arrive_as_text(self) -> None:
        text = render(hostile(), [picture(name=HOSTILE)])
        assert "<script" not in text
        assert "<script>alert('x')</script>\"'&[red]{{ 7*7 }}[/]" in Page(text).text
        for character in ("\x1b", "\x07", "\x9b", "\u202e"):
            assert character not in text

    def test_the_command_keeps_its_spaces(self) -> None:
        report = replace(evasion(), command="robustkit evaluate --model 'a  b.py:make'")
        assert "--model 'a  b.py:make'" in Page(render(report)).text


class TestPictures:
    def test_an_image_comes_back_as_it_was(self) -> None:
        image = torch.arange(3 * 4 * 5).reshape(3, 4, 5) / 255
        assert torch.equal(pixels(data_uri(image)).float() / 255, image)
        assert torch.equal(pixels(data_uri(image[:1])).float() / 255, image[:1])

    def test_the_largest_change_reaches_white_or_black(self) -> None:
        clean = torch.full((1, 2, 2), 0.5)
        changed = clean.clone()
        changed[0, 0, 0], changed[0, 1, 1] = 0.25, 0.625
        shown, factor = difference(clean, changed)
        assert factor == 2
        assert shown.flatten().tolist() == [0.0, 0.5, 0.5, 0.75]

    def test_no_change_is_plain_grey(self) -> None:
        shown, factor = difference(torch.zeros(3, 2, 2), torch.zeros(3, 2, 2))
        assert factor == 1
        assert bool((shown == 0.5).all())

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_any_number_of_channels(self, channels: int) -> None:
        shown = Page(render(evasion(), [picture(channels=channels)])).all("img")
        assert [len(pixels(image["src"])) for image in shown] == [3 if channels == 3 else 1] * 3

    def test_large_images_shrink(self) -> None:
        found = pixels(data_uri(torch.rand(3, 640, 320, generator=torch.Generator())))
        assert found.shape == (3, 320, 160)

    @pytest.mark.parametrize(("size", "crisp"), [(8, "small"), (224, "")])
    def test_small_images_stay_crisp(self, size: int, crisp: str) -> None:
        divisions = Page(render(evasion(), [picture(size=size)])).all("div")
        kinds = [division["class"] for division in divisions if "class" in division]
        assert f"images {crisp}" in kinds

    def test_values_that_are_no_numbers(self) -> None:
        bad = torch.tensor([[[float("nan"), float("inf"), -float("inf"), 2.0]]])
        assert pixels(data_uri(bad)).flatten().tolist() == [0, 255, 0, 255]

    def test_at_most_twenty_are_shown(self) -> None:
        page = Page(render(evasion(), [picture()] * 23))
        assert len(page.all("img")) == 60
        assert "3 more are in the examples file" in page.words

    def test_images_that_do_not_belong_together(self) -> None:
        given = picture()
        odd = Picture(
            id=given.id,
            label_name="a",
            answer_name="b",
            attack="pgd",
            distance=1.0,
            clean=given.clean,
            changed=given.changed[:, 1:],
        )
        with pytest.raises(BadInput, match="example 4"):
            render(evasion(), [odd])


def test_writing(tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.html"
    report: Report = full()
    write_html(report, path, [picture()])
    assert path.read_text(encoding="utf-8") == render(report, [picture()])
