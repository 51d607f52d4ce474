"""The base class of all attribution methods, and helpers that run a model and restore it afterwards."""

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

_MIN_CHANNELS_LAST = 4  # Below this number of images, channels-last makes convolutions slower on a CPU.


class AttributionMethod(ABC):
    """Base class of methods that map what in an image supports a class.

    A subclass implements ``_attribute`` for up to ``max_batch`` images. The base class calls it with the model in
    evaluation mode, with frozen parameters and with gradients on. Random draws come from a seed given to the
    constructor and are the same for every image, so that no image's map depends on the other images of its batch.

    Args:
        model: Model that maps images (B, C, H, W) to logits (B, K), or to the predictions (B, K) of a regression. After
            each call, it is as it was before.
        max_batch: Number of images per pass. It changes maps by rounding errors only.

    Raises:
        UserError: The method does not apply to the model, or ``max_batch`` is below 1.

    Example:
        >>> class Brightness(AttributionMethod):
        ...     kind, class_specific = "saliency", False
        ...     def _attribute(self, image, target):
        ...         return image.mean(dim=1)
        >>> Brightness(nn.Flatten()).attribute(torch.ones(1, 3, 2, 2)).tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
    """

    kind: ClassVar[Kind]
    """``attribution`` is signed, and zero means no influence; ``score`` is a model output with an arbitrary offset
    (RISE, ViT-CX); ``saliency`` is a non-negative magnitude.
    """

    unit: str | None = None
    """Entry of ``shapley.game.LINKS`` in whose space a map's values add up to differences of the model's output; None
    for methods whose values do not add up.
    """

    class_specific: ClassVar[bool] = True
    """Whether the map depends on the target."""

    inputs: ClassVar[tuple[str, ...]] = ("model",)
    """Constructor arguments that the pipeline supplies; users do not set them."""

    uncalled: ClassVar[bool] = False
    """Whether a comparison of methods includes the method even if it was not chosen."""

    uninformed: ClassVar[bool] = False
    """Whether the maps ignore the model, so that other methods are tested against them."""

    version: ClassVar[int] = 1
    """Number that is raised when a code change alters maps; stored maps of another version are recomputed."""

    def __init__(self, model: nn.Module, max_batch: Count = 32) -> None:
        check_max_batch(max_batch)
        reason = self._refusal(model)
        if reason is not None:
            raise UserError(f"{type(self).__name__}: {reason}")
        self.model, self.max_batch = model, max_batch

    @classmethod
    def supports(cls, model: nn.Module) -> str | None:
        """Return why the method with its default options cannot be applied to a model, or None if it can."""
        return None

    def _refusal(self, model: nn.Module) -> str | None:
        """Return why the method with this instance's options cannot be applied to a model, or None if it can.

        The base class's constructor calls it, so a subclass sets its options before it calls that constructor.
        """
        return self.supports(model)

    @property
    def modules(self) -> list[nn.Module]:
        """Modules whose forward passes count as the cost of an explanation."""
        return [self.model]

    def attribute(
        self, image: Float[Tensor, "B C H W"], target: Targets | None = None
    ) -> Float[Tensor, "B rows columns"]:
        """Return the raw map of each image: signed, not normalized, at the method's native resolution.

        Args:
            image: Images (B, C, H, W) as the model takes them.
            target: Class to explain, one for all images or one for each (B,). By default each image's class with the
                highest logit, or the output of a regression that is the most unusual for its training targets.

        Raises:
            UserError: A target is not a class, or the model does not return logits.
        """
        classes = None if target is None else class_of_each(target, len(image)).to(image.device)
        with self._asking(classes):
            image = image.detach().clone()  # Autograd refuses tensors that were made in inference mode.
            if not self.class_specific:
                classes = torch.zeros(len(image), dtype=torch.long, device=image.device)
            parts = image.split(self.max_batch)
            if classes is None:
                return torch.cat([self._attribute_top(part).detach() for part in parts])
            chosen = zip(parts, classes.split(self.max_batch), strict=True)
            return torch.cat([self._attribute(*part).detach() for part in chosen])

    def attribute_all(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K rows columns"]:
        """Return the raw maps of all classes, from shared forward passes where the method allows it.

        Raises:
            UserError: The model does not return logits.
        """
        with self._asking():
            image = image.detach().clone()
            return torch.cat([self._attribute_all(part).detach() for part in image.split(self.max_batch)])

    def attribute_classes(self, image: Float[Tensor, "B C H W"], classes: Targets) -> Float[Tensor, "B E rows columns"]:
        """Return the raw maps of chosen classes of each image, from shared forward passes where the method allows it.

        Args:
            image: Images (B, C, H, W) as the model takes them.
            classes: Classes to explain, whole numbers (B, E): E for each image.

        Raises:
            UserError: ``classes`` has another shape, a class does not exist, or the model does not return logits.
        """
        chosen = as_classes(classes).to(image.device)
        if chosen.ndim != 2 or len(chosen) != len(image):
            shape = tuple(chosen.shape)
            raise UserError(f"classes of shape {shape}: must be (B, E), E classes for each of the {len(image)} images")
        with self._asking(chosen):
            image = image.detach().clone()
            parts = zip(image.split(self.max_batch), chosen.split(self.max_batch), strict=True)
            return torch.cat([self._attribute_classes(*part).detach() for part in parts])

    @contextmanager
    def _asking(self, classes: Tensor | None = None) -> Iterator[None]:
        """Run the model as ``restoring`` does, and check that each pass returns logits with these classes."""
        highest = int(classes.max()) if classes is not None and classes.numel() else 0

        def see(module: nn.Module, args: tuple[Any, ...], answer: Any) -> None:
            self._check_answer(answer)
            if highest >= answer.shape[1]:
                raise UserError(f"target={highest}: classes are numbered 0 to {answer.shape[1] - 1}")

        with restoring(self.model), hooked([partial(self.model.register_forward_hook, see)]):
            yield

    def _check_answer(self, answer: Any) -> None:
        """Raise a ``UserError`` if the method cannot use a model's output."""
        check_logits(answer)

    @abstractmethod
    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the maps (B, rows, columns) of at most ``max_batch`` images for their targets (B,)."""

    def _attribute_all(self, image: Tensor) -> Tensor:
        """Return the maps (B, K, rows, columns) of at most ``max_batch`` images.

        Methods whose classes can share passes override it.
        """
        with torch.no_grad():
            num_classes = self.model(image[:1]).shape[1]
        if not self.class_specific:
            one = self._attribute(image, class_of_each(0, len(image)).to(image.device)).detach()
            return one.unsqueeze(1).expand(-1, num_classes, -1, -1)
        each = [class_of_each(k, len(image)).to(image.device) for k in range(num_classes)]
        maps = [self._attribute(image, target).detach() for target in each]
        return torch.stack(maps, dim=1)

    def _attribute_classes(self, image: Tensor, classes: Tensor) -> Tensor:
        """Return the maps (B, E, rows, columns) of at most ``max_batch`` images for their classes (B, E)."""
        if self.class_specific and type(self)._attribute_all is AttributionMethod._attribute_all:
            return torch.stack([self._attribute(image, target).detach() for target in classes.unbind(dim=1)], dim=1)
        maps = self._attribute_all(image)
        return maps[torch.arange(len(image), device=image.device).unsqueeze(1), classes]

    def _attribute_top(self, image: Tensor) -> Tensor:
        """Return the maps of each image's top class.

        Methods that need no extra pass to find that class override it.
        """
        with torch.no_grad():
            top = task_of(self.model).foremost(self.model(image))
        return self._attribute(image, top)


def upsample(
    maps: Float[Tensor, "*batch rows columns"], image_size: tuple[int, int]
) -> Float[Tensor, "*batch height width"]:
    """Return maps at image size, interpolated bilinearly between the centres of their cells.

    Args:
        maps: Maps, with any number of batch axes.
        image_size: Height and width of the result in pixels.

    Example:
        >>> upsample(torch.tensor([[0.0, 1.0]]), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = nn.functional.interpolate(flat, size=image_size, mode="bilinear", align_corners=False)
    return resized.reshape(*maps.shape[:-2], *image_size)


def one_of(argument: str, value: Choice, choices: Any) -> Choice:
    """Return an argument's value after checking that it is one of a ``Literal``'s values.

    Args:
        argument: Name of the argument, for the error line.
        value: Value of the argument.
        choices: The ``Literal`` type.

    Raises:
        UserError: The value is not one of the choices.
    """
    if value not in get_args(choices):
        raise UserError(f"{argument}={value}: unknown; must be one of {', '.join(get_args(choices))}")
    return value


def target_logits(logits: Float[Tensor, "B K"], target: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the logit of each image's target.

    Args:
        logits: Logits of all classes.
        target: Target class of each image.

    Raises:
        UserError: A target is not one of the K classes.
    """
    return logits.gather(1, as_classes(target, logits.shape[1]).unsqueeze(1)).squeeze(1)


def check_logits(answer: Any) -> None:
    """Raise a ``UserError`` if a model's output is not a tensor of logits (B, K)."""
    if not isinstance(answer, Tensor):
        raise UserError(
            f"the model returns a {type(answer).__name__}: must be a tensor, the logits (B, K); wrap the model in a "
            "module that returns only them"
        )
    if answer.ndim != 2 or answer.shape[1] < 1:
        raise UserError(
            f"the model returns a tensor of shape {tuple(answer.shape)}: must be (B, K), one logit per class; a single "
            "logit is (B, 1)"
        )


def task_of(model: nn.Module) -> Task:
    """Return a model's task: a ``Classifier`` has its own; for other modules it is ``multiclass``."""
    return model.task if isinstance(model, Classifier) else Multiclass()


def gradients(logits: Tensor, target: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of each image's target logit by each tensor; zeros where a tensor has no influence.

    Args:
        logits: Logits (B, K) of all classes, with their graph.
        target: Target class of each image, int64 (B,).
        tensors: Tensors of the graph.
    """
    total = target_logits(logits, target).sum()  # In evaluation mode, images do not influence each other.
    return list(torch.autograd.grad(total, list(tensors), allow_unused=True, materialize_grads=True))


def mean_colour(model: nn.Module, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """Return the colour that stands for an absent pixel: the one that is zero in the model's normalized space.

    For a ``Classifier``, which normalizes its input itself, this is its mean colour. Inputs of other models are assumed
    to be normalized already, so it is zero.

    Args:
        model: Model to explain.
        image: Images that set the channels, device and dtype.

    Example:
        >>> mean_colour(nn.Identity(), torch.rand(1, 3, 8, 8)).flatten().tolist()
        [0.0, 0.0, 0.0]
    """
    return model.mean_rgb.to(image) if isinstance(model, Classifier) else image.new_zeros(image.shape[1], 1, 1)


def colour_scale(model: nn.Module, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """Return the size of one unit of the model's normalized space, per channel, in units of its input.

    Noise levels are given in the normalized space; this converts them. It is 1 for models other than ``Classifier``.

    Args:
        model: Model to explain.
        image: Images that set the channels, device and dtype.
    """
    return model.std_rgb.to(image) if isinstance(model, Classifier) else image.new_ones(image.shape[1], 1, 1)


def baseline_colour(
    model: nn.Module, image: Float[Tensor, "B C H W"], colour: Sequence[float] | None
) -> Float[Tensor, "C 1 1"]:
    """Return the given colour as a tensor, or the model's mean colour if none is given.

    Args:
        model: Model to explain.
        image: Images that set the channels, device and dtype.
        colour: One number per channel, in units of the input, or None.

    Raises:
        UserError: The colour has another number of channels than the images.
    """
    if colour is None:
        return mean_colour(model, image)
    if len(colour) != image.shape[1]:
        raise UserError(f"baseline={list(colour)}: must have {image.shape[1]} numbers, one per channel")
    return image.new_tensor(list(colour)).view(-1, 1, 1)


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode with frozen parameters and gradients on, then restore its state.

    Frozen parameters save the computation of their gradients. Activation checkpointing is off, because it would call
    hooks twice. Images are passed channels-last if that is faster and all of the model's modules are known to accept
    it.

    Example:
        >>> model = nn.Dropout().train()
        >>> with restoring(model):
        ...     inside = model.training
        >>> inside, model.training
        (False, True)
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
    """Set attributes inside the ``with`` block, and restore their values at its end.

    Args:
        changes: Triples of an object, the name of its attribute and the value to set.
    """
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
    """Register hooks for the ``with`` block, and remove them at its end.

    Args:
        register: Functions without arguments, each of which registers a hook and returns its handle.
    """
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
