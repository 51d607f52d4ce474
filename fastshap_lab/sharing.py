"""Sharing explainers: folders with a model card, and upload to and download from the Hugging Face hub."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import yaml

from fastshap_lab.checkpoints import read_description, save_model
from fastshap_lab.errors import UserError
from fastshap_lab.files import write_atomically
from fastshap_lab.images import Images
from fastshap_lab.models import IMPORT, build_task
from fastshap_lab.models.specs import ExplainerSpec, NetworkSpec
from fastshap_lab.records import MEASURES, RECORD, read_record, true_value_measures

if TYPE_CHECKING:
    from fastshap_lab.inference import AmortizedExplainer

_CARD, _PICTURE, _CONFIG, _WEIGHTS = "README.md", "maps.png", "config.json", "model.safetensors"
_NAME, _LONGEST = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*"), 200
_SHOWN, _CLASSES = 4, 4  # largest numbers of pictures in the card, and of maps for each


def is_hub_name(text: str | Path) -> bool:
    """Return whether a text has the form ``user/name`` of the hub, and is no existing file or folder."""
    return _NAME.fullmatch(str(text)) is not None and len(str(text)) <= _LONGEST and not Path(text).exists()


def fetch(name: str, kind: str = "explainer") -> Path:
    """Return the folder of a model of the hub in the hub's cache.

    Two files are downloaded, and no code in them is run. The description is checked before the weights are downloaded.

    Args:
        name: Name on the hub, ``user/name``.
        kind: Kind of model to expect, see ``checkpoints.read_description``.

    Raises:
        UserError: There is no such model, it cannot be downloaded, or it is no model of this package.
    """
    from huggingface_hub import snapshot_download

    with _of_hub(name, "no such folder here, and it cannot be fetched from the hub"):
        folder = Path(snapshot_download(name, allow_patterns=[_CONFIG]))
        if not (folder / _CONFIG).is_file():
            raise UserError(f"{name}: holds no {_CONFIG}, and so no model of this package")
        read_description(folder, kind)
        return Path(snapshot_download(name, allow_patterns=[_CONFIG, _WEIGHTS]))


def pull(name: str, folder: Path) -> None:
    """Copy a model of the hub into a folder, whole or not at all.

    Args:
        name: Name on the hub, ``user/name``.
        folder: Folder to create.

    Raises:
        UserError: The folder exists, there is no such model, it cannot be downloaded, or it is no model of this
            package.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists; choose another name")
    if not _NAME.fullmatch(name):
        raise UserError(f"{name}: user/name of the hub is wanted")
    source = fetch(name)
    with _made(folder) as beside:
        for file in (_CONFIG, _WEIGHTS):
            shutil.copyfile(source / file, beside / file)


def save_pretrained(
    explainer: "AmortizedExplainer", folder: Path, license: str, images: Images | None = None, name: str | None = None
) -> None:
    """Write a model folder with a model card, see ``AmortizedExplainer.save_pretrained``.

    Args:
        explainer: Explainer that was loaded from a model folder.
        folder: Folder to create.
        license: License of the weights, by its name on the hub.
        images: Images that the card shows, and so publishes, or None.
        name: Name in the card's instructions for loading; the name of the folder if None.

    Raises:
        UserError: The folder exists, the explainer was not loaded from a folder, or the license has no valid name.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists; choose another name")
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", license):
        raise UserError(f"license={license}: the hub's name of one is wanted, such as apache-2.0, mit or other")
    spec: ExplainerSpec | None = explainer.spec
    if spec is None:
        raise UserError("this explainer was not loaded from a model folder, which says how it is built")
    if explainer.classifier is None:
        spec = replace(spec, classifier=None)
    shown = None if images is None else explainer.explain(images)[:_SHOWN]
    with _made(folder) as beside:
        save_model(beside, explainer, spec.to_json())
        if shown is not None:
            shown.plot(beside / _PICTURE, max_classes=_CLASSES)
        text = model_card(spec, explainer.run, name or folder.name, license, None if shown is None else _PICTURE)
        write_atomically(beside / _CARD, text)


def push_to_hub(
    explainer: "AmortizedExplainer", name: str, license: str, images: Images | None = None, private: bool = False
) -> str:
    """Upload an explainer with a model card to the hub, and return its address.

    Args:
        explainer: Explainer that was loaded from a model folder.
        name: Name on the hub, ``user/name``. The model is created, or changed by one commit if it exists.
        license: License of the weights, by its name on the hub.
        images: Images that the card shows, and so publishes, or None.
        private: Whether a model that is created is visible to its owner alone.

    Raises:
        UserError: The name or the license is not valid, the explainer was not loaded from a folder, or the hub refuses.
    """
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    if not _NAME.fullmatch(name):
        raise UserError(f"{name}: user/name of the hub is wanted")
    with TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_pretrained(explainer, folder, license, images, name)
        with _of_hub(name, "cannot be pushed to the hub"):
            address = str(HfApi().create_repo(name, private=private or None, exist_ok=True))
            HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Explainer of fastshap_lab")
    return address


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to ``folder`` when the block ends without an error."""
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _of_hub(name: str, trouble: str) -> Iterator[None]:
    """Turn errors of the hub, its library and the network into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except UserError as error:  # a file in the cache is damaged or of another kind
        raise UserError(f"{name}: {error}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; huggingface-cli login, or HF_TOKEN, says who you are" if status in (401, 403) else ""
        raise UserError(f"{name}: {trouble}: {_brief(error.server_message or error)} ({status}){hint}") from None
    except Exception as error:  # the hub's library and those below it raise a dozen kinds of errors
        raise UserError(f"{name}: {trouble}: {_brief(error)}") from None


def model_card(spec: ExplainerSpec, run: Path | None, name: str, license: str, picture: str | None) -> str:
    """Return the text of a model card, in Markdown.

    Args:
        spec: Description of the explainer.
        run: Folder of the run that trained it, which states data and measures, or None.
        name: Name of the model in the instructions for loading.
        license: License of the weights, by its name on the hub.
        picture: Name of the file with the figure of maps, or None.
    """
    import jinja2
    from huggingface_hub import ModelCardData

    facts = ModelCardData(
        license=license,
        library_name="fastshap_lab",
        pipeline_tag="image-classification",
        tags=["shapley-values", "explainability", "feature-attribution"],
    )
    number, surrogate = len(spec.class_names), spec.surrogate.classifier
    lines = jinja2.Environment(
        loader=jinja2.PackageLoader("fastshap_lab", ""),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    lines.filters["code"] = _code
    return lines.get_template("card.md.jinja").render(
        facts=facts.to_yaml(),
        name=name,
        license=license,
        picture=picture,
        spec=spec,
        grid=spec.network.grid,
        size=spec.network.image_size,
        outputs=f"{number} {build_task(surrogate.task or 'multiclass').nouns[number != 1]}",
        classes=json.dumps(spec.class_names, ensure_ascii=False),
        model=_architecture(spec.classifier or surrogate),
        bundled=spec.classifier is not None,
        surrogate=_architecture(surrogate),
        explainer=_architecture(spec.network),
        own_code=surrogate.name == IMPORT,
        data=_data(run),
        measures=_measures(run),
        true_values=_against_true_values(run),
    )


def _architecture(network: NetworkSpec) -> str:
    model = network.params.get("model")
    return f"{network.name} {model}" if isinstance(model, str) else network.name


def _data(run: Path | None) -> dict[str, Any] | None:
    config = {} if run is None else _config(run)
    try:
        path = config["data"]["params"].get("path")
        # A local path is private, and left out.
        hub = path if config["data"]["name"] == "hub" and is_hub_name(path) else None
        return {"name": config["data"]["name"], "path": hub, "seed": config["seed"]}
    except (KeyError, TypeError, AttributeError):
        return None


def _measures(run: Path | None) -> list[tuple[str, str]]:
    """Return the test measures of a run and of the runs that it builds on, as texts by stage."""
    if run is None:
        return []
    parents = read_record(run).get("parents", {})
    folders = {stage: Path(parents[stage]) for stage in ("classifier", "surrogate") if stage in parents}
    found = []
    for stage, folder in (folders | {"explainer": run}).items():
        measures = {key.removeprefix("test/"): value for key, value in _json(folder / MEASURES).items()}
        known = [f"{key.replace('_', ' ')} {value:.4g}" for key, value in measures.items() if math.isfinite(value)]
        found.append((stage, ", ".join(known) or "unknown"))
    return found


def _against_true_values(run: Path | None) -> dict[str, list[str]]:
    """Return the measures against true values of the latest evaluation of an explainer, by pipeline."""
    found: list[tuple[str, dict[str, list[str]]]] = []
    for path in [] if run is None else run.parent.parent.glob(f"evaluate/*/{RECORD}"):
        record = read_record(path.parent)
        own = [name for name, end in record.get("parents", {}).items() if run and Path(end).name == run.name]
        said = true_value_measures(_json(path.with_name(MEASURES))) if record.get("status") == "finished" else {}
        if kept := {name: said[name] for name in own if name in said}:
            found.append((str(record.get("updated")), kept))
    return max(found, default=("", {}), key=lambda one: one[0])[1]


def _config(run: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _json(path: Path) -> dict[str, float]:
    """Return the measures in a file, or {} if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _code(text: Any) -> str:
    """Return a text as inline code of Markdown, in which no character has a special meaning."""
    line = " ".join(str(text).split()).replace("`", "'").replace("|", "¦")
    return f"`{line}`"


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
