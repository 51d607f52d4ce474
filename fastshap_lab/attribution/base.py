"""What every attribution method promises, whatever the model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastshap_lab.components import Count
from fastshap_lab.errors import UserError, check_max_batch
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.freezing import evaluating, takes_channels_last
from fastshap_lab.models.targets import Targets, as_classes, class_of_each
from fastshap_lab.models.tasks import Multiclass, Task

Kind = Literal["attribution", "score", "saliency"]
Choice = TypeVar("Choice", bound=str)

_MIN_CHANNELS_LAST = 4  # images, below which it makes them slower on a processor


class AttributionMethod(ABC):
    """A map of what in an image speaks for a class.

    A subclass says how to explain up to ``max_batch`` images in ``_attribute``, which runs with the model in evaluation
    mode, its parameters frozen and gradients on. What it draws at random comes from a seed given to its constructor and
    is the same for every image, so that no image's map depends on its neighbours.

    Args:
        model: Takes images (B, C, H, W) to logits (B, K), or to a regression's answers. It is left as it came.
        max_batch: Images per pass. Changes maps by rounding only.

    Raises:
        UserError: The method does not apply to the model, or ``max_batch`` is below 1.
    """

    kind: ClassVar[Kind]
    """Signed, and zero where there is nothing; or an answer, which has a constant part; or non-negative."""

    unit: str | None = None
    """Entry of ``shapley.game.LINKS`` of which a map's values are differences, that add up; None where they are not."""

    class_specific: ClassVar[bool] = True
    """Whether the map depends on the target."""

    inputs: ClassVar[tuple[str, ...]] = ("model",)
    """Arguments of the constructor that follow from what is explained, and are not the user's to choose."""

    uncalled: ClassVar[bool] = False
    """Whether a comparison of methods has it even where it was not chosen."""

    uninformed: ClassVar[bool] = False
    """Whether its maps know nothing, so that other methods are tested against it."""

    version: ClassVar[int] = 1
    """Raised when a change of the code changes maps: those that were kept are then made again."""

    def __init__(self, model: nn.Module, max_batch: Count = 32) -> None:
        check_max_batch(max_batch)
        reason = self._refusal(model)
        if reason is not None:
            raise UserError(f"{type(self).__name__}: {reason}")
        self.model, self.max_batch = model, max_batch

    @classmethod
    def supports(cls, model: nn.Module) -> str | None:
        """Return why the method, with its default options, does not apply to a model, or None if it does."""
        return None

    def _refusal(self, model: nn.Module) -> str | None:
        """Return the same for the options of this instance, set before the base's constructor is called."""
        return self.supports(model)

    @property
    def modules(self) -> list[nn.Module]:
        """The modules whose passes are what an explanation costs."""
        return [self.model]

    def attribute(
        self, image: Float[Tensor, "B C H W"], target: Targets | None = None
    ) -> Float[Tensor, "B rows columns"]:
        """Return the raw map of each image: signs kept, not normalized, at the method's native resolution.

        Args:
            image: As the model takes it.
            target: The class explained, of all images or of each; by default the one with the highest logit, of a
                regression the target whose answer is the most unusual.

        Raises:
            UserError: A target is no class, or the model's answer is no logits.
        """
        classes = None if target is None else class_of_each(target, len(image)).to(image.device)
        with self._asking(classes):
            image = image.detach().clone()  # a tensor made in inference mode could not be differentiated through
            if not self.class_specific:
                classes = torch.zeros(len(image), dtype=torch.long, device=image.device)
            parts = image.split(self.max_batch)
            if classes is None:
                return torch.cat([self._attribute_top(part).detach() for part in parts])
            chosen = zip(parts, classes.split(self.max_batch), strict=True)
            return torch.cat([self._attribute(*part).detach() for part in chosen])

    def attribute_all(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K rows columns"]:
        """Return the raw maps of all classes, from one set of passes where the method allows it.

        Raises:
            UserError: The model's answer is no logits.
        """
        with self._asking():
            image = image.detach().clone()
            return torch.cat([self._attribute_all(part).detach() for part in image.split(self.max_batch)])

    def attribute_classes(self, image: Float[Tensor, "B C H W"], classes: Targets) -> Float[Tensor, "B E rows columns"]:
        """Return the raw maps of some classes of each image, from one set of passes where the method allows it.

        Args:
            image: As the model takes it.
            classes: The classes explained, (B, E).

        Raises:
            UserError: As for ``attribute``.
        """
        chosen = as_classes(classes).to(image.device)
        if chosen.ndim != 2 or len(chosen) != len(image):
            shape = tuple(chosen.shape)
            raise UserError(f"classes of shape {shape}: must be (B, E), of each of {len(image)} images as many")
        with self._asking(chosen):
            image = image.detach().clone()
            parts = zip(image.split(self.max_batch), chosen.split(self.max_batch), strict=True)
            return torch.cat([self._attribute_classes(*part).detach() for part in parts])

    @contextmanager
    def _asking(self, classes: Tensor | None = None) -> Iterator[None]:
        """Leave the model restoring, and see to it that its answers are logits, of these classes among others."""
        highest = int(classes.max()) if classes is not None and classes.numel() else 0

        def see(module: nn.Module, args: tuple[Any, ...], answer: Any) -> None:
            self._check_answer(answer)
            if highest >= answer.shape[1]:
                raise UserError(f"target={highest}: classes are numbered 0 to {answer.shape[1] - 1}")

        with restoring(self.model), hooked([partial(self.model.register_forward_hook, see)]):
            yield

    def _check_answer(self, answer: Any) -> None:
        """Raise a ``UserError`` where the method cannot do with a model's answer."""
        check_logits(answer)

    @abstractmethod
    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        """Return maps (B, rows, columns) of at most ``max_batch`` images, each with its class (B,)."""

    def _attribute_all(self, image: Tensor) -> Tensor:
        """Return maps (B, K, rows, columns) of at most ``max_batch`` images: overridden where passes can be shared."""
        with torch.no_grad():
            num_classes = self.model(image[:1]).shape[1]
        if not self.class_specific:
            one = self._attribute(image, class_of_each(0, len(image)).to(image.device)).detach()
            return one.unsqueeze(1).expand(-1, num_classes, -1, -1)
        each = [class_of_each(k, len(image)).to(image.device) for k in range(num_classes)]
        maps = [self._attribute(image, target).detach() for target in each]
        return torch.stack(maps, dim=1)

    def _attribute_classes(self, image: Tensor, classes: Tensor) -> Tensor:
        """Return maps (B, E, rows, columns) of at most ``max_batch`` images."""
        if self.class_specific and type(self)._attribute_all is AttributionMethod._attribute_all:
            return torch.stack([self._attribute(image, target).detach() for target in classes.unbind(dim=1)], dim=1)
        maps = self._attribute_all(image)
        return maps[torch.arange(len(image), device=image.device).unsqueeze(1), classes]

    def _attribute_top(self, image: Tensor) -> Tensor:
        """Return the maps of each image's top class: overridden where the pass that finds it can be shared."""
        with torch.no_grad():
            top = task_of(self.model).foremost(self.model(image))
        return self._attribute(image, top)


def upsample(
    maps: Float[Tensor, "*batch rows columns"], image_size: tuple[int, int]
) -> Float[Tensor, "*batch height width"]:
    """Return maps at image size, interpolated bilinearly between the centres of their cells."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = nn.functional.interpolate(flat, size=image_size, mode="bilinear", align_corners=False)
    return resized.reshape(*maps.shape[:-2], *image_size)


def one_of(argument: str, value: Choice, choices: Any) -> Choice:
    """Return the value of an argument, one of a ``Literal``'s.

    Raises:
        UserError: It is none of them.
    """
    if value not in get_args(choices):
        raise UserError(f"{argument}={value}: unknown, one of {', '.join(get_args(choices))} wanted")
    return value


def target_logits(logits: Float[Tensor, "B K"], target: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the logit of each image's class.

    Raises:
        UserError: There is no such class.
    """
    return logits.gather(1, as_classes(target, logits.shape[1]).unsqueeze(1)).squeeze(1)


def check_logits(answer: Any) -> None:
    """Raise a ``UserError`` where a model's answer is not the logits (B, K) of two classes or more."""
    if not isinstance(answer, Tensor):
        raise UserError(
            f"the model answers with a {type(answer).__name__}: must be a tensor, the logits (B, K); wrap the model in "
            "a module that returns them alone"
        )
    if answer.ndim != 2 or answer.shape[1] < 1:
        raise UserError(
            f"the model answers with a tensor of shape {tuple(answer.shape)}: must be (B, K), a number for each class; "
            "of a single logit (B, 1)"
        )


def task_of(model: nn.Module) -> Task:
    """Return what a model's outputs mean: a ``Classifier`` knows; any other module names one of K classes."""
    return model.task if isinstance(model, Classifier) else Multiclass()


def gradients(logits: Tensor, target: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of each image's target logit by each tensor; zeros where it has no influence."""
    total = target_logits(logits, target).sum()  # images do not influence one another in evaluation mode
    return list(torch.autograd.grad(total, list(tensors), allow_unused=True, materialize_grads=True))


def mean_colour(model: nn.Module, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """Return what stands for absence: the colour that is zero in the model's normalized space.

    A ``Classifier`` normalizes inside and knows its mean; of any other module, the input is taken to be normalized.
    """
    return model.mean_rgb.to(image) if isinstance(model, Classifier) else image.new_zeros(image.shape[1], 1, 1)


def colour_scale(model: nn.Module, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """Return one unit of the model's normalized space in units of the input, which noise levels are given in."""
    return model.std_rgb.to(image) if isinstance(model, Classifier) else image.new_ones(image.shape[1], 1, 1)


def baseline_colour(
    model: nn.Module, image: Float[Tensor, "B C H W"], colour: Sequence[float] | None
) -> Float[Tensor, "C 1 1"]:
    """Return a colour given in units of the input, or the mean colour if None is.

    Raises:
        UserError: It has not one number per channel.
    """
    if colour is None:
        return mean_colour(model, image)
    if len(colour) != image.shape[1]:
        raise UserError(f"baseline={list(colour)}: {image.shape[1]} numbers wanted, one per channel")
    return image.new_tensor(list(colour)).view(-1, 1, 1)


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode with frozen parameters and gradients on, and leave it as it came.

    Frozen, its parameters get no gradients and cost none. Recomputation of activations is off: it would call hooks
    twice. Images reach it channels-last where that is faster, and all of its modules are known to
    take them so.
    """
    changes: list[tuple[Any, str, Any]] = [
        (module, "grad_checkpointing", False) for module in model.modules() if vars(module).get("grad_checkpointing")
    ]
    changes += [(parameter, "requires_grad", False) for parameter in model.parameters() if parameter.requires_grad]
    hooks = [partial(model.register_forward_pre_hook, _channels_last)] if takes_channels_last(model) else []
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), changed(changes), hooked(hooks):
        yield


@contextmanager
def changed(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes, given as object, name and value, and give them back their values."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def hooked(register: Sequence[Callable[[], Any]]) -> Iterator[None]:
    """Register hooks, each by a call that returns its handle, and remove them."""
    handles: list[Any] = []
    try:
        for one in register:
            handles.append(one())
        yield
    finally:
        for handle in handles:
            handle.remove()


def _channels_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    image, *others = args
    if image.device.type == "cpu" and len(image) < _MIN_CHANNELS_LAST:
        return None
    return image.contiguous(memory_format=torch.channels_last), *others
