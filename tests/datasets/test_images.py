"""Images: real formats, written here; everything that can be wrong with them; and the house numbers."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.io import savemat
from work import cost

from book.house_numbers import house_numbers
from einet.datasets import (
    celeba,
    digits,
    disk,
    fashion_mnist,
    find,
    image_folder,
    images,
    read_idx,
    read_svhn,
    reading,
    svhn,
)
from einet.datasets.images import ImageSource
from experiments.records import python_path

NOISE = np.random.default_rng(0).integers(256, size=(7, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An $EINET_DATA that is returned, an empty cache, no packages of Debian, no network."""
    monkeypatch.setenv("EINET_DATA", str(tmp_path / "given"))
    monkeypatch.setattr(disk, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(images, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setitem(sys.modules, "pooch", None)
    return tmp_path / "given"


def stored(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


# SVHN


def mat(labels=(1, 2, 3, 4, 9, 10, 10), x=NOISE, compress=True):
    stream = BytesIO()
    savemat(stream, {"X": np.moveaxis(x, 0, 3), "y": np.array(labels, np.uint8)[:, None]}, do_compression=compress)
    return stream.getvalue()


@pytest.mark.parametrize("compress", [True, False])
def test_svhn(place, monkeypatch, compress):
    content = mat(compress=compress)
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(images.SVHN, "train", ImageSource("train_32x32.mat", 7, sha256, sha256))
    stored(place / "svhn" / "train_32x32.mat", content)
    x, labels = svhn("train")
    assert x.dtype == torch.uint8 and torch.equal(x, torch.from_numpy(NOISE)) and x.is_contiguous()
    assert labels.dtype == torch.int64 and labels.tolist() == [1, 2, 3, 4, 9, 0, 0]


def test_svhn_of_another_checksum(place):
    file = stored(place / "svhn" / "test_32x32.mat", mat())
    with pytest.raises(ValueError, match=f"{file}.*SHA-256"):
        svhn("test")


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_mat(tmp_path, compress, share):
    content = mat(compress=compress)
    file = stored(tmp_path / "train_32x32.mat", content[: int(share * len(content))])
    with pytest.raises(ValueError, match=str(file)):
        read_svhn(file)


def test_a_mat_with_flipped_bytes(tmp_path):
    content = bytearray(mat())
    content[len(content) // 2] ^= 255
    file = stored(tmp_path / "train_32x32.mat", content)
    with pytest.raises(ValueError, match=str(file)):
        read_svhn(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (mat(x=NOISE[:, :28]), r"X \(32, 32, 3, n\)"),
        (mat(x=NOISE.astype(np.float32)), "float32"),
        (mat(labels=(1, 2)), r"\(2,\)"),
        (mat(labels=(0,) * 7), "0 to 0"),
        (mat(labels=(11,) * 7), "11 to 11"),
        (b"<html>not found</html>" * 100, "train"),
    ],
    ids=["28 lines", "floats", "2 labels", "label 0", "label 11", "a page"],
)
def test_a_mat_that_is_not_svhn(tmp_path, content, reason):
    file = stored(tmp_path / "train_32x32.mat", content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_svhn(file)
    assert str(caught.value).startswith(str(file))


def test_svhn_that_is_nowhere(place):
    with pytest.raises(FileNotFoundError, match="Put extra_32x32.mat .* into .*svhn"):
        svhn("extra")
    with pytest.raises(ValueError, match="'valid'; there are .*extra"):
        svhn("valid")


# Fashion-MNIST


def idx(x):
    return bytes((0, 0, 8, x.ndim)) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes()


GREY, KINDS = NOISE[..., 0], np.arange(7, dtype=np.uint8)


@pytest.fixture
def clothes(monkeypatch):
    """A registry of the two files made here."""
    sources = [("train-images-idx3-ubyte", GREY), ("train-labels-idx1-ubyte", KINDS)]
    made = tuple(ImageSource(path, 7, hashlib.sha256(idx(x)).hexdigest(), "") for path, x in sources)
    monkeypatch.setitem(images.FASHION_MNIST, "train", made)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("packaged", [True, False])
def test_fashion_mnist(place, clothes, ending, packaged):
    folder = (images.DEBIAN_FOLDER if packaged else place) / "fashion-mnist"
    stored(folder / f"train-images-idx3-ubyte{ending}", idx(GREY))
    stored(folder / f"train-labels-idx1-ubyte{ending}", idx(KINDS))
    x, labels = fashion_mnist("train")
    assert x.dtype == torch.uint8 and torch.equal(x, torch.from_numpy(GREY))
    assert labels.dtype == torch.int64 and labels.tolist() == list(range(7))


def test_fashion_mnist_of_another_checksum(place, clothes):
    file = stored(place / "fashion-mnist" / "train-images-idx3-ubyte", idx(GREY[::-1]))
    with pytest.raises(ValueError, match=f"{file}.*SHA-256"):
        fashion_mnist("train")


def test_fashion_mnist_that_is_nowhere(place):
    with pytest.raises(FileNotFoundError, match="Put t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz into"):
        fashion_mnist("test")
    with pytest.raises(ValueError, match="'valid'; there are"):
        fashion_mnist("valid")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 0 8"),
        (b"\0\0\x0d\3" + idx(GREY)[4:], "0 0 8"),  # floats
        (idx(GREY)[:9], "cannot be read"),
        (idx(GREY)[:-1], "7168 bytes.*got 7167"),
        (idx(GREY) + b"0", "7168 bytes.*got 7169"),
        (b"\0\0\x08\3" + b"\xff" * 12, "should hold"),
    ],
    ids=["empty", "floats", "header cut", "one byte less", "one byte more", "giant"],
)
def test_an_idx_file_that_is_none(tmp_path, ending, content, reason):
    file = stored(tmp_path / f"train{ending}", content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_idx(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("share", [0, 0.1, 0.9])
def test_a_truncated_gzip_file(tmp_path, share):
    content = gzip.compress(idx(GREY))
    file = tmp_path / "train.gz"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=str(file)):
        read_idx(file)


def test_idx_has_any_shape(tmp_path):
    assert torch.equal(read_idx(stored(tmp_path / "x", idx(NOISE))), torch.from_numpy(NOISE))


@pytest.mark.parametrize(("split", "rows"), [("train", 60000), ("test", 10000)])
def test_the_real_fashion_mnist(split, rows):
    if find("fashion-mnist", images.FASHION_MNIST[split][0].path, images.DEBIAN_FOLDER) is None:
        pytest.skip("Fashion-MNIST is on no disk here: apt-get install dataset-fashion-mnist")
    x, labels = fashion_mnist(split)
    assert x.shape == (rows, 28, 28) and labels.bincount().tolist() == [rows // 10] * 10


def test_digits():
    x, labels = digits()
    assert x.shape == (1797, 8, 8) and x.dtype == torch.uint8 and x.max() == 16
    assert labels[:4].tolist() == [0, 1, 2, 3] and labels.dtype == torch.int64


# Folders and zips


def encoded(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(colour, width=40, height=30, kind="PNG", mode="RGB"):
    return encoded(Image.new(mode, (width, height), colour), kind)


FILES = {
    "cats/b.png": plain((10, 20, 30)),
    "cats/a.jpg": plain((100, 100, 100), 64, 64, "JPEG"),
    "dogs/c.PNG": plain((200, 0, 0), 8, 8),
    "dogs/readme.txt": b"no image",
    "dogs/.hidden.png": b"damaged",
    "__MACOSX/cats/._a.jpg": b"damaged",
}


@pytest.fixture(params=["folder", "zip"])
def album(request, tmp_path):
    """A function that stores files in a folder or in a zip, and returns its path."""

    def store(files):
        if request.param == "folder":
            for name, content in files.items():
                stored(tmp_path / "album" / name, content)
            (tmp_path / "album").mkdir(exist_ok=True)
            return tmp_path / "album"
        with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return tmp_path / "album.zip"

    return store


def test_image_folder(album):
    x, labels = image_folder(album(FILES), 16)
    assert x.shape == (3, 16, 16, 3) and x.dtype == torch.uint8
    assert x.float().mean((1, 2)).tolist() == [[100] * 3, [10, 20, 30], [200, 0, 0]]
    assert labels.tolist() == [0, 0, 1] and labels.dtype == torch.int64


def test_image_folder_some_of_it(album):
    path = album(FILES)
    x, labels = image_folder(path, (4, 6), inside="dogs", channels=1)
    assert x.shape == (1, 4, 6) and labels.tolist() == [0]
    assert image_folder(str(path), 4, limit=2)[0].shape == (2, 4, 4, 3)


def test_image_folder_crops_the_middle(album):
    image = Image.new("L", (40, 30), 0)
    ImageDraw.Draw(image).rectangle((10, 5, 29, 24), 255)  # the middle 20 x 20
    path = album({"a.png": encoded(image)})
    assert image_folder(path, 10, crop=20, channels=1)[0].min() == 255
    whole = image_folder(path, (3, 4), channels=1)[0][0]  # all of it, scaled: its aspect is 4 to 3
    assert whole[1, 1] > 200 > 100 > whole[0, 0]


def test_image_folder_of_photographs_turned_and_transparent(album):
    turned = Image.new("RGB", (2, 4), (255, 0, 0))
    ImageDraw.Draw(turned).rectangle((0, 0, 1, 1), (0, 0, 255))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise when shown: then the right half
    path = album({"a.png": encoded(turned, exif=exif), "b.png": plain((9, 8, 7, 255), mode="RGBA")})
    x, _ = image_folder(path, (2, 4))
    assert x[0, 0, 0].tolist() == [255, 0, 0] and x[0, 1, 3].tolist() == [0, 0, 255]
    assert x[1].float().mean((0, 1)).tolist() == [9, 8, 7]


def noisy_jpeg(size=(32, 32)):
    return encoded(Image.fromarray(NOISE[0]).resize(size), "JPEG", quality=95)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9])
def test_a_truncated_jpeg(album, share):
    content = noisy_jpeg()
    path = album({"a.png": plain((1, 2, 3)), "b/c.jpg": content[: int(share * len(content))]})
    with pytest.raises(ValueError, match="cannot be read") as caught:
        image_folder(path, 16)
    assert str(caught.value).startswith(str(path / "b" / "c.jpg"))


def test_a_truncated_png(album):
    content = encoded(Image.fromarray(NOISE[0]))
    path = album({"c.png": content[: len(content) // 2]})
    with pytest.raises(ValueError, match=str(path / "c.png")):
        image_folder(path, 16)


@pytest.mark.parametrize("files", [{}, {"readme.txt": b"no image"}, {".hidden.png": plain(0)}])
def test_a_folder_without_images(album, files):
    path = album(files)
    with pytest.raises(ValueError, match=f"{path} holds no image"):
        image_folder(path, 16)


def test_nothing_inside(album):
    path = album(FILES)
    with pytest.raises(ValueError, match=f"{path / 'cat'} holds no image"):
        image_folder(path, 16, inside="cat")


def test_an_image_smaller_than_the_crop(album):
    path = album({"c.png": plain((1, 2, 3), 40, 30)})
    with pytest.raises(ValueError, match=f"{path / 'c.png'}.*40 x 30 .* fewer than the crop of 32 x 32"):
        image_folder(path, 16, crop=32)


def test_no_zip(tmp_path):
    file = stored(tmp_path / "photos.zip", b"what a proxy says instead")
    with pytest.raises(ValueError, match=str(file)):
        image_folder(file, 16)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        image_folder(tmp_path / "nowhere", 16)


def test_a_damaged_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", noisy_jpeg())
    content = bytearray((tmp_path / "photos.zip").read_bytes())
    content[300] ^= 255
    file = stored(tmp_path / "photos.zip", content)
    with pytest.raises(ValueError, match=f"{file / 'a.jpg'} cannot be read: .*CRC"):
        image_folder(file, 16)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"size": 0}, "size .* got"),
        ({"size": (4, 4, 3)}, "size .* got"),
        ({"size": 2.5}, "size .* got"),
        ({"size": 4, "crop": 0}, "crop .* got 0"),
        ({"size": 4, "limit": -1}, "limit .* got -1"),
        ({"size": 4, "channels": 4}, "channels .* got 4"),
    ],
)
def test_settings_out_of_range(album, settings, reason):
    with pytest.raises(ValueError, match=reason):
        image_folder(album(FILES), **settings)


# CelebA


@pytest.fixture
def faces(place):
    """Four faces of 178 x 218 pixels, of which the first two are for training."""
    for number in range(1, 5):
        image = Image.new("RGB", (178, 218), (0, 0, 0))
        ImageDraw.Draw(image).rectangle((25, 45, 152, 172), (60 * number,) * 3)  # the middle 128 x 128
        stored(place / "celeba" / "img_align_celeba" / f"00000{number}.jpg", encoded(image, "JPEG", quality=95))
    partition(place, b"000001.jpg 0\n000002.jpg 0\n000003.jpg 1\n000004.jpg 2\n")
    return place / "celeba"


def partition(place, content):
    return stored(place / "celeba" / "list_eval_partition.txt", content)


@pytest.mark.parametrize(("split", "grey"), [("train", [60, 120]), ("valid", [180]), ("test", [240])])
def test_celeba(faces, split, grey):
    x = celeba(split)
    assert x.shape == (len(grey), 128, 128, 3) and x.dtype == torch.uint8
    assert (x.float().mean((1, 2, 3)) - torch.tensor(grey)).abs().max() < 2
    assert (x[:, 0, 0, 0].float() - torch.tensor(grey)).abs().max() < 30  # and nothing of the black around them


def test_celeba_some(faces):
    assert celeba("train", crop=8, limit=1).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match=r"got \(0, 0\)"):
        celeba("train", crop=0)


def test_celeba_that_is_nowhere(place):
    with pytest.raises(FileNotFoundError) as caught:
        celeba("train")
    for said in ("list_eval_partition.txt", "mmlab", "EINET_DATA", "img_align_celeba"):
        assert said in str(caught.value)
    with pytest.raises(ValueError, match="'extra'; there are"):
        celeba("extra")


@pytest.mark.parametrize("line", [b"000003.jpg 3", b"000003.jpg", b"000003.jpg,1", b"\xff\xfe 1 1"])
def test_a_wrong_partition(faces, place, line):
    file = partition(place, b"000001.jpg 0\n" + line + b"\n")
    with pytest.raises(ValueError, match=f"{file}, line 2, should be"):
        celeba("train")


def test_a_split_of_nobody(faces, place):
    file = partition(place, b"000001.jpg 0\n")
    with pytest.raises(ValueError, match=f"{file} names no image of 'test'"):
        celeba("test")


def test_a_face_that_is_missing_or_small(faces):
    (faces / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(ValueError, match="000003.jpg"):
        celeba("valid")
    stored(faces / "img_align_celeba" / "000004.jpg", noisy_jpeg())
    with pytest.raises(ValueError, match="000004.jpg.*32 x 32 .* fewer than the crop"):
        celeba("test")


# House numbers


def test_house_numbers():
    x, labels = house_numbers(300, seed=3)
    assert x.shape == (300, 32, 32, 3) and x.dtype == torch.uint8
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    assert (labels == 1).sum() > (labels == 9).sum()  # Benford
    deviation = x.float().std((1, 2)).amax(1)
    assert deviation.min() > 8 and deviation.median() > 25  # the number stands out


def test_house_numbers_are_the_same_again():
    x, labels = house_numbers(20, seed=3)
    longer = house_numbers(25, seed=3)
    assert torch.equal(longer[0][:20], x) and torch.equal(longer[1][:20], labels)
    assert (house_numbers(20, seed=4)[0] != x).any(3).any(2).any(1).all()


ELSEWHERE = """
import hashlib, sys
from book.house_numbers import house_numbers
woken = [name for name in ("PIL", "scipy", "sklearn", "matplotlib") if name in sys.modules]
print(hashlib.sha256(house_numbers(20, 3)[0].numpy().tobytes()).hexdigest(), *woken)
"""


def test_house_numbers_in_another_process_and_nothing_imported_before():
    pipes = {"capture_output": True, "text": True, "env": {**os.environ, **python_path()}}
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], check=True, **pipes)
    assert done.stdout.split() == [hashlib.sha256(house_numbers(20, seed=3)[0].numpy().tobytes()).hexdigest()]


def test_the_label_is_the_digit_in_the_middle():
    """Edges in the middle alone tell it: the class whose mean they resemble most is mostly right."""
    x, labels = house_numbers(1500, seed=0)
    grey = x[:, 2:30, 8:24].float().mean(3)
    edges = torch.cat((grey.diff(dim=1).abs().flatten(1), grey.diff(dim=2).abs().flatten(1)), 1)
    edges = torch.nn.functional.normalize(edges)
    means = torch.stack([edges[:1200][labels[:1200] == digit].mean(0) for digit in range(10)])
    guessed = (edges[1200:] @ torch.nn.functional.normalize(means).T).argmax(1)
    right = (guessed == labels[1200:]).float().mean()
    assert right > 0.5


def test_a_house_number_is_drawn_in_a_moment():
    house_numbers(10)  # fonts
    assert cost(lambda: house_numbers(100, seed=1)) < 15, "each took 150 000 turns of a loop"


# Modes and depths

RAMP = np.array([[0, 256, 257, 2570, 25700, 65535]], np.uint16)
UPPER = [0, 0, 1, 10, 100, 255]


def as_pixels(album, image, kind="PNG", channels=1, **options):
    path = album({"x." + {"JPEG2000": "png"}.get(kind, kind.lower()): encoded(image, kind, **options)})
    return image_folder(path, (image.height, image.width), channels=channels)[0].flatten().tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_become_the_upper_eight(album, kind):
    image = Image.fromarray(RAMP)
    assert as_pixels(album, image, kind) == UPPER
    assert as_pixels(album, image, kind, channels=3) == [value for value in UPPER for _ in range(3)]


def test_sixteen_bits_of_a_microscope(album):
    """A ramp over the whole range, of which all but the first value would be white if it were cut off at 255."""
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype("uint16")
    assert as_pixels(album, Image.fromarray(ramp)) == (ramp // 257).flatten().tolist()


def test_sixteen_bits_the_other_way_round(album):
    """Their bytes, and black and white."""
    assert as_pixels(album, Image.fromarray(RAMP.astype(">u2")), "TIFF") == UPPER
    found = as_pixels(album, Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})
    assert found == ((65535 - RAMP.astype(int)) // 257).flatten().tolist()


def test_twelve_bits(album):
    """Two values in three bytes: black, white, 16 and 1,000 of 4,095."""
    values = bytes((0x00, 0x0F, 0xFF, 0x01, 0x03, 0xE8))
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(values)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(values))
    content = start + values + struct.pack("<H", len(tags)) + entries + bytes(4)
    found = image_folder(album({"x.tif": content}), (1, 4), channels=1)[0].flatten().tolist()
    assert found == [0, 255, 16 * 255 // 4095, 1000 * 255 // 4095]


@pytest.mark.parametrize("mode, colour, kind, grey, rgb", [
    ("1", 1, "PNG", 255, (255, 255, 255)),
    ("L", 9, "PNG", 9, (9, 9, 9)),
    ("LA", (9, 100), "PNG", 9, (9, 9, 9)),
    ("RGB", (90, 60, 30), "PNG", 66, (90, 60, 30)),
    ("RGBA", (90, 60, 30, 128), "PNG", 66, (90, 60, 30)),
    ("CMYK", (0, 0, 0, 100), "TIFF", 155, (155, 155, 155)),
    ("YCbCr", (50, 128, 128), "TIFF", 50, (50, 50, 50)),
])  # fmt: skip
def test_modes_of_eight_bits(album, mode, colour, kind, grey, rgb):
    image = Image.new(mode, (2, 2), colour)
    assert as_pixels(album, image, kind) == [grey] * 4
    assert as_pixels(album, image, kind, channels=3) == [*rgb] * 4


def test_palettes(album):
    image = Image.new("RGB", (2, 2), (200, 100, 0)).quantize(4)
    assert image.mode == "P" and as_pixels(album, image, channels=3) == [200, 100, 0] * 4


@pytest.mark.parametrize("image, reason", [
    (Image.fromarray(RAMP.astype(np.int32)), "its values .mode I. may be of any size: scale them"),
    (Image.fromarray(RAMP.astype(np.float32) / 65535), "its values .mode F. may be of any size: scale them"),
    (Image.new("LAB", (2, 2)), "conversion from LAB"),
], ids=("integers", "floats", "LAB"))  # fmt: skip
def test_what_does_not_say_what_is_white(album, image, reason):
    path = album({"x.tiff": encoded(image, "TIFF")})
    with pytest.raises(ValueError, match=f"{path / 'x.tiff'} cannot be read: .*{reason}"):
        image_folder(path, 2, channels=1)


# Files that expand, or are larger than they should be


@pytest.fixture
def expanded(monkeypatch):
    """A list of how many bytes each read of a compressed file has given."""
    seen = []
    for kind in (zipfile.ZipExtFile, gzip.GzipFile):

        def read(self, size=-1, original=kind.read):
            seen.append(len(given := original(self, size)))
            return given

        monkeypatch.setattr(kind, "read", read)
    return seen


def test_a_zip_that_expands_to_no_image(tmp_path, expanded):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(2**24))
    with pytest.raises(ValueError, match="x.png cannot be read: .*cannot identify image"):
        image_folder(tmp_path / "x.zip", 4)
    assert 0 < sum(expanded) < 2**20


def test_a_zip_whose_image_goes_on_is_read_in_pieces(tmp_path, expanded):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", plain((1, 2, 3)) + bytes(2**24))
    assert image_folder(tmp_path / "x.zip", 4)[0].shape == (1, 4, 4, 3)
    assert max(expanded) <= reading.CHUNK_BYTES


def test_no_image_has_so_many_bytes(album, monkeypatch):
    monkeypatch.setattr(reading, "MAX_IMAGE_BYTES", 100)
    path = album({"x.png": bytes(101)})
    with pytest.raises(ValueError, match=f"{path / 'x.png'} cannot be read: it has 101 bytes, more than the 100"):
        image_folder(path, 4)


def test_a_sparse_image_of_a_terabyte(tmp_path, faces):
    for file, read in (
        (stored(tmp_path / "x" / "a.png", b""), lambda: image_folder(tmp_path / "x", 4)),
        (faces / "img_align_celeba" / "000003.jpg", lambda: celeba("valid")),
    ):
        with open(file, "r+b") as stream:
            stream.truncate(2**40)
        with pytest.raises(ValueError, match=f"{file} cannot be read: it has {2**40} bytes, more than"):
            read()


def test_an_idx_file_is_read_as_far_as_its_shape(tmp_path, expanded):
    file = stored(tmp_path / "x.gz", b"\0\0\x08\x01\0\0\0\x01" + bytes(2**22))
    with pytest.raises(ValueError, match=r"x.gz should hold 1 bytes, as \(1,\), got 2"):
        read_idx(file)
    assert sum(expanded) < 100
    for ending, room in (("", 108), (".gz", r"\d+")):
        file = stored(tmp_path / f"y{ending}", b"\0\0\x08\x02" + b"\0\x10\0\0" * 2 + bytes(96))
        with pytest.raises(ValueError, match=f"should hold {2**40} bytes, as .*, and has room for {room}"):
            read_idx(file)


def test_an_idx_file_of_nothing(tmp_path):
    assert read_idx(stored(tmp_path / "x", idx(NOISE[:0]))).shape == (0, 32, 32, 3)


def test_a_mat_is_measured_before_it_is_read(tmp_path, monkeypatch):
    """Its variables' shapes first; and gzipped or not, it is read from the stream."""
    file = stored(tmp_path / "train_32x32.mat.gz", mat())
    assert torch.equal(read_svhn(file)[0], torch.from_numpy(NOISE))
    file = stored(tmp_path / "train_32x32.mat", mat(x=NOISE[:, :28]))
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(ValueError, match=r"should hold X \(32, 32, 3, n\)"):
        read_svhn(file)


def test_a_published_file_is_read_as_far_as_it_can_be_long(place, clothes, monkeypatch, expanded):
    most = images.FASHION_MNIST["train"][0].max_bytes
    stored(place / "fashion-mnist" / "train-images-idx3-ubyte.gz", idx(GREY) + bytes(2 * most))
    with pytest.raises(ValueError, match="7168 bytes"):
        fashion_mnist("train")
    assert sum(expanded) <= most + 1


def test_a_partition_that_is_too_long(faces, place, monkeypatch):
    monkeypatch.setattr(images, "MAX_PARTITION_BYTES", 30)
    with pytest.raises(ValueError, match="has more than 30 bytes"):
        celeba("train")


# House numbers out of range


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (1.5, 0), (1, -1), (1, None)])
def test_house_numbers_out_of_range(n, seed):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        house_numbers(n, seed)
