import time

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastshap_lab.data.augment import Augment
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import StreamedImages, TensorImages
from fastshap_lab.seeding import derive_seed

AUGMENT = Augment(flip=True, crop_padding=2, rotation=0.2)


IMAGES = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def split_of(kind, count=50):
    """Return the first images, in memory or decoded by so many threads."""
    labels = torch.arange(count) % 5
    if kind == "resident":
        return TensorImages(IMAGES[:count], labels)
    return StreamedImages(lambda index: IMAGES[index].numpy(), labels, (8, 8), workers=kind)


@pytest.fixture(params=["resident", 3])
def data(request):
    return split_of(request.param)


def epoch(loader, number):
    loader.set_epoch(number)
    return list(loader)


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(batch[key], other[key]) for key in batch)


def test_seeds_differ_with_every_part_and_never_change():
    assert derive_seed(0, "order", 1) == 8677279991123922410
    assert len({derive_seed(0, "a"), derive_seed(1, "a"), derive_seed(0, "b"), derive_seed(0, "a", 0)}) == 4
    assert derive_seed("a", "b") != derive_seed("ab")


def test_evaluation_gives_every_image_once_in_order(data):
    loader = ImageLoader(data, 16, augment=AUGMENT, seed=3)
    batches = epoch(loader, 7)
    assert len(loader) == len(batches) == 4
    assert torch.equal(torch.cat([batch["index"] for batch in batches]), torch.arange(50))
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), data.labels)
    images = torch.cat([batch["image"] for batch in batches])
    assert torch.equal((images * 255).round().to(torch.uint8), IMAGES)


def test_training_leaves_out_the_last_incomplete_batch_unless_it_is_the_only_one(data):
    loader = ImageLoader(data, 16, training=True)
    assert [len(batch["index"]) for batch in loader] == [16] * len(loader) == [16, 16, 16]
    loader = ImageLoader(data, 64, training=True)
    assert [len(batch["index"]) for batch in loader] == [50]
    assert len(loader) == 1


def test_a_training_batch_is_a_function_of_seed_and_epoch_alone(data):
    uninterrupted = ImageLoader(data, 16, training=True, augment=AUGMENT, seed=3)
    epochs = [epoch(uninterrupted, number) for number in range(3)]
    resumed = ImageLoader(data, 16, training=True, augment=AUGMENT, seed=3)
    resumed.set_epoch(1)
    next(iter(resumed))  # how far an earlier iteration went must not matter, nor the global state
    torch.manual_seed(99)
    assert_same(epoch(resumed, 2), epochs[2])
    assert_same(epoch(resumed, 1), epochs[1])
    assert not torch.equal(epochs[0][0]["index"], epochs[1][0]["index"])
    other = ImageLoader(data, 16, training=True, augment=AUGMENT, seed=4)
    assert not torch.equal(epochs[0][0]["index"], epoch(other, 0)[0]["index"])


@pytest.mark.parametrize("training", [True, False])
def test_batches_are_the_same_wherever_images_come_from(training):
    expected = None
    for kind in ("resident", 1, 2, 7):
        loader = ImageLoader(split_of(kind), 8, training=training, augment=AUGMENT, seed=3)
        batches = epoch(loader, 0) + epoch(loader, 1)
        loader.load_state_dict({"batch": 4})
        batches += epoch(loader, 2)  # from its middle
        assert len(batches) == (14 if training else 17)
        assert_same(batches, expected := expected or batches)


def test_streaming_decodes_no_more_than_the_batches_ahead():
    begun = []

    def decode(index):
        begun.append(index)
        return IMAGES[index].numpy()

    loader = ImageLoader(StreamedImages(decode, torch.zeros(50).long(), (8, 8), 2, ahead=2), 5, training=True)
    batches = iter(loader)
    assert not begun
    next(batches)
    time.sleep(0.05)
    assert len(begun) == 15
    del batches
    time.sleep(0.05)
    assert len(begun) == 15


def test_the_augmentation_differs_between_epochs_batches_and_ranks():
    same = TensorImages(torch.arange(192, dtype=torch.uint8).view(1, 3, 8, 8).repeat(8, 1, 1, 1), torch.zeros(8).long())
    loaders = [ImageLoader(same, 2, training=True, augment=AUGMENT, rank=rank, world_size=2) for rank in range(2)]
    batches = [batch["image"] for number in range(2) for loader in loaders for batch in epoch(loader, number)]
    assert len({batch.numpy().tobytes() for batch in batches}) == len(batches) == 8


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("count", "world_size"), [(48, 3), (50, 3), (50, 4), (2, 4)])
def test_ranks_share_the_images_out_in_equally_many_batches(training, count, world_size):
    data = split_of("resident", count)
    loaders = [ImageLoader(data, 4, training=training, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [epoch(loader, 1) for loader in loaders]
    assert {len(share) for share in shares} == {len(loader) for loader in loaders} == {len(loaders[0])}
    seen = torch.cat([batch["index"] for share in shares for batch in share]).bincount(minlength=count)
    if training:
        assert seen.max() == 1 or count < 2 * world_size * 4
    else:
        assert seen.min() >= 1
        assert (seen - 1).sum() == -count % world_size


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch))
        return self.weight * batch["image"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(loader, folder, checkpoint=None, **stop):
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=1)],
        **stop,
    )
    trainer.fit(model, loader, ckpt_path=checkpoint)
    return model, trainer.checkpoint_callback.best_model_path


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 beside PyTorch 2.13
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* not empty")  # it holds what to resume from
@pytest.mark.parametrize("interrupted_after", [2, 3, 4])  # within an epoch, at its end, within the next
def test_lightning_resumes_with_the_batches_an_undisturbed_run_sees(data, tmp_path, interrupted_after):
    def loader():
        return ImageLoader(data, 16, training=True, augment=AUGMENT)

    whole, _ = fit(loader(), tmp_path / "whole", max_epochs=3)
    first, checkpoint = fit(loader(), tmp_path / "parts", max_steps=interrupted_after)
    rest, _ = fit(loader(), tmp_path / "parts", checkpoint, max_epochs=3)
    assert [number for number, _ in whole.seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert_same([batch for _, batch in first.seen + rest.seen], [batch for _, batch in whole.seen])
    assert torch.equal(whole.weight, rest.weight)
