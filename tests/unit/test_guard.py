"""What the guard takes and refuses; what it says is looked at in a real run by the integration tests."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.artifacts.detectors import CalibratedDetector
from pipeline.artifacts.files import write_arrays, write_json
from pipeline.artifacts.guards import StoredGuard
from pipeline.artifacts.manifest import seal
from pipeline.classifiers.cifar_resnet import cifar_resnet20
from pipeline.classifiers.model import Classifier, freeze
from pipeline.data.decode import decode
from pipeline.detectors.conformal import Calibration
from pipeline.errors import ArtifactError, GuardError
from pipeline.fingerprints.draws import FreshDraws, KeyedDraws
from pipeline.guard import Guard
from pipeline.keys import KeyFileError
from pipeline.params.data import ImageFormat
from pipeline.params.detectors import FingerprintDetectorParams


class Brightness:
    """A detector whose score can be known beforehand: the first kept neuron, whatever is drawn."""

    def scores(self, neurons: Any, predicted: Any, draws: Any) -> Any:
        self.source, self.drawn = draws, draws.uniform("draw", (4,))
        return neurons[:, 0].astype(np.float64)


KEY = bytes(range(200, 232))


def _guard(channels: int = 3, size: int = 8, draw_key: bytes | None = None, **changes: Any) -> Guard:
    torch.manual_seed(0)
    network = cifar_resnet20(4, channels)
    classifier = freeze(Classifier(network, (0.0,) * channels, (1.0,) * channels, (size, size)))
    scores = np.arange(99, dtype=np.float64)
    fields = {"resize": True, "convert": ("L", "RGB"), "max_pixels": 10**6, "max_bytes": 10**6} | changes
    format = ImageFormat.model_validate({"channels": channels, "height": size, "width": size} | fields)
    calibration = Calibration({"pooled": scores}, dict.fromkeys(range(4), "pooled"))
    pool = {"logits": np.arange(4)}
    detector = Brightness()
    return Guard(classifier, pool, detector, calibration, alpha=0.05, class_names=tuple("abcd"), format=format, draw_key=draw_key)


@pytest.fixture(scope="module")
def guard() -> Guard:
    return _guard()


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_label_and_probability_are_the_classifier_s(guard: Guard, pixels: Any) -> None:
    with torch.no_grad():
        logits = guard.classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    probabilities = torch.exp(logits.double() - torch.logsumexp(logits.double(), 1, keepdim=True))
    found = guard.inspect(pixels)
    assert [one.label for one in found] == logits.argmax(1).tolist()
    assert [one.probability for one in found] == pytest.approx(probabilities.max(1).values.tolist(), rel=1e-5)
    assert all(one.label_name == "abcd"[one.label] for one in found)
    # The calibration scores are 0 to 98: p follows from the first logit by counting.
    expected = [(1 + sum(score >= value for score in range(99))) / 100 for value in logits[:, 0].tolist()]
    assert [one.p_value for one in found] == pytest.approx(expected)
    assert [one.verdict for one in found] == ["attack" if p <= 0.05 else "clean" for p in expected]


def test_batches_change_nothing(guard: Guard, pixels: Any) -> None:
    one, many = guard.inspect(pixels, batch_size=1), guard.inspect(pixels, batch_size=128)
    assert [a.label for a in one] == [b.label for b in many] and [a.p_value for a in one] == [b.p_value for b in many]


def test_nothing_is_inspected_as_nothing(guard: Guard) -> None:
    assert guard.inspect(np.empty((0, 8, 8, 3), np.uint8)) == [] == guard.inspect([])


def test_every_call_has_draws_of_its_own(guard: Guard, pixels: Any) -> None:
    seen = []
    for _ in range(3):
        np.random.seed(0)
        torch.manual_seed(0)
        guard.inspect(pixels)
        seen.append(guard.detector.drawn.tobytes())  # type: ignore[attr-defined]
    assert len(set(seen)) == 3


@pytest.mark.parametrize("key", [None, KEY], ids=["fresh", "keyed"])
def test_an_answer_says_nothing_of_the_draw(pixels: Any, key: bytes | None) -> None:
    """A closed list: what is added to it is added here, after a thought of what it gives away."""
    found = _guard(draw_key=key).inspect(pixels)[0]
    assert set(found.to_json()) == {"label", "label_name", "probability", "p_value", "flagged", "verdict"}
    assert set(vars(found)) == {"label", "label_name", "probability", "p_value", "flagged"}
    assert {type(value) for value in vars(found).values()} <= {int, float, str, bool}


def _drawn(guard: Guard, images: Any, **options: Any) -> Any:
    guard.inspect(images, **options)
    return guard.detector.drawn  # type: ignore[attr-defined]


def test_a_keyed_guard_meets_the_same_image_with_the_same_draw(pixels: Any) -> None:
    guard = _guard(draw_key=KEY)
    whole = _drawn(guard, pixels)
    assert len({row.tobytes() for row in whole}) == 5
    assert (whole == KeyedDraws(KEY, pixels.transpose(0, 3, 1, 2)).uniform("draw", (4,))).all(), "the pixels as C, H, W"
    assert (_drawn(guard, pixels, batch_size=4) == whole[4:]).all(), "the last batch, of one"
    assert (_drawn(guard, pixels[[2, 2]]) == whole[2]).all()
    assert (_drawn(_guard(draw_key=KEY), [Image.fromarray(image) for image in pixels]) == whole).all()
    assert (_drawn(_guard(draw_key=KEY[::-1]), pixels) != whole).any(axis=1).all()


def test_a_changed_pixel_buys_a_new_draw(pixels: Any) -> None:
    guard, changed = _guard(draw_key=KEY), pixels.copy()
    changed[:, 7, 7, 2] ^= 1
    assert (_drawn(guard, changed) != _drawn(guard, pixels)).any(axis=1).all()


def test_floats_are_keyed_by_their_own_bytes(pixels: Any) -> None:
    guard, floats = _guard(draw_key=KEY), torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    drawn = _drawn(guard, floats)
    assert (drawn == KeyedDraws(KEY, floats.numpy()).uniform("draw", (4,))).all()
    for same in (floats.double(), floats.contiguous(), floats.clone().requires_grad_()):
        assert (_drawn(guard, same) == drawn).all()
    assert (_drawn(guard, pixels) != drawn).any(axis=1).all(), "bytes meet draws of their own, as the docstring says"


def test_the_picture_that_is_inspected_is_what_is_keyed(guard: Guard) -> None:
    """Other files of the same pixels, and other metadata, buy nothing; what scaling levels out buys nothing either."""
    keyed, image = _guard(draw_key=KEY), Image.fromarray(np.full((8, 8, 3), 77, np.uint8))
    again = Image.open(io.BytesIO(_file(image, "PNG", compress_level=1)))
    large = Image.fromarray(np.full((20, 30), 77, np.uint8))
    drawn = _drawn(keyed, [image, again, large])
    assert (drawn == drawn[0]).all()


@pytest.mark.parametrize("key", [None, KEY], ids=["fresh", "keyed"])
def test_a_guard_draws_as_it_was_told_and_shows_no_key(pixels: Any, key: bytes | None) -> None:
    guard = _guard(draw_key=key)
    guard.inspect(pixels)
    source = guard.detector.source  # type: ignore[attr-defined]
    assert isinstance(source, KeyedDraws if key else FreshDraws)
    shown = "".join(f"{thing!r} {thing}" for thing in (guard, source, guard.inspect(pixels)))
    assert KEY.hex() not in shown and repr(KEY)[2:-1] not in shown


@pytest.mark.parametrize("published", ["fresh", "keyed"])
@pytest.mark.parametrize("asked", [None, "fresh", "keyed"])
def test_a_loaded_guard_draws_as_published_or_as_asked(
    pixels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Any, asked: Any
) -> None:
    """The key is read where it is used, and only there."""
    made = _guard()
    params = FingerprintDetectorParams(kind="fingerprint", statistic="vote", draw=4)
    detector = CalibratedDetector(made.detector, made.calibration, params, 0.05)
    stored = StoredGuard(made.classifier, made.pool, detector, made.class_names, made.format, published)
    monkeypatch.setattr("pipeline.guard.read_guard", lambda folder: stored)
    monkeypatch.delenv("WHORL_DRAW_KEY", raising=False)
    monkeypatch.setenv("WHORL_DRAW_KEY_FILE", str(tmp_path / "draw.key"))
    drawn = [_drawn(Guard.load("anywhere", draws=asked), pixels) for _ in range(2)]
    keyed = (asked or published) == "keyed"
    assert (drawn[0] == drawn[1]).all() == keyed == (tmp_path / "draw.key").exists()
    if keyed:
        (tmp_path / "draw.key").chmod(0o644)
        with pytest.raises(KeyFileError, match="mode is 0644"):
            Guard.load("anywhere", draws=asked)


def test_a_guard_of_before_there_were_kinds_of_draws_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "guard.json", {"layers": ["logits"]})
    write_arrays(tmp_path / "pool.safetensors", {"logits": np.arange(4)})
    seal(tmp_path, kind="guard", stage="publish", about={})
    with pytest.raises(ArtifactError, match=r"guard\.json: says nothing of draws, where fresh or keyed was expected"):
        Guard.load(tmp_path)


@pytest.mark.parametrize("made", [None, 1, 3])
def test_a_guard_that_was_fitted_to_other_neurons_is_refused(made: int | None, tmp_path: Path) -> None:
    about = {"layers": ["logits"], "draws": "fresh"} | ({} if made is None else {"neurons": made})
    write_json(tmp_path / "guard.json", about)
    write_arrays(tmp_path / "pool.safetensors", {"logits": np.arange(4)})
    seal(tmp_path, kind="guard", stage="publish", about={})
    with pytest.raises(ArtifactError, match=rf"guard\.json: its bank was fitted to neurons of kind {made or 1}, where 2 was expected"):
        Guard.load(tmp_path)


def test_a_guard_can_be_sent_to_another_process(guard: Guard, pixels: Any) -> None:
    """It serialises, also after it has looked something up: none of its parts is a local function."""
    guard.inspect(pixels)
    assert len(pickle.dumps(guard)) > sum(weight.numel() for weight in guard.classifier.parameters())


def test_draws_that_there_are_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"^draws: 'static', where fresh or keyed was expected\.$"):
        Guard.load(tmp_path, draws="static")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((1, 3, 8, 8), np.uint8), "uint8 (1, 3, 8, 8)"),
        (np.zeros((1, 8, 8, 3), np.float32), "float32"),
        (np.zeros((8, 8, 3), np.uint8), "(8, 8, 3)"),
        (torch.zeros(1, 3, 9, 9), "(1, 3, 9, 9)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 3, 8, 8), 1.5), "1.5"),
        (torch.full((1, 3, 8, 8), -0.1), "-0.1"),
        (torch.full((1, 3, 8, 8), float("nan")), "nan"),
        (torch.zeros(3, 8, 8), "(3, 8, 8)"),
        (torch.tensor(0.5), "()"),
        (torch.zeros(1, 3, 8, 8).to_sparse(), "(1, 3, 8, 8)"),
        (torch.full((1, 3, 8, 8), 2.0).to(torch.float8_e4m3fn), "2"),
        (np.array(None), "object"),
        (["picture.png"], "item 0 is of type str"),
        ([Image.new("RGB", (8, 8)), None], "item 1 is of type NoneType"),
        ([np.zeros((8, 8, 3), np.uint8)], "item 0 is of type ndarray"),
        (Image.new("RGB", (8, 8)), "type Image"),
        (None, "NoneType"),
        (3, "int"),
        ("", "str"),
        ({}, "dict"),
        ([Image.new("RGB", (8, 8)), Image.new("F", (8, 8))], "item 1 cannot be used (wrong_mode: mode F"),
        ([Image.new("RGBA", (8, 8))], "wrong_mode: mode RGBA"),
        ([Image.new("RGB", (1001, 1000))], "oversized: 1000x1001 pixels"),
        ([Image.new("RGB", (0, 8))], "empty: 8x0 pixels"),
    ],
)
def test_other_images_are_refused_in_a_sentence(guard: Guard, images: Any, said: str) -> None:
    with pytest.raises(GuardError) as caught:
        guard.inspect(images)
    assert said in str(caught.value) and "expected" in str(caught.value)


def test_pictures_are_converted_and_scaled_as_files_are(guard: Guard) -> None:
    grey = Image.fromarray(np.full((20, 30), 77, np.uint8))
    same = guard.inspect(np.full((1, 8, 8, 3), 77, np.uint8))[0]
    assert guard.inspect([grey])[0].label == same.label


def test_grey_images_need_no_channel() -> None:
    guard = _guard(channels=1)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    assert [one.label for one in guard.inspect(pixels)] == [one.label for one in guard.inspect(pixels[..., None])]


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None, "8"])
@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_size_that_is_none_is_refused(guard: Guard, pixels: Any, batch_size: Any, count: int) -> None:
    with pytest.raises(GuardError, match=rf"^batch_size: {batch_size!r}, where .* was expected"):
        guard.inspect(pixels[:count], batch_size=batch_size)


def test_another_size_is_refused_where_the_format_does_not_scale() -> None:
    guard = _guard(resize=False)
    with pytest.raises(GuardError, match=r"item 0 cannot be used \(wrong_size: 9x8 \(height x width\), where 8x8 was expected\)"):
        guard.inspect([Image.new("RGB", (8, 9))])


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


NOISE = np.random.default_rng(2).integers(0, 256, (8, 12, 4), dtype=np.uint8)
FILES = {
    "jpeg": _file(Image.fromarray(NOISE[..., :3]), "JPEG"),
    "jpeg to be turned": _file(Image.fromarray(NOISE[..., :3]), "JPEG", exif=_turned()),
    "png to be turned": _file(Image.fromarray(NOISE[..., :3]), "PNG", exif=_turned()),
    "cmyk": _file(Image.fromarray(NOISE, "CMYK"), "JPEG"),
    "palette": _file(Image.fromarray(NOISE[..., :3]).quantize(16), "PNG"),
    "16 bits": _file(Image.fromarray(NOISE[..., :2].copy().view(np.uint16)[..., 0]), "PNG"),
}


@pytest.mark.parametrize("encoded", FILES.values(), ids=FILES)
def test_an_opened_file_has_the_pixels_that_detect_decodes(encoded: bytes) -> None:
    guard = _guard(convert=("L", "CMYK", "P", "I;16"))
    image = Image.open(io.BytesIO(encoded))
    size = image.size
    found, expected = guard.inspect([image])[0], guard.inspect(decode(encoded, guard.format).transpose(1, 2, 0)[None])[0]
    assert found == expected
    assert image.size == size and image.getexif().get(0x0112) == Image.open(io.BytesIO(encoded)).getexif().get(0x0112), "left as it was"


def test_an_orientation_changes_what_is_inspected() -> None:
    guard = _guard()
    plain, turned = (guard.inspect([Image.open(io.BytesIO(FILES[name]))])[0] for name in ("jpeg", "jpeg to be turned"))
    assert plain.probability != turned.probability


def test_max_bytes_is_about_files_alone(pixels: Any) -> None:
    guard = _guard(max_bytes=10)
    assert guard.inspect([Image.fromarray(pixels[0])]) == guard.inspect(pixels[:1])


def test_a_damaged_opened_file_is_a_sentence(guard: Guard) -> None:
    with pytest.raises(GuardError, match=r"item 0 cannot be used \(truncated: "):
        guard.inspect([Image.open(io.BytesIO(FILES["jpeg"][:-40]))])
