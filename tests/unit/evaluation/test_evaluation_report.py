"""The report: nothing from the network, nothing unescaped, nothing hidden, and the verdict that the figures bear out."""

import base64
import html
import io
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import fake_report_run as fake
import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from pipeline.evaluation.metrics import percent as level
from pipeline.evaluation.plotting import ROLES, percent
from pipeline.evaluation.report import LISTED, inline_svg, render_report
from pipeline.evaluation.report_inputs import GalleryItem
from pipeline.evaluation.verdict import Rate, verdict
from pipeline.params.flat import flatten

VOID_TAGS = {"meta", "img", "br", "link", "input", "hr"}
TABLE = fake.score_table(images=100)
METRICS = fake.metric_values(TABLE)


def _render(**changes: Any) -> str:
    """A run with one detector, unless the changes say otherwise: each detector costs two figures."""
    few = {"scores": TABLE, "metrics": METRICS, "calibration": {"likelihood_ratio": {"pooled": 100}}}
    return render_report(fake.report_inputs(**few | changes))


@pytest.fixture(scope="module")
def page() -> str:
    """The whole run, with all three detectors."""
    return _render(calibration=fake.report_inputs(scores=TABLE, metrics=METRICS).calibration)


class _Reader(HTMLParser):
    """Collects tags, ids, references and the visible text; remembers tags that do not close where they should."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.wrong: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids.update(value for name, value in attrs if name == "id" and value)
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open[-1:]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _plain(page: str) -> str:
    return _Reader(page).text


def _section(page: str, name: str) -> str:
    return _plain(re.split(r"</section>", page.split(f'<section id="{name}">')[1])[0])


def test_page_is_well_formed_and_ids_are_unique(page: str) -> None:
    reader = _Reader(page)
    assert not reader.wrong and not reader.open
    assert {name: count for name, count in reader.ids.items() if count > 1} == {}
    targets = {value.removeprefix("#") for _, name, value in reader.attributes if name in {"href", "xlink:href"}}
    targets |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(reader.ids)


def test_page_needs_no_network_and_no_script(page: str) -> None:
    reader = _Reader(page)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(reader.tags)
    loaded = [value for _, name, value in reader.attributes if name in {"src", "href", "xlink:href", "srcset", "data", "action"}]
    assert loaded and all(value.startswith(("#", "data:image/png;base64,")) for value in loaded)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "default-src 'none'" in page and "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_same_inputs_give_the_same_page() -> None:
    assert _render() == _render()


def test_figures_take_the_pages_colours_which_are_all_defined_in_light_and_dark(page: str) -> None:
    style, body = page.split("</style>")
    # The text in the heat map's cells stays black or white in both, as its cells stay the same.
    assert not [role for role, colour in ROLES.items() if re.search(f"{colour}(?![0-9a-f])", body, re.IGNORECASE)]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    for theme in (light, dark.split("* {")[0]):
        assert used <= set(re.findall(r"(--[\w-]+):", theme))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [("ink", "paper"), ("muted", "paper"), ("muted", "page"), ("accent", "page"), ("alert", "alert-page"), ("good", "paper")],
)
def test_text_has_enough_contrast(page: str, theme: str, ink: str, ground: str) -> None:
    part = page.split("@media (prefers-color-scheme: dark)")[theme == "dark"].split("* {")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))

    def luminance(colour: str) -> float:
        linear = [
            (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        ]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    lights = sorted((luminance(colours[ink]), luminance(colours[ground])))
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5  # WCAG 2.1, level AA


def test_every_rate_stands_there_with_its_interval(page: str) -> None:
    text = _section(page, "figures")
    for detector in fake.DETECTORS:
        for name, value in METRICS.items():
            if name.startswith(f"{detector}.") and f"{name}_low" in METRICS:
                low, high = METRICS[f"{name}_low"], METRICS[f"{name}_high"]
                assert value is not None and low is not None and high is not None
                known = Rate(value, low, high)
                expected = (known.area, known.area_interval) if ".auroc" in name else (known.text, known.interval)
                assert " ".join(" ".join(expected).split()) in text, name
    assert "no interval" not in text


def test_attacks_are_told_with_wilson_intervals_over_what_was_tried(page: str) -> None:
    text = _section(page, "attacks")
    interval = binomtest(300, 372).proportion_ci(0.95, method="wilson")
    assert f"{percent(300 / 372)} {100 * interval.low:.1f} to {percent(interval.high)}".replace("\N{NO-BREAK SPACE}", " ") in text
    assert "0.0314" in text and "fgsm fgsm 400 28" in text


def test_whatever_comes_from_data_is_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>'\"&"
    names = (evil, *fake.CLASSES[1:])
    row = {"key": evil, "origin": evil, "label": 0, "reason": evil, "detail": evil}
    kept = {evil: {evil: 3}}
    page = _render(
        class_names=names, quarantine=[row], kept=kept, pooled={evil: evil}, notes=[evil], promise=evil, commit=evil,
        classifier={evil: evil}, versions={evil: evil}, timings={evil: 1.0}, params={**fake.params(), evil: {evil: evil}},
    )  # fmt: skip
    reader = _Reader(page)
    assert not [name for _, name, _ in reader.attributes if name == "onerror"]
    assert not reader.wrong
    assert page.count(html.escape(evil)) + page.count("&lt;img src=x") > 10


@pytest.mark.parametrize("promise", [None, "classifier.unseen is unknown."])
def test_a_void_promise_is_the_first_thing_said(promise: str | None) -> None:
    text = _section(_render(promise=promise), "verdict")
    assert ("The false-alarm promise is void. classifier.unseen is unknown." in text) == (promise is not None)
    assert ("promised false alarms" in text) == (promise is None)
    assert ("set to a promised false-alarm rate" in text) == (promise is None)
    assert text.index("void" if promise else "promised") < text.index("It raises a false alarm")


def _metrics(attacks: dict[str, float | None], fpr: tuple[float, float, float] | None = (0.05, 0.03, 0.07)) -> dict[str, float | None]:
    values: dict[str, float | None] = {"d.clean.images": 1234.0}
    if fpr:
        values |= dict(zip((f"d.clean.fpr_at_5{end}" for end in ("", "_low", "_high")), fpr, strict=True))
    for attack, value in attacks.items():
        ends = (value, None, None) if value is None else (value, value - 0.02, value + 0.01)
        values |= dict(zip((f"d.{attack}.tpr_at_5{end}" for end in ("", "_low", "_high")), ends, strict=True))
    return values


@pytest.mark.parametrize(
    ("attacks", "headline", "said"),
    [
        (
            {"a": 0.9, "b": 0.25, "c": 0.5},
            "Flags 25 % to 90 % of attacked images, depending on the attack",
            "25 % (23 to 26 %) of those that b did",
        ),
        ({"a": 0.9}, "Flags 90 % of attacked images", "90 % (95 % interval 88 to 91 %) of the images that a turned"),
        ({"a": 0.9, "b": None}, "Flags 90 % of attacked images", "For b there is no figure"),
        ({"a": None}, "Detection could not be measured in this run", "For a there is no figure"),
        ({}, "Detection could not be measured in this run", "None of the attacks behind these figures knows of the guard"),
        ({"a": 0.5, "b": 0.5}, "Flags 50 % of attacked images", "1,234 clean test images, misclassified ones included"),
    ],
)
def test_verdict_follows_from_the_figures(attacks: dict[str, float | None], headline: str, said: str) -> None:
    judged = verdict(_metrics(attacks), "d", list(attacks), alpha=0.05, confidence=0.95, promise=None)
    assert judged.headline.replace("\N{NO-BREAK SPACE}", " ") == headline
    assert said in " ".join(judged.sentences).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("fpr", "promise", "said"),
    [
        (
            (0.05, 0.03, 0.07),
            None,
            "5 % (3 to 7 %) of the 1,234 clean test images, misclassified ones included: in keeping with the promise",
        ),
        ((0.09, 0.06, 0.12), None, "more than promised"),
        ((0.01, 0.005, 0.02), None, "less than the promise allows"),
        ((0.01, 0.005, 0.02), "unseen is unknown", "since the promise is void"),
        ((0.05, 0.05, 0.05), None, "in keeping with the promise"),
        (None, None, "False alarms at 5 % were not measured"),
    ],
)
def test_verdict_on_false_alarms(fpr: tuple[float, float, float] | None, promise: str | None, said: str) -> None:
    judged = verdict(_metrics({"a": 0.9}, fpr), "d", ["a"], alpha=0.05, confidence=0.95, promise=promise)
    assert said in " ".join(judged.sentences).replace("\N{NO-BREAK SPACE}", " ")


def test_the_guards_detector_comes_first(page: str) -> None:
    assert re.findall(r"<h3>(\w+)", page.split('<section id="curves">')[1].split("</section>")[0]) == list(fake.DETECTORS)
    groups = {"likelihood_ratio": {"pooled": 100}, "vote": {"pooled": 100}}
    other = _render(guard_detector="vote", calibration=groups).split('<section id="curves">')[1]
    assert re.findall(r"<h3>(\w+) <span", other)[:1] == ["vote"] and re.findall(r"<h3>(\w+)", other)[0] == "vote"


def test_undefined_figures_are_a_dash_and_never_a_crash() -> None:
    page = _render(
        metrics=dict.fromkeys(METRICS),
        attacks=[{**fake.attack_rows()[0], "images": 5, "skipped": 5, "successes": 0, "mean_linf": None, "mean_l2": None}],
    )
    assert _section(page, "figures").count("–") == len(fake.SHIFTS) * 5 + 4
    assert "Detection could not be measured in this run" in page


def test_bare_run_says_what_is_absent() -> None:
    text = _plain(_render(history=None, quarantine=[], pooled={}, notes=[], timings={}, gallery=[], attacks=[]))
    for said in (
        "adopted as it is, not trained here", "None: every image could be used.", "None: every class has a bank of its own.",
        "No attacked image is shown in this run.", "No attack was run.",
    ):  # fmt: skip
        assert said in text
    assert "Time by stage" not in text


def test_gallery_images_are_the_pixels_that_were_given() -> None:
    rng = np.random.default_rng(4)
    items = [GalleryItem(*fake.image_pair(rng, channels, 12), "fgsm", 1, 2, 3, 0.004, flag) for channels, flag in ((1, True), (3, False))]
    page = _render(gallery=items)
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert [image.mode for image in images] == ["L"] * 3 + ["RGB"] * 3
    for shown, given in zip(
        (images[0], images[1], images[3], images[4]),
        (items[0].clean[0], items[0].attacked[0], items[1].clean, items[1].attacked),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(shown), given if given.ndim == 2 else given.transpose(1, 2, 0))
    text = _section(page, "gallery")
    assert "✓ flagged p-value 0.004 true class automobile; seen as bird when clean, as cat under attack" in text
    assert "✗ not flagged" in text


@pytest.mark.parametrize(("extra", "said"), [(0, None), (1, "1 more are left out here"), (1234, "1,234 more are left out here")])
def test_long_quarantine_lists_are_counted_whole(extra: int, said: str | None) -> None:
    rows = [
        {"key": f"file{i}", "origin": "train", "label": 0, "reason": ("empty", "truncated")[i % 2], "detail": "x"}
        for i in range(LISTED + extra)
    ]
    text = _section(_render(quarantine=rows), "files")
    assert f"{LISTED + extra:,} in all" in text and f"file{LISTED - 1} " in text and f"file{LISTED} " not in text
    assert (said or "nothing") in text if said else "left out" not in text


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (98, "flags nothing at 1 %"),
        (99, None),
        (18, "flags nothing at 1 %, 5 %"),
        (19, "flags nothing at 1 %"),
        (0, "flags nothing at 1 %, 5 %"),
    ],
)
def test_groups_too_small_to_flag_are_named(images: int, said: str | None) -> None:
    """The smallest p-value is 1/(n+1): 99 images reach 1 % exactly, 19 reach 5 %."""
    text = _section(_render(calibration={"vote": {"3": images}}, guard_detector="vote"), "calibration").replace("\N{NO-BREAK SPACE}", " ")
    assert f"cat {images} " in text
    assert text.endswith(said) if said else "flags nothing" not in text


def test_all_params_and_versions_are_printed(page: str) -> None:
    text = _section(page, "settings")
    for key, value in flatten(fake.params()):
        assert f"{key}: {value}" in text
    assert 'data.source.files.train: ["data/train-*.parquet"]' in text and "torch 2.15.0" in text and "2 min 32 s in all" in text


def test_inline_svg_restates_ids_and_colours() -> None:
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg><svg width="3pt" height="2pt" viewBox="0 0 3 2"><metadata><a/></metadata>'
        f'<style type="text/css">*{{color: red}}</style><g id="a"><path id="b" style="fill: {ROLES["ink"]}" clip-path="url(#a)"/>'
        f'<use xlink:href="#b" fill="{ROLES["muted"].upper()}"/></g></svg>'
    )
    assert inline_svg(svg, "p", 'say "x"') == (
        '<svg role="img" aria-label="say &#34;x&#34;" viewBox="0 0 3 2"><g id="p-a"><path id="p-b" style="fill: var(--ink)" '
        'clip-path="url(#p-a)"/><use xlink:href="#p-b" style="fill: var(--muted)"/></g></svg>'
    )


def test_metric_names_are_those_of_the_metrics(page: str) -> None:
    for alpha in (0.01, 0.05):
        assert f"likelihood_ratio.fgsm.tpr_at_{level(alpha)}" in METRICS
    assert "Detection could not be measured" not in page
