"""Table of the report's sections, in the order of the page."""

from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.sections.errors import ShapleyErrors
from fastshap_lab.evaluation.sections.explorer import Images
from fastshap_lab.evaluation.sections.maps import Maps
from fastshap_lab.evaluation.sections.methods import Methods
from fastshap_lab.evaluation.sections.models import Models, Trainings
from fastshap_lab.evaluation.sections.shifts import Shifts
from fastshap_lab.evaluation.sections.subsets import Subsets
from fastshap_lab.evaluation.sections.surrogates import Surrogates

__all__ = ["SECTIONS"]

SECTIONS: dict[str, type[Section]] = {
    section.kind: section
    for section in (Models, ShapleyErrors, Maps, Subsets, Surrogates, Shifts, Methods, Trainings, Images)
}
