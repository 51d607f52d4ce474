import hashlib
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.cifar10 import Cifar10
from fastshap_lab.errors import UserError
from tests.data.stand_ins import NAMES, cifar10_images, write_cifar10
from tests.small_runs import configured


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """200 training and 40 test images in ``cifar-10-batches-py``."""
    return write_cifar10(tmp_path, monkeypatch)


def test_splits_hold_every_image_once_with_its_label(folder):
    data = Cifar10(str(folder.parent), download=False)
    assert (data.image_size, data.class_names) == ((32, 32), NAMES)
    assert not data._splits
    train, val, test = (data.dataset(split) for split in SPLITS)
    assert [len(split) for split in (train, val, test)] == [180, 20, 40]
    assert val.labels.bincount().tolist() == [2] * 10
    (images, labels), (test_images, test_labels) = cifar10_images()
    place = torch.cat([train.images, val.images])[:, 1, 0, 0]
    assert place.sort().values.tolist() == list(range(200))
    for split, source, classes in ((train, images, labels), (val, images, labels), (test, test_images, test_labels)):
        place = split.images[:, 1, 0, 0].numpy()
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), source[place])
        assert np.array_equal(split.labels.numpy(), classes[place])


def test_the_splits_are_the_same_in_every_run(folder):
    data = Cifar10(str(folder.parent), download=False)
    indices = b"".join(data._indices[split].astype("<i4").tobytes() for split in SPLITS)
    assert hashlib.sha256(indices).hexdigest()[:12] == "1387efdb809f"


def test_other_sizes_are_resized(folder):
    data = Cifar10(str(folder.parent), download=False, image_size=(16, 64), limit_test=1)
    assert data.dataset("test").images.shape == (1, 3, 16, 64)


def test_the_digest_follows_the_content_and_not_the_path(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy" / folder.name)
    options = [{}, {"image_size": 16}, {"limit_train": 100}, {"limit_test": 5}, {"val_fraction": 0.2}]
    digests = [Cifar10(str(folder.parent), download=False, **each).digest() for each in options]
    assert len(set(digests)) == len(options)
    assert Cifar10(str(tmp_path / "copy"), download=False, workers=1).digest() == digests[0]


def test_what_is_not_whole_is_neither_unpickled_nor_used(folder):
    with (folder / "data_batch_3").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"^data.params.root=.*no undamaged CIFAR-10 .* data.params.download=true"):
        Cifar10(str(folder.parent), download=False)
    (folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match="no undamaged CIFAR-10"):
        Cifar10(str(folder.parent), download=False)


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    """Serve the archive as the authors' site does; what was unpacked is gone."""
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / CIFAR10.filename, "w:gz") as archive:
        archive.add(folder, folder.name)
    shutil.rmtree(folder)
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.command)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((site / CIFAR10.filename).read_bytes()).hexdigest())
        yield asked
        server.shutdown()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision's way of unpacking
def test_it_is_downloaded_once(server, tmp_path):
    root = tmp_path / "new" / "data"
    first = Cifar10(str(root))
    asked = len(server)
    assert asked
    assert Cifar10(str(root)).digest() == first.digest()
    assert len(server) == asked
    assert len(first.dataset("test")) == 40


def test_what_was_tampered_with_on_the_way_is_not_used(server, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(UserError, match=r"cannot be downloaded \(File not found or corrupted"):
        Cifar10(str(tmp_path / "new"))
    assert not (tmp_path / "new" / CIFAR10.base_folder).exists()


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # nobody listens there
    with pytest.raises(
        UserError, match=r"cannot be downloaded .*put cifar-10-python.tar.gz there, or .*data=hub"
    ) as error:
        Cifar10(str(tmp_path / "new"))
    assert "\n" not in str(error.value)


def test_parquet_files_take_its_place_in_the_experiment():
    config = configured("experiment=cifar10_ab", "data=hub", "data.params.path=somewhere", base=[])
    assert (config.data.name, config.data.params, config.name) == ("hub", {"path": "somewhere"}, "cifar10")
    assert configured("experiment=cifar10_ab", base=[]).data.params == {"root": "data"}
