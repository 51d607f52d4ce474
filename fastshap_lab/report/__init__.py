"""Figures, tables and the page of a report, made from NumPy arrays and data frames; models are not needed."""

from fastshap_lab.report.curves import (
    budget_curves,
    drawn_curves,
    method_curves,
    relations,
    removal_curves,
    scatter,
    training_curves,
)
from fastshap_lab.report.explorer import (
    MAX_IMAGES,
    Explorer,
    GameAnswers,
    Panel,
    View,
    num_classes_shown,
    strongest_first,
)
from fastshap_lab.report.maps import (
    class_maps,
    comparison,
    figure_format,
    gallery,
    image_rows,
    inline_figure,
    save_figure,
    subset_maps,
)
from fastshap_lab.report.methods import densities, layer_maps, overlays, setting_curves
from fastshap_lab.report.page import Section, write_page
from fastshap_lab.report.tables import Table, render_html, write_table

__all__ = [
    "MAX_IMAGES",
    "Explorer",
    "GameAnswers",
    "Panel",
    "Section",
    "Table",
    "View",
    "budget_curves",
    "class_maps",
    "comparison",
    "densities",
    "drawn_curves",
    "figure_format",
    "gallery",
    "image_rows",
    "inline_figure",
    "layer_maps",
    "method_curves",
    "num_classes_shown",
    "overlays",
    "relations",
    "removal_curves",
    "render_html",
    "save_figure",
    "scatter",
    "setting_curves",
    "strongest_first",
    "subset_maps",
    "training_curves",
    "write_page",
    "write_table",
]
