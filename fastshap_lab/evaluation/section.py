"""What every section of the report promises, checks among them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from fastshap_lab.config import EvaluateConfig
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.runs.sources import source


class Section(ABC):
    """A part of the report: tables, figures and text about the evaluated pipelines.

    Arguments of the constructor are its ``params``. It stores what takes long (``Section.stored``), so that an
    evaluation which asks for more finds it.
    """

    kind: ClassVar[str] = ""
    """Its entry in ``SECTIONS`` or ``CHECKS``."""

    appendix: ClassVar[bool] = False
    """Whether it comes after the checks, at the end of the page."""

    uncounted: ClassVar[tuple[str, ...]] = ()
    """Arguments that change nothing in what is kept: how many images, where each has entries of its own."""

    version: ClassVar[int] = 1
    """Raised when a change of the code changes what was kept, which is then made again."""

    tables: ClassVar[tuple[str, ...]] = ("{name}*",)
    """Patterns of the names of its tables, so that published numbers are known to have a place."""

    def check(self, settings: EvaluateConfig, name: str) -> None:  # noqa: B027 - most have nothing to check
        """Raise a ``UserError`` where the section cannot be made with the evaluation's other settings.

        Args:
            settings: Settings of the evaluation.
            name: Name of the section in the configuration.
        """

    @abstractmethod
    def __call__(self, evaluation: Evaluation, name: str) -> dict[str, float] | None:
        """Add to the report, and return measures of the run, if there are any.

        Args:
            evaluation: What is evaluated, and where results go.
            name: What the section is called in the configuration, and how the names of its tables and figures begin;
                two sections of one kind have different ones.
        """

    def titled(self, title: str, name: str) -> str:
        """Return the title of the section. It contains the section's name where that is not the name of its kind.

        Args:
            title: Title of the kind of section.
            name: Name of the section in the configuration.
        """
        return title if name == self.kind else f"{title}: {name}"

    def stored(
        self, evaluation: Evaluation, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return tensors of the section, from the evaluation's store where it holds them.

        Args:
            evaluation: Has the store.
            key: What they depend on beside the section's arguments and code: digests of models, keys of methods,
                digests of images and classes.
            make: Returns them.
        """
        code = source(f"section {self.kind}", type(self)) or "version 1"
        params = {name: value for name, value in vars(self).items() if name not in self.uncounted}
        own = {"section": self.kind, "code": code, "params": params}
        return evaluation.store.get("sections", {**own, **key}, make)
