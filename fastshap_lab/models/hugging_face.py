"""Image classifiers of the library transformers, from the hub or from a folder; safetensors alone, nobody's code."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from fastshap_lab.components import did_you_mean
from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file, sha256
from fastshap_lab.models.foreign import Logits
from fastshap_lab.models.libraries import Library, Stated, fetched

# Of the library's image classifiers those that take images alone, are built of plain numbers, and name no network of
# another library in their configuration.
_TYPES = (
    "beit", "bit", "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers",
    "efficientnet", "focalnet", "levit", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "poolformer",
    "pvt", "pvt_v2", "regnet", "resnet", "swiftformer", "swin", "swinv2", "vit", "vit_msn",
)  # fmt: skip
_LEFT_OUT = {  # of a configuration: what says nothing of the architecture, or what the data say
    "_commit_hash", "_name_or_path", "id2label", "label2id", "num_labels", "transformers_version", "dtype",
    "torch_dtype", "problem_type", "return_dict", "output_hidden_states", "output_attentions", "use_cache",
}  # fmt: skip
# What the library does for each layer and place of a window takes time and memory before there is any weight.
_COUNTED, _MAX_COUNTED, _MAX_VALUE = ("depth", "layer", "block", "window", "repeat", "stage"), 1000, 2**15
_MAX_CLASSES = 100_000  # each of which the library's configurations name


def transformers_model(
    num_classes: int, image_size: tuple[int, int], in_chans: int, config: dict[str, Any]
) -> nn.Module:
    """Return an image classifier of transformers with random weights, its logits unwrapped.

    Args:
        num_classes: K.
        image_size: Ignored: those that have positions interpolate them.
        in_chans: Input channels.
        config: Plain values of the library's own configuration, with its ``model_type``.

    Raises:
        UserError: The library is not there, or the configuration is none that this builds.
    """
    if num_classes > _MAX_CLASSES:
        raise UserError(f"num_classes={num_classes}: {_MAX_CLASSES:,} are the most")
    config = _plain(config)
    transformers = _library()
    arguments = {"architectures": [], **config, "num_channels": in_chans, "num_labels": max(num_classes, 1)}
    try:
        with _quiet(transformers):
            described = transformers.AutoConfig.for_model(**arguments)
            model = transformers.AutoModelForImageClassification.from_config(described, trust_remote_code=False)
    except Exception as error:  # the library checks its configurations in as many ways as it has models
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"params.config: transformers cannot build a {config['model_type']}: {reason[:300]}") from None
    return Logits(model)


class Transformers(Library):
    """Models of the hub, or in folders as ``save_pretrained`` leaves them."""

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the architecture in full; see ``Library``."""
        if not isinstance(model := params.get("model"), str):
            raise UserError("classifier.params.model: missing, transformers needs a name of the hub or a folder")
        if unknown := params.keys() - {"model", "pretrained"}:
            raise UserError(f"classifier.params.{min(unknown)}: unknown to transformers, known: model, pretrained")
        transformers = _library()
        described = _asked(model, lambda: transformers.AutoConfig.from_pretrained(model, trust_remote_code=False))
        # As the network is built, which may be of a subclass: a checkpoint's own names for defaults are in there, too.
        return {"config": _plain({k: v for k, v in described.to_diff_dict().items() if k[0] != "_"})}

    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what a model's files say: class names, and its image processor's mean and standard deviation."""
        transformers, model = _library(), params["model"]

        def described() -> Any:
            return transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)

        config = _asked(model, described)
        settings = _asked(model, lambda: transformers.ImageProcessingMixin.get_image_processor_dict(model)[0])
        mean, std = settings.get("image_mean"), settings.get("image_std")
        if settings.get("do_normalize", True) is False:
            mean, std = [0.0] * config.num_channels, [1.0] * config.num_channels
        if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std)):
            raise UserError(f"classifier.params.model={model}: its image processor states no mean and deviation")
        names = [str(config.id2label[k]) for k in range(config.num_labels)]
        return Stated(_identity(model), mean, std, config.num_labels, names)

    def weights(self, params: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
        """Return the weights in a model's safetensors files; see ``Library``."""
        transformers, model = _library(), params["model"]

        def loaded() -> nn.Module:
            return transformers.AutoModelForImageClassification.from_pretrained(
                model, trust_remote_code=False, use_safetensors=True
            )

        return dict(_asked(model, loaded).state_dict())


def _identity(model: str) -> str:
    """Return the digest of a folder's configuration and weights, or the commit of what the hub has."""
    folder = Path(model)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name == "config.json")
        digests = []
        for path in files:
            with open_file(path) as file:
                digests.append(sha256(path.name, file.read()))
        return f"transformers/{sha256(*digests)}"
    found = _asked(model, lambda: huggingface_hub.hf_hub_download(model, "config.json"))
    return f"transformers/{model}@{Path(found).parent.name}"


def _asked(model: str, ask: Any) -> Any:
    """Return what the library answers about a model, without its notices."""
    try:
        with _quiet(_library()):
            return ask()
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    ) as e:
        if Path(model).is_dir():
            reason = " ".join(str(e).split())[:300]
            raise UserError(
                f"classifier.params.model={model}: no image classifier as save_pretrained leaves it (config.json, "
                f"preprocessor_config.json, model.safetensors): {reason}"
            ) from None
        raise UserError(fetched(f"classifier.params.model={model}", e)) from None


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that is known to make a network of numbers, and nothing else happen.

    Raises:
        UserError: It is another.
    """
    if not isinstance(config, Mapping) or (kind := config.get("model_type")) not in _TYPES:
        kind = config.get("model_type") if isinstance(config, Mapping) else config
        raise UserError(f"params.config: model_type={kind}: not supported, {did_you_mean(str(kind), _TYPES)}")
    settings = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    for key, value in settings.items():
        if not isinstance(key, str) or key.startswith("_") or "auto_map" in key or "backbone" in key:
            raise UserError(f"params.config.{key}: no part of an architecture")
        limit = _MAX_COUNTED if any(word in key for word in _COUNTED) else _MAX_VALUE
        if not _is_plain(value, limit):
            raise UserError(f"params.config.{key}: words and numbers to {limit}, or lists of them, are wanted")
    return settings


def _is_plain(value: Any, limit: int) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _MAX_COUNTED and all(_is_plain(item, limit) for item in value)
    return value is None or isinstance(value, str) or (isinstance(value, bool | int | float) and abs(value) <= limit)


def _library() -> ModuleType:
    try:
        import transformers  # an extra, and slow to import
    except ImportError:
        raise UserError(
            "classifier=transformers: the library is not installed: pip install 'fastshap_lab[transformers]'"
        ) from None
    return transformers


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Keep the library from drawing bars and giving advice."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
