"""Data sets, their splits, augmentations and the batches of an epoch."""

import hashlib
import os
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from flatlib import data
from flatlib.data import Dataset, Split, augment
from flatlib.data.batches import Batches, rotations
from flatlib.streams import Streams
from flatlib.training import profiles

ARCHIVE = os.environ.get("FLATLIB_CIFAR10")
CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]
DIGITS = "a693955373237442"  # of the first 800 images' pixels


def rows(x):
    return [tuple(v.flatten().tolist()) for v in x]


# ---- splits ----------------------------------------------------------------------------------


def test_digits_are_all_there_once_in_disjoint_parts():
    d = data.load("digits", train=200, test=400, early=200)
    parts = [d.train, d.test, d.early, d.pool]
    assert [len(p) for p in parts] == [200, 400, 200, 997] and sum(map(len, parts)) == 1797
    images, labels = load_digits(return_X_y=True)
    x, y = torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts])
    got = sorted((*r, int(k)) for r, k in zip(rows(x.flatten(1) * 16), y))
    assert got == sorted((*map(float, r), int(k)) for r, k in zip(images, labels))


def test_digits_have_the_agreed_form():
    d = data.load("digits", train=200, test=400, early=200)
    assert d.train.x.shape == (200, 1, 8, 8) and d.train.x.dtype == torch.float32
    assert d.train.y.dtype == torch.int64 and d.classes == 10
    assert d.train.x.min() == 0 and d.train.x.max() == 1
    for part in (d.train, d.test, d.early):
        assert min(Counter(part.y.tolist()).values()) >= len(part) / 20  # no class is missing


def test_the_order_of_the_digits_is_fixed_for_good():
    """A change of this hash makes every committed number of the profile "digits" void."""
    order = np.random.RandomState(0).permutation(1797)
    assert order[:5].tolist() == [1081, 1707, 927, 713, 262]
    d = data.load("digits", train=200, test=400, early=200)
    pixels = torch.cat([d.train.x, d.test.x, d.early.x]).mul(16).to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest()[:16] == DIGITS


@pytest.mark.parametrize("name", ["smoke", "digits"])
def test_the_profiles_ask_for_what_there_is(name):
    profile = profiles.get(name)
    d = profile.load()
    assert [len(d.train), len(d.test), len(d.early)] == [profile.train, profile.test, profile.early]
    assert len(d.pool) > 0


def test_mean_and_std_are_the_training_sets_per_channel(g):
    x = torch.rand(50, 3, 4, 4, generator=g) * torch.tensor([0.2, 0.5, 1.0]).view(1, 3, 1, 1)
    part = Split(x, torch.zeros(50, dtype=torch.long))
    d = Dataset("some", part, part, part, part)
    assert d.mean == pytest.approx(x.transpose(0, 1).flatten(1).mean(1).tolist())
    assert d.std == pytest.approx(x.transpose(0, 1).flatten(1).std(1).tolist())


@pytest.mark.parametrize("sizes, said", [
    ((0, 10, 10), "train=0"), ((10, -1, 10), "test=-1"), ((10, 10, 2.5), "early=2.5"),
    ((1700, 90, 10), "1800 images asked for, 1797"),
])  # fmt: skip
def test_impossible_sizes_are_named(sizes, said):
    with pytest.raises(ValueError, match=said):
        data.load("digits", *sizes)


def test_an_unknown_data_set_is_named():
    with pytest.raises(ValueError, match="dataset='mnist'.*'digits'"):
        data.load("mnist", 1, 1, 1)


# ---- folders of images -----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten classes, 3 + 2 PNG images each, colour coding class and number."""
    for part, n in (("train", 3), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                image = Image.new("RGB", (32, 32), (20 * label, 10 * i, part == "test"))
                image.save(tmp_path / part / name / f"{i:03d}.png")
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    return tmp_path


def test_an_image_folder_is_read_with_balanced_prefixes(folder):
    d = data.load("cifar10", train=12, test=6, early=3)
    assert d.train.x.shape == (12, 3, 32, 32) and d.train.x.dtype == torch.float32
    assert d.train.y.tolist() == [*range(10), 0, 1] and len(d.pool) == 18
    codes = (d.train.x[:, :, 0, 0] * 255).round().int().tolist()
    assert codes == [[20 * (k % 10), 10 * (k // 10), 0] for k in range(12)]
    assert d.pool.x.dtype == torch.uint8 and d.pool.x[0, :, 0, 0].tolist() == [40, 10, 0]
    assert (d.test.x[:, 2] == 1 / 255).all() and (d.early.x[:, 2] == 1 / 255).all()
    assert not set(rows(d.test.x)) & set(rows(d.early.x))  # the first and the last test images
    whole = d.all_test()
    assert len(d.rest) == 14 and len(set(rows(whole.x))) == 20  # every test image, once
    assert torch.equal(whole.x[:6], d.test.x) and torch.equal(whole.x[-3:], d.early.x)
    assert whole.y.tolist() == [*range(10)] * 2 and len(d.to("cpu").rest) == 14


def test_a_cifar10_subfolder_will_do(folder, tmp_path, monkeypatch):
    (folder / "inner").mkdir()
    for part in ("train", "test"):
        (folder / part).rename(folder / "inner" / part)
    (folder / "inner").rename(folder / "cifar10")
    assert len(data.load("cifar10", train=12, test=6, early=3).train) == 12


def test_test_and_early_stopping_images_never_overlap(folder):
    with pytest.raises(ValueError, match="cifar10 test: 21 images asked for, 20"):
        data.load("cifar10", train=12, test=9, early=12)


def test_missing_data_says_where_to_put_it_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATASETS", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as error:
        data.load("cifar10", 1, 1, 1)
    text = str(error.value)
    for part in (str(tmp_path / "nowhere"), "train/<class>", "python -m flatlib.data cifar10",
                 "FLATLIB_DATASETS"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(folder, content):
    broken = folder / "train" / "bee" / "002.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="train/bee/002.png"):
        data.load("cifar10", train=12, test=6, early=3)


def test_grey_images_become_three_channels(folder):
    Image.new("L", (32, 32), 128).save(folder / "train" / "ant" / "000.png")
    assert torch.allclose(data.load("cifar10", 12, 6, 3).train.x[0], torch.tensor(128 / 255))


def test_an_image_of_another_size_is_named(folder):
    Image.new("RGB", (32, 31)).save(folder / "test" / "cat" / "001.png")
    with pytest.raises(ValueError, match="test/cat/001.png .*: 32 x 31 pixels"):
        data.load("cifar10", 12, 6, 3)


def test_hidden_folders_and_files_shift_no_label(folder):
    for part in ("train", "test"):
        (folder / part / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "ant" / ".DS_Store").touch()
    assert data.load("cifar10", 12, 6, 3).train.y.tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize("part", ["train", "test"])
def test_both_parts_need_the_same_ten_classes(folder, part):
    (folder / part / "bee").rename(folder / part / "wasp")
    with pytest.raises(ValueError, match="need the same 10 folders of classes.*wasp"):
        data.load("cifar10", 12, 6, 3)
    for side in ("train", "test"):
        (folder / side / "additional").mkdir()
    (folder / part / "wasp").rename(folder / part / "bee")
    with pytest.raises(ValueError, match="need the same 10 folders"):
        data.load("cifar10", 12, 6, 3)


def test_torchvisions_files_are_read(tmp_path, monkeypatch):
    """Through torchvision's own reader, here a stand-in with the same attributes."""
    from flatlib.vision import datasets

    (tmp_path / "cifar-10-batches-py").mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    class Stored:
        def __init__(self, root, train):
            self.data, self.targets = (pixels if train else pixels[::-1]), list(range(10)) * 2

    monkeypatch.setattr(datasets, "CIFAR10", Stored)
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    d = data.load("cifar10", train=10, test=5, early=5)
    assert d.train.x.shape == (10, 3, 32, 32) and d.train.y.tolist() == list(range(10))
    assert torch.equal(d.train.x[3, 1], torch.tensor(pixels[3, :, :, 1]) / 255)
    assert torch.equal(d.test.x[0, 0], torch.tensor(pixels[-1, :, :, 0].copy()) / 255)
    assert torch.equal(d.early.x[-1, 0], torch.tensor(pixels[0, :, :, 0].copy()) / 255)


@pytest.mark.skipif(not ARCHIVE, reason="FLATLIB_CIFAR10 names no archive of images")
def test_real_images_of_cifar10(tmp_path, monkeypatch):
    """The first classes of the archive: as many as a quarter of a second's reading gives."""
    taken = Counter()
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            part = member.name.rsplit("/", 1)[0]
            if member.isfile() and taken[part] < 4:
                taken[part] += 1
                archive.extract(member, tmp_path, filter="data")
            if len(taken) == 2 and min(taken.values()) == 4:
                break
    for part in ("train", "test"):  # the archive may hold one part first: both read the same
        if not (tmp_path / part).exists():
            other = next(p for p in tmp_path.iterdir() if p.is_dir())
            (tmp_path / part).symlink_to(other)
    for name in range(8):  # the other classes, empty: a part must have ten
        (tmp_path / "train" / f"other-{name}").mkdir()
        (tmp_path / "test" / f"other-{name}").mkdir(exist_ok=True)
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    d = data.load("cifar10", train=8, test=4, early=4)
    assert d.train.x.shape == (8, 3, 32, 32) and d.train.y.tolist() == [0, 1] * 4
    assert 0.2 < d.train.x.mean() < 0.8 and d.train.x.std() > 0.1
    assert len(set(rows(d.train.x))) == 8


# ---- augmentation ----------------------------------------------------------------------------


@pytest.fixture
def x(g):
    """Images without two equal pixels."""
    return torch.rand(64, 3, 16, 16, generator=g) * 0.8 + 0.1


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_augmentations_keep_shape_and_range_and_follow_their_generator(x, name):
    f, before = augment.AUGMENTATIONS[name], x.clone()
    a, b, c = (f(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a.shape == x.shape and a.dtype == x.dtype and 0 <= a.min() and a.max() <= 1
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(x, before)


def test_crop_is_a_window_of_the_padded_image(x, g):
    out = augment.crop(x, g)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))  # 16 // 8
    seen = Counter()
    for image, whole in zip(out, padded):
        windows = [(t, l) for t in range(5) for l in range(5)
                   if torch.equal(image, whole[:, t : t + 16, l : l + 16])]  # fmt: skip
        assert len(windows) == 1
        seen[windows[0]] += 1
    assert len(seen) > 12 and len({t for t, _ in seen}) == len({l for _, l in seen}) == 5


def test_shrink_cuts_nothing_off(g):
    """Black borders of 0 to 4 pixels a side, drawn by themselves, then back to 32 pixels."""
    frame = torch.ones(200, 1, 32, 32)
    smaller = augment.shrink(frame, g)
    side = (smaller[:, 0, 16] > 0.5).sum(1)  # of the image, in pixels of the result
    assert smaller.shape == frame.shape and side.min() <= 27 and side.max() == 32
    assert side.min() >= 32 * 32 // 40 - 1  # two borders of 4 pixels are the most


def test_crop_pads_as_the_paper_at_32_pixels(g):
    out = augment.crop(torch.ones(200, 1, 32, 32), g)
    kept = out.sum((1, 2, 3))
    assert kept.min() >= 28 * 28 and kept.max() == 32 * 32 and (out.sum(2) == 0).any()
    filled = augment.crop(torch.ones(200, 1, 32, 32), torch.Generator().manual_seed(0), 0.5)
    assert filled.min() == 0.5


def test_crop_mean_fills_with_the_mean_colour(x, g):
    out = augment.crop_mean(x, g)
    mean = x.mean((0, 2, 3))
    corner = out[:, :, 0, 0]
    assert torch.isclose(corner, mean).all(1).sum() > 20


def test_flip_mirrors_half_of_the_images(x):
    out = augment.flip(x.repeat(20, 1, 1, 1), torch.Generator().manual_seed(0))
    mirrored = (out == x.flip(3).repeat(20, 1, 1, 1)).flatten(1).all(1)
    same = (out == x.repeat(20, 1, 1, 1)).flatten(1).all(1)
    assert (mirrored ^ same).all() and abs(mirrored.sum() - 640) < 5 * 320**0.5


def test_cutout_is_one_square_clipped_at_the_border(x, g):
    out = augment.cutout(x, g)
    changed = (out != x).any(1)
    areas = []
    for mask, image in zip(changed, out):
        ys, xs = mask.nonzero().unbind(1)
        top, bottom, left, right = ys.min(), ys.max(), xs.min(), xs.max()
        height, width = int(bottom - top + 1), int(right - left + 1)
        assert mask[top : bottom + 1, left : right + 1].all() and height * width == len(ys)
        assert height <= 8 and width <= 8
        assert height == 8 or top == 0 or bottom == 15  # smaller only where the border clips it
        areas.append(height * width)
        torch.testing.assert_close(image[:, top, left], x.mean((0, 2, 3)))
    assert max(areas) == 64 and min(areas) < 64


def test_autoaugment_leaves_the_global_generator_alone(x, g):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    augment.autoaugment(x, g)
    assert torch.equal(torch.get_rng_state(), before)
    a = augment.autoaugment(x, torch.Generator().manual_seed(0))
    torch.manual_seed(6)
    assert torch.equal(augment.autoaugment(x, torch.Generator().manual_seed(0)), a)


# ---- batches ---------------------------------------------------------------------------------


@pytest.fixture
def some(g):
    """100 training and 30 pool images, told apart by their first pixel."""
    x = torch.rand(130, 1, 8, 8, generator=g)
    x[:, 0, 0, 0] = torch.arange(130) / 200
    y = torch.arange(130) % 10
    train, pool = Split(x[:100], y[:100]), Split(x[100:], y[100:])
    return Dataset("some", train, train, train, pool)


def number(x):
    return (x[:, 0, 0, 0] * 200).round().long()


@pytest.mark.parametrize("size", [32, 50, 100, 128, 7])
def test_an_epoch_is_every_image_once(some, size):
    batches = list(Batches(size, ()).epoch(some, Streams(0)))
    assert len(batches) == -(-100 // size)
    seen = torch.cat([number(b.x) for b in batches])
    assert sorted(seen.tolist()) == list(range(100)) and seen.tolist() != list(range(100))
    assert torch.equal(torch.cat([b.y for b in batches]), seen % 10)
    assert {len(b) for b in batches[:-1]} <= {size} and len(batches[-1]) == (100 % size or size)


def test_epochs_differ_and_follow_their_stream(some):
    random = Streams(0)
    one, two = (list(Batches(32, ()).epoch(some, random)) for _ in range(2))
    again = list(Batches(32, ()).epoch(some, Streams(0)))
    assert torch.equal(one[0].x, again[0].x) and not torch.equal(one[0].x, two[0].x)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
def test_mixed_epochs_have_as_many_batches_as_plain_ones(some, share):
    batches = list(Batches(32, (), unlabelled=share).epoch(some, Streams(0)))
    extra = int(32 * share)
    assert len(batches) == 4  # as 100 images in batches of 32
    own = []
    for b in batches:
        n = number(b.x)
        assert int((n >= 100).sum()) == extra and torch.equal(b.y, n % 10)
        own += n[n < 100].tolist()
    assert len(own) == len(set(own)) <= 100  # without replacement


def test_both_shares_fit_into_one_batch(some):
    """A quarter from the pool and a quarter turned leave half of a batch for its own images."""
    for x, y in Batches(16, (), unlabelled=0.25, rotated=0.25).epoch(some, Streams(0)):
        upright, turned = number(x[:12]), y >= 10
        assert len(x) == 16 and turned.tolist() == [False] * 12 + [True] * 4
        assert (upright >= 100).tolist() == [False] * 8 + [True] * 4


@pytest.mark.parametrize("shares, said", [
    ((0.5, 0.5), "shares of a batch"), ((1.0, 0.0), "unlabelled=1.0"), ((-0.1, 0.5), "unlabelled="),
])  # fmt: skip
def test_shares_that_leave_no_image_are_refused(shares, said):
    with pytest.raises(ValueError, match=said):
        Batches(16, (), *shares)


def test_every_image_gets_its_own_rotation_and_keeps_its_label_recoverable(g):
    x = torch.rand(200, 1, 8, 8, generator=g)
    turned, y = rotations(x, 10, g)
    assert set(y.tolist()) == {10, 11, 12, 13}
    for image, out, label in zip(x, turned, y.tolist()):
        fits = [r for r in range(4) if torch.equal(torch.rot90(image, r, (1, 2)), out)]
        assert fits == [label - 10]


def test_rotated_images_join_after_augmentation(some):
    """Flip and crop come first: after them a quarter turn can still be told from three."""
    batches = list(Batches(32, (), rotated=0.5).epoch(some, Streams(0)))
    assert len(batches) == 4 and all(len(b) == 32 for b in batches)
    for x, y in batches:
        assert (y[:16] < 10).all() and (y[16:] >= 10).all()
        for image, label in zip(x[16:], y[16:]):
            upright = torch.rot90(image, -(int(label) - 10), (1, 2))
            assert rows(upright[None])[0] in rows(some.train.x)


def test_a_split_is_a_pair_with_a_length(some):
    x, y = some.pool
    assert len(some.pool) == len(x) == len(y) == 30 and len(some.pool.first(7)) == 7
    assert some.to("cpu").pool.x.equal(x)


def test_the_command_refuses_what_it_cannot_download(capsys):
    with pytest.raises(SystemExit):
        data.main(["imagenet"])
    assert "cifar10" in capsys.readouterr().err
