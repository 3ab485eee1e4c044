import gzip
import hashlib
import pickle
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf
from torchvision import datasets

from lithydra.data import sources
from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays
from lithydra.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "data"
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = np.arange(30) % 10
IMAGES = Arrays(PIXELS[:20], LABELS[:20], PIXELS[20:], LABELS[20:])


def make(name: str, **changes: Any) -> Any:
    """The data set of conf/data/NAME.yaml."""
    files = [OmegaConf.load(CONF / f"{file}.yaml") for file in ("_base", name)]
    settings: Any = OmegaConf.to_container(OmegaConf.merge(*files, {"seed": 0, **changes}))
    del settings["defaults"]
    module = get_class(settings.pop("_target_"))(**settings)
    assert isinstance(module, ImageDataModule)
    return module


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


def write_idx_files(folder: Path, packed: bool) -> None:
    folder.mkdir(parents=True)
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name, array in zip(names, IMAGES.by_key().values(), strict=True):
        file = folder / f"{name}-ubyte{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


def assert_images(arrays: Arrays) -> None:
    for found, wanted in zip(arrays.by_key().values(), IMAGES.by_key().values(), strict=True):
        assert np.array_equal(found, wanted) and found.dtype == wanted.dtype and found.flags.writeable


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for torchvision's server of Fashion-MNIST."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    folder = tmp_path / "server"
    write_idx_files(folder, packed=True)
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{http.server_port}/"])
    checksums = [(name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in _resource_names()]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", checksums)
    yield folder
    http.shutdown()
    thread.join()
    http.server_close()


def _resource_names() -> list[str]:
    return [name for name, _ in datasets.FashionMNIST.resources]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address in place of torchvision's servers, where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [url, url])
    monkeypatch.setattr(datasets.CIFAR10, "url", url)
    return url


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_class_names_are_told_without_the_data(tmp_path: Path, name: str) -> None:
    names = make(name, dir=str(tmp_path)).class_names()
    assert len(set(names)) == len(names) == (100 if name == "cifar100" else 10)


def test_digits_are_divided_by_class_and_the_same_at_every_start(tmp_path: Path) -> None:
    first, second = (make("digits", dir=str(tmp_path / folder), seed=seed) for seed, folder in enumerate("ab"))
    arrays = first.read()
    assert arrays.x_train.shape == (1437, 8, 8) and arrays.x_test.shape == (360, 8, 8)
    assert arrays.x_train.max() == 255 and set(np.unique(arrays.x_train)) == {round(i * 255 / 16) for i in range(17)}
    assert set(np.bincount(arrays.y_test)) <= {35, 36, 37}
    assert all(np.array_equal(a, b) for a, b in zip(arrays[:4], second.read()[:4], strict=True))
    assert first.fingerprint() == second.fingerprint() != {}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvisions_raw_files_are_read(tmp_path: Path, name: str, folder: str, packed: bool) -> None:
    write_idx_files(tmp_path / folder / "raw", packed)
    module = make(name, dir=str(tmp_path))
    assert_images(module.read())
    assert (tmp_path / f"{name}.npz").is_file() and len(module.fingerprint()) == 4
    assert_images(module.read())


def test_debians_package_is_a_source(tmp_path: Path) -> None:
    write_idx_files(tmp_path / "debian", packed=True)
    assert_images(make("fashion_mnist", dir=str(tmp_path / "data"), debian_dir=str(tmp_path / "debian")).read())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: None, r"no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz"),
        (lambda data: data[:-1], "t10k-images-idx3-ubyte is damaged: 7839 values instead of 7840"),
        (lambda data: b"text", "t10k-images-idx3-ubyte is no IDX file of bytes"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_damaged_raw_files_are_named(tmp_path: Path, damage: Any, reason: str) -> None:
    write_idx_files(tmp_path / "MNIST" / "raw", packed=False)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    data = damage(file.read_bytes())
    file.unlink() if data is None else file.write_bytes(data)
    with pytest.raises(ConfigError, match=reason):
        make("mnist", dir=str(tmp_path)).read()


@pytest.mark.usefixtures("no_network")
def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    write_idx_files(tmp_path / "MNIST" / "raw", packed=True)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    for data in (file.read_bytes()[:500], file.read_bytes()[:30] + b"\xff" * 500, b"text"):
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=r"t10k-images-idx3-ubyte\.gz is damaged: "):
            make("mnist", dir=str(tmp_path)).read()


@pytest.mark.parametrize(
    ("name", "kind", "num_classes", "key"),
    [("cifar10", datasets.CIFAR10, 10, "labels"), ("cifar100", datasets.CIFAR100, 100, "fine_labels")],
)
def test_torchvisions_cifar_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: Any, num_classes: int, key: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (num_classes, 3, 32, 32), dtype=np.uint8)
    labels = list(range(num_classes))
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    meta = {kind.meta["key"]: []}
    for file, content in (("part", {"data": pixels.reshape(num_classes, -1), key: labels}), ("meta", meta)):
        (folder / file).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(kind, "train_list", [["part", None], ["part", None]])
    monkeypatch.setattr(kind, "test_list", [["part", None]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "meta", "md5": None})
    arrays = make(name, dir=str(tmp_path)).read()
    assert np.array_equal(arrays.x_test, pixels.transpose(0, 2, 3, 1)) and arrays.x_train.shape[1:] == (32, 32, 3)
    assert arrays.y_train.tolist() == labels * 2 and arrays.y_train.dtype == np.int64


def test_download_is_read_and_cleared_away(
    tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / ".FashionMNIST.download" / "FashionMNIST" / "raw").mkdir(parents=True)  # of a killed process
    for name in _resource_names():
        half = tmp_path / "data" / ".FashionMNIST.download" / "FashionMNIST" / "raw" / name.removesuffix(".gz")
        half.write_bytes(b"half")
    assert_images(make("fashion_mnist", dir=str(tmp_path / "data"), debian_dir=str(tmp_path / "none")).read())
    assert sorted(entry.name for entry in (tmp_path / "data").iterdir()) == [
        "fashion_mnist.npz",
        "fashion_mnist.npz.lock",
    ]
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() is None


def test_failed_download_gives_its_reason(tmp_path: Path, server: Path) -> None:
    (server / "t10k-labels-idx1-ubyte.gz").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match=r"a download by torchvision \(Error downloading t10k-labels.* corrupted"):
        make("fashion_mnist", dir=str(tmp_path / "data"), debian_dir=str(tmp_path / "none")).read()
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["fashion_mnist.npz.lock"]


def test_download_without_a_network_says_so(tmp_path: Path, no_network: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("cifar10", dir=str(tmp_path)).read()
    assert f"torchvision's raw files in {tmp_path}/cifar-10-batches-py (no such folder)" in str(caught.value)
    assert f"a download by torchvision ({no_network}: [Errno " in str(caught.value)


def test_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(ConnectionError, match=r"no answer in 0\.1 s"):
            sources._require_answer([url], timeout_seconds=0.1)


def test_npz_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **IMAGES.by_key())  # pyright: ignore[reportArgumentType]
    module = make("npz", path=str(path))
    assert module.class_names() == tuple("0123456789")
    assert_images(module.read())
    assert len(module.fingerprint()) == 4
    assert make("npz", path=str(path), class_names=list("abcdefghij")).class_names() == tuple("abcdefghij")


def test_npz_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(ConfigError, match=r"data\.path=.*mine\.npz: no such file; data=npz needs data\.path=FILE\.npz"):
        make("npz", path=str(path))
    path.write_text("text")
    with pytest.raises(
        ConfigError, match=r"mine\.npz is damaged \(File is not a zip file\): write it again with numpy"
    ):
        make("npz", path=str(path)).read()
    np.savez(path, **IMAGES.by_key())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"data\.class_names: 2 names for the 10 classes"):
        make("npz", path=str(path), class_names=["cat", "dog"]).class_names()
