"""The command ``fastshap-lab``: train, explain pictures, export explainers, find reports, test the machine."""

import argparse
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastshap_lab.cli import Parser, one_line_errors, quiet_libraries, say, signals_interrupt
from fastshap_lab.cli import main as train
from fastshap_lab.errors import Interrupted, UserError, check_max_batch
from fastshap_lab.progress import Progress
from fastshap_lab.records import MEASURES, RECORD, REPORT, read_record, true_value_measures

# Importing PyTorch takes seconds, so functions import it when they need it.
if TYPE_CHECKING:
    from torch import Tensor

    from fastshap_lab.bulk.explaining import Explained
    from fastshap_lab.inference import AmortizedExplainer, Explanation

_PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "scipy", "safetensors", "datasets", "matplotlib")
_MAX_CLASSES = 10  # largest number of classes that are listed and drawn if the user names none
_PAGE, _MAX_PICTURES = "explanations.html", 200  # name of the page in DIR, and largest number of pictures on it
# Largest error of the self-test relative to the largest value. Rounding causes about 1e-6 on a CPU, and up to some
# thousandths on a GPU, whose convolutions use 10 bits of each factor (TF32).
_EXACT = 1e-2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``fastshap-lab``.

    The exit status is 0 when the command is done, even if some of the pictures could not be read; 1 if the self-test of
    ``doctor`` fails; 2 if no picture could be read, after a mistake that the user can correct, or if a file cannot be
    written, with one line on standard error; 130 after SIGINT (Ctrl-C) and 143 after SIGTERM, also with one line; 141
    if the reader of standard output has closed it.

    Args:
        arguments: Words after the program's name; those of the command line if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        return train(words[1:])  # it handles errors, signals and exit statuses itself, in the same way
    quiet_libraries()
    with one_line_errors("--out"), signals_interrupt():
        try:
            chosen = parser().parse_args(words)
            status: int = chosen.run(chosen)
            sys.stdout.flush()
        except Interrupted as end:
            say("interrupted; every file that was written is whole")
            sys.exit(end.status)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # avoids a message of Python at exit
            sys.exit(141)
    sys.exit(status)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, which reports mistakes in one line."""
    whole = Parser(prog="fastshap-lab", description="Train, explain, export, share, find reports.")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)

    model = "run folder or model folder of an explainer, or user/name of the hub"
    commands.add_parser("train", help="train, reuse, evaluate; fastshap-lab train --help says what there is")

    explain = commands.add_parser(
        "explain",
        help="write a figure and the Shapley values of each picture",
        description="Writes a figure (.png) and the Shapley values (.npz, which Explanation.load reads) of each "
        "picture, and prints a line of JSON about it.",
    )
    explain.set_defaults(run=_explain)
    explain.add_argument("model", metavar="MODEL", type=Path, help=model)
    explain.add_argument("images", metavar="IMAGES", nargs="+", type=Path, help="pictures, or folders of pictures")
    explain.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the files go")
    explain.add_argument("--refine", metavar="N", type=int, default=0, help="model calls to spend on each picture")
    spread = "fewer where no standard error is above this share of the values' spread"
    explain.add_argument("--tolerance", metavar="SHARE", type=float, help=spread)
    default = f"names or numbers to draw and list; default: all, of more than {_MAX_CLASSES} the most probable"
    explain.add_argument("--classes", metavar="CLASS", nargs="+", help=default)
    page = f"write {_PAGE}, too, a page to look into and to send, of the first {_MAX_PICTURES} pictures"
    explain.add_argument("--html", action="store_true", help=page)
    explain.add_argument("--batch", metavar="N", type=int, default=32, help="pictures at once; default: 32")
    explain.add_argument("--device", help="such as cpu or cuda:1; default: a CUDA device if there is one")
    parquet = explain.add_argument_group("pictures in any number")
    of_what = "of pictures, lists of paths, Parquet files, WebDataset shards or user/name of the hub"
    parquet.add_argument("--parquet", action="store_true", help=f"write Parquet files alone, {of_what}")
    parquet.add_argument(
        "--top", metavar="N", type=int, help="classes to keep of each, the most probable; default: all"
    )
    parquet.add_argument("--split", help="of a data set of the hub; default: its only one")
    parquet.add_argument("--image-column", metavar="NAME", help="default: the first that holds images")

    export = commands.add_parser(
        "export",
        help="write an explainer as a file that runs without this package",
        description="Writes an explainer as one graph, from pixels to probabilities and Shapley values, that takes "
        "batches of any size and runs without this package.",
    )
    export.set_defaults(run=_export)
    export.add_argument("model", metavar="MODEL", type=Path, help=model)
    export.add_argument("out", metavar="OUT", type=Path, help="the file: ONNX if .onnx, torch.export's if .pt2")
    export.add_argument("--precision", default="float32", help="float32, the default; float16; int8 of .onnx")
    pictures = "a hundred or so, or folders of them, that int8 is fitted to"
    export.add_argument("--calibration", metavar="IMAGES", nargs="+", type=Path, help=f"pictures, {pictures}")
    export.add_argument("--replace", action="store_true", help="take the place of a file that exists")

    push = commands.add_parser(
        "push",
        help="put an explainer on the Hugging Face hub, with a model card",
        description="Puts an explainer on the Hugging Face hub, with a model card that is written from its run.",
    )
    push.set_defaults(run=_push)
    push.add_argument("model", metavar="MODEL", type=Path, help=model)
    push.add_argument("name", metavar="NAME", help="user/name; made if it is not there")
    push.add_argument("--license", required=True, help="of the weights: apache-2.0, mit, other, …")
    push.add_argument("--images", metavar="IMAGES", nargs="+", type=Path, help="shown in the card: four are published")
    push.add_argument("--private", action="store_true", help="if it is made, let nobody else see it")

    pull = commands.add_parser("pull", help="copy an explainer of the hub into a folder")
    pull.set_defaults(run=_pull)
    pull.add_argument("name", metavar="NAME", help="user/name")
    pull.add_argument("folder", metavar="DIR", type=Path, help="to be made")

    report = commands.add_parser("report", help="print where reports are, and how true explainers' values are")
    report.set_defaults(run=_report)
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="an evaluate run, or a folder of runs")

    doctor = commands.add_parser("doctor", help="print versions, devices and paths, and test that values are exact")
    doctor.set_defaults(run=_doctor)
    return whole


def _explain(chosen: argparse.Namespace) -> int:
    check_max_batch(chosen.batch)
    if chosen.tolerance is not None and not chosen.refine:
        raise UserError("--tolerance: says when to stop refining; give --refine, too")
    for path in () if chosen.parquet else chosen.images:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    return (_explain_in_bulk if chosen.parquet else _explain_each)(chosen)


def _explain_each(chosen: argparse.Namespace) -> int:
    for option, given in (("top", chosen.top), ("split", chosen.split), ("image-column", chosen.image_column)):
        if given is not None:
            raise UserError(f"--{option}: of Parquet files; give --parquet, too")
    pictures = _named(chosen.images, chosen.out)
    from fastshap_lab.bulk.explaining import explained
    from fastshap_lab.bulk.sources import Picture
    from fastshap_lab.inference import Explanation, load_explainer
    from fastshap_lab.models.targets import chosen_classes

    explainer = _placed(load_explainer(chosen.model), chosen.device)
    classes = None if chosen.classes is None else chosen_classes(chosen.classes, explainer.class_names)
    chosen.out.mkdir(parents=True, exist_ok=True)
    # Standard output is stored, since a bar on a terminal redirects it. On a terminal the lines show the progress.
    lines, failed = sys.stdout, 0
    paged: dict[str, Explanation] = {}
    progress = None if lines.isatty() else Progress("explain", len(pictures))
    encoded, left = (Picture(str(path), path) for path, _ in pictures), iter(pictures)
    with (
        progress or nullcontext(),
        closing(explained(explainer, encoded, chosen.batch, chosen.refine, chosen.tolerance)) as batches,
    ):
        for batch in batches:
            for row in _rows(batch, left, classes, chosen, paged):
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                failed += "error" in row
                if progress:
                    progress.advance()
    if paged:
        Explanation.joined([*paged.values()]).save_page(chosen.out / _PAGE, [*paged], classes)
    if failed:
        say(f"{failed:,} of {len(pictures):,} pictures could not be read")
    return 2 if failed == len(pictures) else 0


def _explain_in_bulk(chosen: argparse.Namespace) -> int:
    if chosen.classes is not None:
        raise UserError("--classes: of figures; with --parquet give --top, the number of classes to keep")
    if chosen.html:
        raise UserError("--html: shows figures, which --parquet does not write; leave one of them out")
    from filelock import FileLock, Timeout

    from fastshap_lab.bulk.shards import FAILED, Settings, write_explanations
    from fastshap_lab.bulk.sources import Joined, open_source
    from fastshap_lab.files import sha256
    from fastshap_lab.inference import load_explainer

    settings = Settings(chosen.top, chosen.refine, chosen.tolerance)
    explainer = _placed(load_explainer(chosen.model), chosen.device)
    source = Joined([open_source(str(one), chosen.split, chosen.image_column) for one in chosen.images])
    identity = sha256(str(explainer.digest), source.digest, json.dumps(vars(settings)))
    chosen.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(chosen.out / ".lock", timeout=0):
            number, failed = write_explanations(explainer, source, chosen.out, settings, identity, chosen.batch)
    except Timeout:
        raise UserError(f"--out {chosen.out}: another process is writing there") from None
    sys.stdout.write(json.dumps({"out": str(chosen.out), "pictures": number, "failed": failed}) + "\n")
    if failed:
        say(f"{failed:,} of {number:,} pictures could not be read: {chosen.out / FAILED}")
    return 0


def _export(chosen: argparse.Namespace) -> int:
    pictures = _pictures(chosen.calibration)
    from fastshap_lab.inference import load_explainer

    explainer = load_explainer(chosen.model)
    with one_line_errors("place for OUT"):
        explainer.export(chosen.out, chosen.precision, pictures, chosen.replace)
    sys.stdout.write(f"{chosen.out}  {chosen.out.stat().st_size / 2**20:.1f} MiB\n")
    return 0


def _pictures(given: Sequence[Path] | None) -> list[Path] | None:
    """Return the given pictures, and the pictures in the given folders."""
    if given is None:
        return None
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    from fastshap_lab.images import images_in

    return [one for path in given for one in (sorted(images_in(path)) if path.is_dir() else [path])]


def _push(chosen: argparse.Namespace) -> int:
    pictures = _pictures(chosen.images)
    from fastshap_lab.inference import load_explainer

    explainer = load_explainer(chosen.model)
    sys.stdout.write(f"{explainer.push_to_hub(chosen.name, chosen.license, pictures, chosen.private)}\n")
    return 0


def _pull(chosen: argparse.Namespace) -> int:
    from fastshap_lab.sharing import pull

    pull(chosen.name, chosen.folder)
    sys.stdout.write(f"{chosen.folder}\n")
    return 0


def _named(given: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Return pictures, each with the path of its output files without the suffix.

    No two pictures share a path, and no output file would replace a picture.

    Args:
        given: Pictures, or folders of pictures.
        out: Folder for the output files. If it lies in a folder of pictures, files in it, which an earlier start may
            have written, do not count as pictures of that folder.
    """
    from fastshap_lab.images import EXTENSIONS, images_in

    found: list[tuple[Path, Path]] = []
    for path in given:
        if not path.is_dir():
            found.append((path, out / path.stem))
            continue
        if out.resolve() == path.resolve():
            raise UserError(f"--out {out}: holds the pictures; choose another folder")
        around = out.resolve().is_relative_to(path.resolve())
        inside = sorted(one for one in images_in(path) if not (around and one.resolve().is_relative_to(out.resolve())))
        if not inside:
            raise UserError(f"{path}: no picture in it ({' '.join(sorted(EXTENSIONS))})")
        found += [(one, (out / one.relative_to(path)).with_suffix("")) for one in inside]
    pictures, taken = {path.resolve() for path, _ in found}, set[str]()
    named = []
    for path, wanted in found:
        target, number = wanted, 1
        while str(target).casefold() in taken or target.with_name(f"{target.name}.png").resolve() in pictures:
            number += 1
            target = wanted.with_name(f"{wanted.name}-{number}")
        taken.add(str(target).casefold())
        named.append((path, target))
    return named


def _placed(explainer: "AmortizedExplainer", device: str | None) -> "AmortizedExplainer":
    """Move an explainer to a device, which is checked first, and return it."""
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {next(iter(str(error).splitlines()), 'cannot be used')}") from None
    return explainer.to(name)


def _rows(
    batch: "Explained",
    pictures: Iterator[tuple[Path, Path]],
    classes: list[int] | None,
    chosen: argparse.Namespace,
    paged: "dict[str, Explanation]",
) -> Iterator[dict[str, Any]]:
    """Write the files of some pictures, and yield the row to print about each, in order.

    Explanations for the page are added to ``paged``.
    """
    number = 0
    for error, (path, target) in zip(
        batch.errors, pictures, strict=False
    ):  # in this order, zip takes no picture too many
        if error is not None:
            say(_printable(f"{path}: {error}"))
            yield {"path": str(path), "error": error}
        else:
            assert batch.explanation is not None
            explanation = batch.explanation[number]
            if chosen.html and len(paged) < _MAX_PICTURES:
                paged[target.relative_to(chosen.out).as_posix()] = explanation
            yield {"path": str(path), **_written(explanation, target, classes)}
            number += 1


def _written(explanation: "Explanation", target: Path, classes: list[int] | None) -> dict[str, Any]:
    """Write the files of one picture, and return their paths with the predictions for some classes."""
    task, predictions = explanation.task, explanation.predictions[0]
    order = task.ranks(predictions).argsort(descending=True, stable=True).tolist()
    if classes is None:
        classes = sorted(order) if len(order) <= _MAX_CLASSES else order[:_MAX_CLASSES]
    figure, values = (target.with_name(f"{target.name}.{suffix}") for suffix in ("png", "npz"))
    explanation.plot(figure, classes)
    explanation.save(values)
    row = {
        "predicted": task.in_words(predictions, explanation.classes),
        "classes": [explanation.classes[number] for number in classes],
        task.answers: _numbers(predictions[classes]),
        "efficiency_gap": _numbers(explanation.efficiency_gap[0, classes]),
    }
    if explanation.stderr is not None:
        row["evaluations"] = int(explanation.evaluations[0])
        row["stderr"] = _numbers(explanation.stderr[0, classes].square().mean(dim=(1, 2)).sqrt())
    return row | {"figure": str(figure), "values": str(values)}


def _numbers(values: "Tensor") -> list[float | None]:
    """Return numbers for JSON: with the digits of float32, and None (null) for values that are not finite."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values.tolist()]


def _printable(text: str) -> str:
    """Return a text as one line in which unprintable characters, for example of file names, are escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _report(chosen: argparse.Namespace) -> int:
    for folder in [folder for place in chosen.runs for folder in _evaluations(place)]:
        try:
            measures = json.loads((folder / MEASURES).read_text(encoding="utf-8"))
            said = true_value_measures(measures)
        except (OSError, ValueError, TypeError, AttributeError):
            raise UserError(f"{folder / MEASURES}: missing or damaged; the command of the run makes it again") from None
        if not (folder / REPORT).is_file():
            raise UserError(f"{folder / REPORT}: missing; the command of the run makes it again")
        lines = [f"  {name}: {'  '.join(parts)}" for name, parts in said.items()] or [
            "  not measured against true Shapley values"
        ]
        sys.stdout.write("\n".join([str(folder / REPORT), *lines, ""]))
    return 0


def _evaluations(place: Path) -> list[Path]:
    """Return the folder of a finished evaluate run, or all such folders in a folder of runs."""
    record = read_record(place)
    if record:
        stage, status = (_printable(str(record.get(key))) for key in ("stage", "status"))
        if stage != "evaluate":
            raise UserError(f"{place}: a run of the stage {stage}; reports are made by the stage evaluate")
        if status != "finished":
            raise UserError(f"{place}: {status}, not finished; the same command as before goes on with it")
        return [place]
    finished = {"stage": "evaluate", "status": "finished"}
    folders = [path.parent for pattern in ("*", "*/*") for path in place.glob(f"{pattern}/{RECORD}")]
    found = [folder for folder in folders if finished.items() <= read_record(folder).items()]
    if not found:
        raise UserError(f"{place}: no finished evaluate run; fastshap-lab train makes one in runs/evaluate")
    return sorted(found)


def _doctor(_: argparse.Namespace) -> int:
    for key, value in (*_software(), *_hardware(), *_places()):
        sys.stdout.write(f"{key:<12}  {value}\n")
    import torch

    failed = False
    for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
        start = time.perf_counter()
        error = _self_test(device)
        failed |= not error <= _EXACT
        verdict = "exact" if error <= _EXACT else "WRONG"
        took = f"off by {error:.1e} of the largest value, {time.perf_counter() - start:.1f} s"
        sys.stdout.write(f"{'self-test':<12}  {device}: Shapley values are {verdict} ({took})\n")
    return int(failed)


def _software() -> Iterator[tuple[str, str]]:
    yield "fastshap-lab", version("fastshap-lab")
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in _PACKAGES:
        yield package, version(package)


def _hardware() -> Iterator[tuple[str, str]]:
    import torch

    known = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    own = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
    in_hardware = own or platform.machine().lower() not in ("x86_64", "amd64")  # other x86 processors emulate it
    bf16 = "no" if not known else "in hardware" if in_hardware else "emulated, slower than float32"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cpu", f"{cores} cores to use, {torch.backends.cpu.get_cpu_capability()}, bfloat16: {bf16}"
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS: {os.environ.get('OMP_NUM_THREADS', 'not set')})"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield (
            "cuda",
            f"none (PyTorch is built {f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'without it'})",
        )


def _places() -> Iterator[tuple[str, str]]:
    """Yield the folders that files are written to, whether they are writable, and their free space."""
    places = {
        "runs": Path("runs").resolve(),
        "temporary": Path(tempfile.gettempdir()),
        "downloads": Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser(),
    }
    for name, place in places.items():
        there = next(parent for parent in (place, *place.parents) if parent.exists())  # the rest can be created in it
        writable = "writable" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else "NOT writable"
        yield name, f"{place}: {writable}, {shutil.disk_usage(there).free / 2**30:.1f} GiB free"


def _self_test(device: str) -> float:
    """Return the largest error of an explanation against the definition of Shapley values, relative to the largest one.

    The game is that of an untrained network with six players. The explanation is refined with all coalitions, so its
    values must be exact.
    """
    import torch

    from fastshap_lab.inference import build_amortized
    from fastshap_lab.models.specs import ExplainerSpec

    pixels = {"image_size": [8, 12], "num_classes": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    network = {"name": "resnet", "params": {"channels": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}, **pixels}
    description = {
        "network": {"name": "unet", "params": {"channels": [4, 8]}, **pixels, "grid": [2, 3]},
        "surrogate": {"classifier": network, "masking": "mask_channel", "grid": [2, 3]},
        "classifier": None,
        "link": "softmax",
        "normalization": "additive",
        "class_names": ["a", "b", "c"],
    }
    generator = torch.Generator().manual_seed(0)
    explainer = build_amortized(ExplainerSpec.from_json(description)).eval()
    with torch.no_grad():
        for parameter in explainer.parameters():  # with their initial weights, networks may ignore parts of the picture
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    image = torch.rand(1, 3, 8, 12, generator=generator)
    explainer.to(device)
    explained = explainer.explain(image, refine=2**6).values[0].flatten(1).T.double()
    # The definition: the mean of each player's marginal contributions over all orders of the players.
    coalitions = (torch.arange(2**6).unsqueeze(1) >> torch.arange(6)) % 2 == 1
    values = explainer.game().values(image.to(device), coalitions.unsqueeze(0).to(device))[0].double().cpu()
    truth = torch.zeros_like(explained)
    for order in permutations(range(6)):
        present = 0
        for player in order:
            truth[player] += values[present | 1 << player] - values[present]
            present |= 1 << player
    truth /= math.factorial(6)
    return float((explained - truth).abs().max() / truth.abs().max())
