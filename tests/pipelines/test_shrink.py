"""Pictures decoded at about the size that is wanted: what it costs in quality, and no more."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.episode import Shrinkable
from pipelines.ops import video
from pipelines.ops.images import EncodedImage, decode_image, resize, shrink_to
from schemas import DataError
from tests.samples import sample

SIZE = st.tuples(st.integers(1, 400), st.integers(1, 400))
FITS = ("stretch", "crop")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(float(np.mean((a.astype(float) - b) ** 2)), 1e-9))


def photo() -> np.ndarray:
    """The middle frame of a real video, uint8 `[H, W, 3]`."""
    frames = list(video.frames(sample("video/bikes.mp4")))
    return frames[len(frames) // 2].image()


def jpeg(image: np.ndarray, orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


@given(SIZE, st.lists(SIZE, min_size=1, max_size=3), st.sampled_from(FITS))
def test_what_is_wanted_is_enough_for_every_size_and_no_more_than_the_picture(of, sizes, fit):
    h, w = of
    least = shrink_to(sizes, fit)(h, w)
    assert 1 <= least[0] <= h and 1 <= least[1] <= w
    if fit == "stretch":
        assert least == (min(h, max(s[0] for s in sizes)), min(w, max(s[1] for s in sizes)))
    else:
        factor = max(max(Fraction(a, h), Fraction(b, w)) for a, b in sizes)
        if factor < 1:  # the aspect is kept within a pixel, and some box needs all of one side
            assert abs(least[0] - h * factor) <= 0.5 and abs(least[1] - w * factor) <= 0.5
            assert all(least[0] >= a and least[1] >= b for a, b in sizes)
        else:
            assert least == (h, w)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(24, 40), (48, 80), (192, 320)])
def test_a_jpeg_comes_smaller_and_looks_the_same(size, fit):
    image = np.asarray(Image.fromarray(photo()).resize((1280, 720), Image.Resampling.LANCZOS))
    picture = EncodedImage(jpeg(image))
    assert isinstance(picture, Shrinkable)
    small = picture.shrunk(shrink_to([size], fit))
    assert (small.shape[0] < 720) == (size[0] <= 180)
    assert small.shape[0] >= min(720, 2 * size[0]) and small.shape[1] >= min(1280, 2 * size[1])
    found, wanted = (resize(image, size[0], size[1], fit) for image in (small, picture()))
    assert psnr(found, wanted) > 35


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_shrinks_by_its_shown_sides(orientation):
    image = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, 64, 0), 128, 1)
    picture = EncodedImage(jpeg(np.stack([image] * 3, -1), orientation))
    whole = picture()
    asked = []

    def shrink(h: int, w: int) -> tuple[int, int]:
        asked.append((h, w))
        return h // 8, w // 8

    small = picture.shrunk(shrink)
    assert asked == [whole.shape[:2]]
    assert small.shape[:2] == (whole.shape[0] // 4, whole.shape[1] // 4)
    assert psnr(small, resize(whole, small.shape[0], small.shape[1], "stretch")) > 35


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_come_whole(kind):
    image = photo()
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, lossless=True)
    assert (EncodedImage(out.getvalue()).shrunk(shrink_to([(8, 8)], "stretch")) == image).all()


def test_an_image_that_is_read_late_names_its_file():
    def gone() -> bytes:
        raise DataError("the image has gone")

    for data in (b"no image", lambda: b"no image", gone):
        with pytest.raises(DataError) as e:
            EncodedImage(data, "frame.jpg").shrunk(shrink_to([(8, 8)], "crop"))
        assert e.value.uri == "frame.jpg"
    assert decode_image(jpeg(photo())).shape == EncodedImage(lambda: jpeg(photo()))().shape


@pytest.mark.parametrize("name", ["video/bikes.mp4", "video/bigbuckbunny.mp4"])
@pytest.mark.parametrize("fit", FITS)
def test_a_video_frame_comes_at_just_the_size_and_looks_the_same(name, fit):
    sizes = [(96, 160), (24, 40)]
    shrink = shrink_to(sizes, fit)
    for frame in list(video.frames(sample(name)))[::25]:
        whole, small = frame.image(), frame.image.shrunk(shrink)
        assert small.shape[:2] == shrink(*whole.shape[:2])
        assert (small == frame.image.shrunk(shrink)).all()
        for height, width in sizes:
            found, wanted = (resize(image, height, width, fit) for image in (small, whole))
            # cut out of the small frame, a box may be half of its pixels off
            assert psnr(found, wanted) > (33 if fit == "stretch" else 27)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_shrinks_by_its_shown_sides(tmp_path, degrees):
    path = tmp_path / "turned.mp4"
    ramp = np.linspace(20, 220, 128, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (96, 1))] * 3, -1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        if degrees:
            stream.set_display_rotation(degrees)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    for frame in video.frames(path):
        whole = frame.image()
        small = frame.image.shrunk(lambda h, w: (h // 2, w // 4))
        assert small.shape[:2] == (whole.shape[0] // 2, whole.shape[1] // 4)
        assert psnr(small, resize(whole, small.shape[0], small.shape[1], "stretch")) > 35


def test_what_need_not_shrink_is_the_same_bytes():
    frame = next(iter(video.frames(sample("video/bikes.mp4"))))
    whole = frame.image()
    larger = shrink_to([(4000, 4000)], "stretch")
    assert (frame.image.shrunk(larger) == whole).all()
    data = jpeg(whole)
    assert (EncodedImage(data).shrunk(larger) == decode_image(data)).all()
