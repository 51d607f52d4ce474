"""Image classifiers of the library transformers, from the hub or a folder: safetensors alone, and no foreign code."""

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

# Types of the library's image classifiers that take images alone, are built from plain numbers, and name no network of
# another library in their configuration.
_TYPES = (
    "beit", "bit", "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers",
    "efficientnet", "focalnet", "levit", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "poolformer",
    "pvt", "pvt_v2", "regnet", "resnet", "swiftformer", "swin", "swinv2", "vit", "vit_msn",
)  # fmt: skip
_LEFT_OUT = {  # keys of a configuration that do not describe the architecture, or that follow from the data
    "_commit_hash", "_name_or_path", "id2label", "label2id", "num_labels", "transformers_version", "dtype",
    "torch_dtype", "problem_type", "return_dict", "output_hidden_states", "output_attentions", "use_cache",
}  # fmt: skip
# The library spends time and memory on each layer and each place of a window before there are any weights: numbers
# whose key contains one of these words are limited more strictly than others.
_COUNTED, _MAX_COUNTED, _MAX_VALUE = ("depth", "layer", "block", "window", "repeat", "stage"), 1000, 2**15
_MAX_CLASSES = 100_000  # the library's configurations list a name for each class


def transformers_model(
    num_classes: int, image_size: tuple[int, int], in_chans: int, config: dict[str, Any]
) -> nn.Module:
    """Return an image classifier of transformers with random weights, which returns plain logits.

    Args:
        num_classes: Number of classes K.
        image_size: Ignored: models with positions interpolate them.
        in_chans: Number of input channels.
        config: Plain values of the library's own configuration, with its ``model_type``.

    Raises:
        UserError: The library is not installed, or the configuration is not supported.
    """
    if num_classes > _MAX_CLASSES:
        raise UserError(f"num_classes={num_classes}: must be {_MAX_CLASSES:,} or less")
    config = _plain(config)
    transformers = _library()
    arguments = {"architectures": [], **config, "num_channels": in_chans, "num_labels": max(num_classes, 1)}
    try:
        with _quiet(transformers):
            described = transformers.AutoConfig.for_model(**arguments)
            model = transformers.AutoModelForImageClassification.from_config(described, trust_remote_code=False)
    except Exception as error:  # the error that the library raises depends on the model
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"params.config: transformers cannot build a {config['model_type']}: {reason[:300]}") from None
    return Logits(model)


class Transformers(Library):
    """Models on the hub, or in folders that ``save_pretrained`` has written."""

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole configuration of the architecture; see ``Library``."""
        if not isinstance(model := params.get("model"), str):
            raise UserError("classifier.params.model: missing, transformers needs a name on the hub or a folder")
        if unknown := params.keys() - {"model", "pretrained"}:
            raise UserError(f"classifier.params.{min(unknown)}: unknown to transformers, known: model, pretrained")
        transformers = _library()
        described = _asked(model, lambda: transformers.AutoConfig.from_pretrained(model, trust_remote_code=False))
        # Only differences from the defaults are stored; keys that begin with an underscore are internal.
        return {"config": _plain({k: v for k, v in described.to_diff_dict().items() if k[0] != "_"})}

    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what a model's files state: class names, and the image processor's mean and standard deviation."""
        transformers, model = _library(), params["model"]

        def described() -> Any:
            return transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)

        config = _asked(model, described)
        settings = _asked(model, lambda: transformers.ImageProcessingMixin.get_image_processor_dict(model)[0])
        mean, std = settings.get("image_mean"), settings.get("image_std")
        if settings.get("do_normalize", True) is False:
            mean, std = [0.0] * config.num_channels, [1.0] * config.num_channels
        if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std)):
            raise UserError(
                f"classifier.params.model={model}: its image processor states no mean and standard deviation"
            )
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
    """Return the digest of a folder's configuration and weights, or the commit of the files on the hub."""
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
    """Call a function of the library about a model without the library's notices; its errors become one line."""
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
                f"classifier.params.model={model}: not an image classifier as save_pretrained writes it (config.json, "
                f"preprocessor_config.json, model.safetensors): {reason}"
            ) from None
        raise UserError(fetched(f"classifier.params.model={model}", e)) from None


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration that is safe to build: a known type, and plain values within limits.

    Raises:
        UserError: The type is not supported, or a value is not plain or too large.
    """
    if not isinstance(config, Mapping) or (kind := config.get("model_type")) not in _TYPES:
        kind = config.get("model_type") if isinstance(config, Mapping) else config
        raise UserError(f"params.config: model_type={kind}: not supported, {did_you_mean(str(kind), _TYPES)}")
    settings = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    for key, value in settings.items():
        if not isinstance(key, str) or key.startswith("_") or "auto_map" in key or "backbone" in key:
            raise UserError(f"params.config.{key}: not a part of an architecture; leave it out")
        limit = _MAX_COUNTED if any(word in key for word in _COUNTED) else _MAX_VALUE
        if not _is_plain(value, limit):
            raise UserError(f"params.config.{key}: must be a word, a number up to {limit}, or a list of them")
    return settings


def _is_plain(value: Any, limit: int) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _MAX_COUNTED and all(_is_plain(item, limit) for item in value)
    return value is None or isinstance(value, str) or (isinstance(value, bool | int | float) and abs(value) <= limit)


def _library() -> ModuleType:
    try:
        import transformers  # an optional dependency, and slow to import
    except ImportError:
        raise UserError(
            "classifier=transformers: the library is not installed: pip install 'fastshap_lab[transformers]'"
        ) from None
    return transformers


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Switch off the library's progress bars and advice for a block."""
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
