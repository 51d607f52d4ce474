"""Explainers that leave the machine: a folder with a model card, the Hugging Face hub, and the way back."""

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
_SHOWN, _CLASSES = 4, 4  # pictures and maps of each in the card


def is_hub_name(text: str | Path) -> bool:
    """Return whether a text may be ``user/name`` of the hub, and no file or folder is called so."""
    return _NAME.fullmatch(str(text)) is not None and len(str(text)) <= _LONGEST and not Path(text).exists()


def fetch(name: str, kind: str = "explainer") -> Path:
    """Return the model folder of a model of the hub, in its cache; two files are fetched, and nothing in them is run.

    Args:
        name: ``user/name``.
        kind: Of model. Its description, which is small, is fetched and read before its weights.

    Raises:
        UserError: There is no such model, it cannot be fetched, or it is none of this package.
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
        name: ``user/name``.
        folder: To be made.

    Raises:
        UserError: The folder exists; or as for ``fetch``.
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
    """Write a model folder with a model card; arguments as for ``AmortizedExplainer.save_pretrained``.

    Args:
        explainer: One that was loaded.
        folder: To be made.
        license: Of the weights.
        images: Shown in the card, and so published with it.
        name: What the card says to load; by default the folder.

    Raises:
        UserError: The folder exists, the explainer was not loaded from one, or the licence is no name of one.
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
    """Put an explainer with a model card on the hub, and return its address.

    Args:
        explainer: One that was loaded.
        name: ``user/name``; made if it is not there, changed by one commit if it is.
        license: Of the weights.
        images: Shown in the card, and so published with it.
        private: Let a model that is made be seen by nobody else.

    Raises:
        UserError: As for ``save_pretrained``; the name is none, or the hub refuses.
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
    """Yield a folder beside another one that takes its name when the block ends well."""
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _of_hub(name: str, trouble: str) -> Iterator[None]:
    """Make one line of what the hub, its library or the network says."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except UserError as error:  # of a file in the cache
        raise UserError(f"{name}: {error}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; huggingface-cli login, or HF_TOKEN, says who you are" if status in (401, 403) else ""
        raise UserError(f"{name}: {trouble}: {_brief(error.server_message or error)} ({status}){hint}") from None
    except Exception as error:  # the hub's library and what it is built on raise a dozen kinds
        raise UserError(f"{name}: {trouble}: {_brief(error)}") from None


def model_card(spec: ExplainerSpec, run: Path | None, name: str, license: str, picture: str | None) -> str:
    """Return the text of a model card, in Markdown.

    Args:
        spec: Of the explainer.
        run: Folder of the run that trained it, from which data and measures are taken; they are unknown without it.
        name: Of the model, as it is loaded by.
        license: Of the weights.
        picture: Name of a file beside it that shows maps.
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
        # A place on a disk is nobody else's business.
        hub = path if config["data"]["name"] == "hub" and is_hub_name(path) else None
        return {"name": config["data"]["name"], "path": hub, "seed": config["seed"]}
    except (KeyError, TypeError, AttributeError):
        return None


def _measures(run: Path | None) -> list[tuple[str, str]]:
    """Return what a run and those that it builds on have measured on test images, by stage."""
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
    """Return what the latest evaluation of an explainer has measured against true values, by pipeline."""
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
    """Return measures; none where their file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _code(text: Any) -> str:
    """Return text as Markdown shows it letter by letter, whatever it holds."""
    line = " ".join(str(text).split()).replace("`", "'").replace("|", "¦")
    return f"`{line}`"


def _brief(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
