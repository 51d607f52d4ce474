"""What every check of the evaluation promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import nn

from fastshap_lab.attribution import AttributionMethod
from fastshap_lab.evaluation.base import Evaluation
from fastshap_lab.files import sha256

Builder = Callable[[nn.Module], AttributionMethod]


class Check(ABC):
    """What must perturb, randomize or retrain a network to judge explanations of it, or looks into it for a figure.

    Arguments of the constructor are ``evaluate.checks.<name>.params``. A check adds a section of its own to the report,
    and keeps (``Evaluation.kept``) what took long.

    Attributes:
        name: Its key in ``evaluate.checks``, and how the names of its tables and figures begin; by default its kind.
            Two checks of one kind have different ones.
    """

    name: str = ""

    def titled(self, title: str) -> str:
        """Return the title of its section, which says its name where that is not its kind's."""
        return title if self.name == type(self).name else f"{title}: {self.name}"

    @property
    def place(self) -> tuple[str, str]:
        """The folders of what it keeps, its own: its name and arguments decide."""
        return "checks", f"{self.name}-{sha256(repr(sorted(vars(self).items())))[:8]}"

    @abstractmethod
    def __call__(self, evaluation: Evaluation, methods: Mapping[str, Mapping[str, Builder]]) -> None:
        """Add to the report.

        Args:
            evaluation: Its pipelines hold the classifiers.
            methods: For each pipeline, by name, the methods chosen that apply to its classifier, by name; each builds
                the method, with its configured arguments, on any module of the classifier's kind.
        """
