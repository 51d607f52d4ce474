"""Base class of the sections of the report, and of checks, which are sections, too."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from fastshap_lab.config import EvaluateConfig
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.runs.sources import source


class Section(ABC):
    """A part of the report: tables, figures and text about the evaluated pipelines.

    Arguments of the constructor are the section's ``params``. Results that take long are cached (``Section.stored``),
    so that a later evaluation with more images reuses them.
    """

    kind: ClassVar[str] = ""
    """Name in ``SECTIONS`` or ``CHECKS``."""

    appendix: ClassVar[bool] = False
    """Whether the section comes after the checks, at the end of the page."""

    uncounted: ClassVar[tuple[str, ...]] = ()
    """Names of arguments that cached results do not depend on, such as the number of images."""

    version: ClassVar[int] = 1
    """Number that is increased when a change of the code changes cached results, which are then computed again."""

    tables: ClassVar[tuple[str, ...]] = ("{name}*",)
    """Patterns of the file names of the section's tables, which ``evaluate.published`` may name."""

    def check(self, settings: EvaluateConfig, name: str) -> None:  # noqa: B027 - most sections have nothing to check
        """Raise a ``UserError`` if the section cannot be made with the other settings of the evaluation.

        Args:
            settings: Settings of the evaluation.
            name: Name of the section in the configuration.
        """

    @abstractmethod
    def __call__(self, evaluation: Evaluation, name: str) -> dict[str, float] | None:
        """Add text, tables and figures to the report, and return measures of the run, by name, or None.

        Args:
            evaluation: Evaluation, which has the pipelines and the report.
            name: Name of the section in the configuration, with which the file names of its tables and figures begin;
                it distinguishes sections of the same kind.
        """

    def titled(self, title: str, name: str) -> str:
        """Return the title of the section, which contains the section's name if it is not the name of its kind.

        Args:
            title: Title of the kind of section.
            name: Name of the section in the configuration.
        """
        return title if name == self.kind else f"{title}: {name}"

    def stored(
        self, evaluation: Evaluation, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return tensors of the section, from the evaluation's store if it contains them.

        Args:
            evaluation: Evaluation, which has the store.
            key: What the tensors depend on beside the section's arguments and code: digests of models, keys of methods,
                digests of images and classes.
            make: Function that returns the tensors.
        """
        code = source(f"section {self.kind}", type(self)) or "version 1"
        params = {name: value for name, value in vars(self).items() if name not in self.uncounted}
        own = {"section": self.kind, "code": code, "params": params}
        return evaluation.store.get("sections", {**own, **key}, make)
