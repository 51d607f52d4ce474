"""Small sets in the layout of large ones."""

import hashlib
import pickle

import numpy as np
from torchvision.datasets import CIFAR10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_BATCH = 40  # of 10,000


def cifar10_images():
    """Return 200 training and 40 test images (N, 32, 32, 3), whose corner says label and place, and their labels."""
    random, sets = np.random.default_rng(0), []
    for count in (5 * PER_BATCH, PER_BATCH):
        images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) % 10
        images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, np.arange(count)
        sets.append((images, labels))
    return sets


def write_cifar10(root, monkeypatch):
    """Write the pickles that CIFAR-10 consists of, and let torchvision expect their checksums, not the real ones'."""
    folder = root / CIFAR10.base_folder
    folder.mkdir()
    (train, train_labels), (test, test_labels) = cifar10_images()

    def write(name, content):
        encoded = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(encoded)
        return hashlib.md5(encoded).hexdigest()

    def batch(images, labels):
        return {"data": images.transpose(0, 3, 1, 2).reshape(len(images), 3072), "labels": labels.tolist()}

    checksums = []
    for number in range(5):
        part = slice(number * PER_BATCH, (number + 1) * PER_BATCH)
        name = f"data_batch_{number + 1}"
        checksums.append([name, write(name, batch(train[part], train_labels[part]))])
    monkeypatch.setattr(CIFAR10, "train_list", checksums)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", batch(test, test_labels))]])
    md5 = write("batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    return folder
