"""Whatever folder, machine and shell it runs in: what is asked for is found, or refused in a line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flatbook import published
from flatbook.figures import plate
from flatlib import data, runs
from flatlib.data import cifar10, pickled
from flatlib.files import atomic, machine, paths
from flatlib.runs import batch, campaign, merging, queue

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}


def python(*arguments, cwd=paths.ROOT, **environment):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd,
                          env=ENVIRONMENT | environment, timeout=120)  # fmt: skip


# ---- folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given, meant", [
    ("mine", "{here}/mine"), ("../mine", "{parent}/mine"), ("~/mine", "{home}/mine"),
    ("/tmp/mine", "/tmp/mine"), ("", "default"), ("  ", "default"),
], ids=str)  # fmt: skip
def test_a_folder_means_the_same_wherever_a_process_is_later(given, meant, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLIB_RUNS", given)
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    places = {"here": here, "parent": here.parent, "home": Path.home()}
    want = paths.ROOT / "runs" if meant == "default" else Path(meant.format(**places))
    assert paths.named("FLATLIB_RUNS", paths.ROOT / "runs") == want
    monkeypatch.chdir("/")
    assert paths.named("FLATLIB_RUNS", paths.ROOT / "runs") == want  # in a process started later


def test_a_figure_is_shown_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    def read_only(path, content):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(atomic, "write", read_only)
    fig, _ = plt.subplots()
    assert plate.mount(fig, pd.DataFrame({"a": [1]}), "shown", "Caption.", "new").html()
    assert "shown.*: [Errno 30] Read-only file system" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


# ---- machines --------------------------------------------------------------------------------


def test_the_cpus_that_are_allowed_count_not_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "absent")
    monkeypatch.setattr(batch.torch.cuda, "is_available", lambda: False)
    assert machine.cpus() == 3 == batch._parser().parse_args([]).workers
    for text, cpus in {"200000 100000": 2, "50000 100000": 1, "max 100000": 3, "??": 3}.items():
        (tmp_path / "quota").write_text(text)
        monkeypatch.setattr(machine, "_QUOTA", tmp_path / "quota")
        assert machine.cpus() == cpus


@pytest.mark.parametrize("scheduler", ["absent.json", "tcp://127.0.0.1:9", "nonsense://x"])
def test_a_cluster_that_does_not_answer_is_refused(scheduler, fresh_runs, monkeypatch):
    monkeypatch.setattr(campaign, "ANSWER", 1)
    started = time.time()
    with pytest.raises(campaign.Refused, match=f"scheduler='{scheduler}'"):
        campaign.carry_out(runs.select("at", "smoke"), scheduler=scheduler)
    assert time.time() - started < 30 and not list(fresh_runs.glob("*/*"))


SCRIPT = """
from flatlib import runs
from flatlib.runs import campaign
chosen = runs.select(["at", "mish"], "smoke")
{call}
"""
CALL = "campaign.carry_out(chosen, workers=2)"


def test_a_script_that_processes_would_start_again_is_refused(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.format(call=CALL))
    done = python(str(script), FLATLIB_RUNS=str(tmp_path / "runs"))
    assert f"workers=2: its processes would run {script} again" in done.stderr
    assert done.stderr.count("Traceback") == 1 and not list((tmp_path / "runs").glob("*/*"))


def test_a_guarded_script_may_have_processes(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT.format(call=f"if __name__ == '__main__':\n    {CALL}"))
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", str(tmp_path / "mine.py"), raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    campaign._reachable(2, None)
    (tmp_path / "mine.py").write_text(SCRIPT.format(call=CALL))
    campaign._reachable(1, None)
    with pytest.raises(campaign.Refused, match="workers=2"):
        campaign._reachable(2, None)


# ---- CIFAR-10 --------------------------------------------------------------------------------


def images(root: Path, form="png", image=None, count=2, **how) -> Path:
    """A folder of grey images, two in each of ten classes."""
    for part in ("train", "test"):
        for c in range(10):
            folder = root / "cifar10" / part / f"c{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                picture = image or Image.fromarray(np.full((32, 32, 3), 99, np.uint8))
                picture.save(folder / f"{i}.{form}", **how)
    return root / "cifar10" / "train" / "c0" / "0.png"


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_the_origin_tells_the_quality_of_jpeg_files(tmp_path, quality):
    images(tmp_path, "jpg", quality=quality)
    assert cifar10.read(tmp_path)[2] == f"CIFAR-10 (JPEG, quality {quality})"


def test_the_origin_names_every_kind_of_file(tmp_path):
    first = images(tmp_path)
    assert cifar10.read(tmp_path)[2] == "CIFAR-10 (PNG)"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(first.with_suffix(".jpg"), quality=60)
    assert cifar10.read(tmp_path)[2] == "CIFAR-10 (JPEG, quality 60 and PNG)"


@pytest.mark.parametrize("mode, value, want", [
    ("wide", 20000, 78), ("L", 20, 20), ("P", 3, 3), ("RGBA", 50, 50), ("1", 1, 255),
])  # fmt: skip
def test_other_kinds_of_pixels_follow_the_stated_rule(tmp_path, mode, value, want):
    first = images(tmp_path)
    plain = np.full((32, 32), value, np.uint16 if mode == "wide" else np.uint8)
    picture = Image.fromarray(plain)
    if mode == "P":
        picture.putpalette([c for i in range(256) for c in (i, i, i)])
    elif mode == "1":
        picture = Image.fromarray(plain * 255).convert("1")
    elif mode == "RGBA":
        picture = Image.fromarray(np.stack([plain, plain, plain, 0 * plain], -1))
    picture.save(first)
    learn, _, _ = cifar10.read(tmp_path)
    assert (learn.x[0] == want).all()


@pytest.mark.parametrize("damage, said", [
    (lambda f: f.write_bytes(b"x"), "0.png is no image that can be used"),
    (lambda f: Image.new("RGB", (31, 32)).save(f), "31 x 32 pixels, 32 x 32 wanted"),
    (lambda f: Image.new("1", (20_000, 20_000)).save(f), "0.png is no image that can be used"),
    (lambda f: Image.new("F", (32, 32)).save(f, "TIFF"), "real numbers"),
    (lambda f: [file.unlink() for file in f.parent.iterdir()], "no images of the classes c0"),
], ids=["noise", "size", "huge", "reals", "empty class"])  # fmt: skip
def test_images_that_cannot_be_used_are_named(tmp_path, damage, said):
    damage(images(tmp_path))
    with pytest.raises(ValueError, match=said) as error:
        cifar10.read(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("content", [{}, {"data_batch_1": b"x"}], ids=["empty", "half"])
def test_a_broken_download_is_told_in_one_line(tmp_path, content):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, text in content.items():
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(text)
    with pytest.raises(ValueError, match="incomplete or damaged.*remove that folder") as error:
        cifar10.read(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_download_without_a_network_ends_in_one_line(tmp_path, monkeypatch, capsys):
    from flatlib.vision import datasets

    def unreachable(*args, **how):
        raise OSError("<urlopen error no network>")

    monkeypatch.setattr(datasets, "CIFAR10", unreachable)
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    with pytest.raises(SystemExit) as end:
        data.main(["cifar10"])
    assert end.value.code == 1 and capsys.readouterr().err.count("\n") == 1


def test_rows_of_other_images_never_stand_in_one_table():
    stored = pd.DataFrame({"key": ["a", "b"], "images": ["CIFAR-10 (PNG)", "CIFAR-10 (PNG)"]})
    fresh = pd.DataFrame({"key": ["c"], "images": ["CIFAR-10 (JPEG, quality 75)"]})
    assert "quality 75), stored CIFAR-10 (PNG)" in merging.other_images(stored, fresh)
    assert merging.other_images(stored, fresh.assign(images="CIFAR-10 (PNG)")) is None
    assert merging.other_images(stored[:0], fresh) is None
    assert merging.other_images(stored[:1].assign(key="c"), fresh) is None  # replaced as a whole


# ---- files and words from outside ------------------------------------------------------------


def test_checksums_that_are_no_text_are_named(tmp_path, monkeypatch):
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(published, "PUBLISHED", tmp_path)
    with pytest.raises(ValueError, match="SHA256SUMS is damaged"):
        published.table1()


@pytest.mark.parametrize("content", [
    b"\x80\x04\x8d" + b"\xff" * 8, b"\x80\x02]" + b"(" * 3, b"\x80\x04B\xff\xff\xff\xff",
])  # fmt: skip
def test_a_pickle_that_asks_for_too_much_is_named(tmp_path, content):
    (tmp_path / "x.pickle").write_bytes(content)
    with pytest.raises(ValueError, match="x.pickle is no pickle of plain arrays"):
        pickled.read(tmp_path / "x.pickle")


def test_lists_that_arrive_as_text_are_understood():
    for seeds in ("[0, 1]", (0, 1), [0, 1]):
        assert [run.seed for run in runs.select("at", "smoke", seeds)] == [0, 1]
    for methods in ("[at, trades6]", "['at', 'trades6']", ["at", "trades6"]):
        assert [run.name for run in runs.select(methods, "smoke")] == ["at", "trades6"]
    assert [run.seed for run in runs.select("at", "smoke", "2")] == [2]


@pytest.mark.parametrize("call, said", [
    (lambda: runs.select("at", "smoke", None), "seeds=None"),
    (lambda: runs.select("at", "smoke", 1.0), "seeds=1.0"),
    (lambda: runs.select("at", "smoke", True), "seeds=True"),
    (lambda: runs.select("at", "smoke", "one"), "seeds='one'"),
    (lambda: runs.select("at", "smoke", [-1]), r"seeds=\[-1\]"),
    (lambda: runs.select("at", ["smoke"]), r"profile=\['smoke'\]"),
    (lambda: runs.select("at", "smoke", 0, "tpu2"), "device='tpu2'"),
    (lambda: runs.get("main", "smoke"), "method='main': one method wanted, these are 10"),
    (lambda: runs.collect("at", "smoke", source="live", suite="defualt"), "suite='defualt'"),
])  # fmt: skip
def test_words_that_mean_nothing_are_refused_by_name(call, said, fresh_runs):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("command", [
    ["-m", "flatbook.methods_page"], ["-m", "flatlib.runs.queue", "--list"], ["nbs/run.py", "--list"],
], ids=lambda command: command[-2])  # fmt: skip
def test_a_list_may_be_cut_off(command):
    line = f"{sys.executable} {' '.join(command)} | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=paths.ROOT,
                          env=ENVIRONMENT, timeout=120)  # fmt: skip
    assert done.stdout.count("\n") == 1 and not done.stderr


@pytest.mark.parametrize("module, arguments", [
    (batch, ["--profile", "smoke", "--workers", "1"]), (queue, ["--profile", "smoke"]),
])  # fmt: skip
def test_an_interrupted_campaign_says_what_is_kept(module, arguments, monkeypatch, capsys):
    def interrupted(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "carry_out", interrupted)
    monkeypatch.setattr(queue, "work", interrupted)
    monkeypatch.setattr(os, "nice", lambda n: None)
    with pytest.raises(SystemExit) as end:
        module.main(arguments)
    assert end.value.code == 130
    assert capsys.readouterr().err == f"stopped; {batch.KEPT}\n"
