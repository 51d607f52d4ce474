"""What columns of tables are called for people, what they mean, and which direction is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A column.

    Attributes:
        title: Stands over it.
        meaning: A sentence or two, none where the title says it.
        higher_is_better: Which direction is better, None where neither is.
        scaled: Whether small numbers may be shown times a power of ten.
    """

    title: str
    meaning: str = ""
    higher_is_better: bool | None = None
    scaled: bool = True


MEASURES = {
    "r2": Measure(
        "R²", "Share of the true values' variance that is explained, over images, players and classes.", True
    ),
    "r2_beyond_equal": Measure(
        "R² beyond equal split", "The same where the equal split of an image's total counts as knowing nothing.", True
    ),
    "mse": Measure("MSE", "Mean squared error of a value.", False),
    "cosine": Measure("cosine", "Cosine between two maps of an image and class, mean over these."),
    "spearman": Measure("Spearman", "Rank correlation of two maps' players, mean over images and classes."),
    "pearson": Measure("Pearson", "Correlation of two maps' players, mean over images and classes."),
    "efficiency gap": Measure(
        "efficiency gap", "What the network's values miss of the total before they are normalized.", False
    ),
    "evaluations": Measure("evaluations", "How often the model is asked about a subset of an image's players."),
    "coverage, target": Measure(
        "coverage, target", "Share of the target's true values within the 95 % intervals: 0.95 is right."
    ),
    "coverage, others": Measure(
        "coverage, others", "The same of the other classes, of which 0.95 should be covered, too."
    ),
    "additive R²": Measure(
        "additive R²",
        "How much of the game's values an explanation accounts for, beyond giving every player the same share.",
        True,
    ),
    "validation loss": Measure(
        "validation loss", "Least loss over the epochs, in squared units of the explainer's own game."
    ),
    "accuracy": Measure("accuracy", "Share of the test images that are classified as labelled.", True),
    "cross-entropy": Measure("cross-entropy", "Mean negative log-probability of the label, in nats.", False),
    "KL": Measure("KL", "Divergence of the answers from the classifier's on whole images, in nats.", False),
    "squared error": Measure("squared error", "Mean squared error, in units of the labels' spread.", False),
    "central share": Measure("central share", "Share of a map's absolute values in its middle half: 0.25 if even."),
    "entropy": Measure("entropy", "Of a map's absolute values: 1 if spread evenly, 0 if all in one player."),
    "agreement": Measure("agreement", "Share of the images on which the answer stays the same."),
    "probability": Measure("probability", "Area under the curve of the target's probability."),
    "log_odds": Measure("log-odds", "Area under the curve of the target's log-odds."),
    "others_probability": Measure("others' probability", "The same of the other classes explained, mean over these."),
    "others_log_odds": Measure("others' log-odds", "The same of the other classes explained, mean over these."),
    "standardized_answer": Measure("answer", "Area under the curve of the answer, in spreads of the labels."),
    "ssim": Measure("SSIM", "Structural similarity of two maps."),
    "iou": Measure("IoU", "Overlap of the thresholded map and the object, divided by their union."),
    "f1": Measure("F1", "Harmonic mean of precision and recall of the thresholded map's pixels."),
    "hit": Measure("hit", "Whether the map's largest value lies within the object."),
    "energy": Measure("energy", "Share of a map's positive values within the object."),
    "seconds": Measure("seconds", "For an image, on the hardware on which its map was made.", False),
    "forward passes": Measure("forward passes", "Of copies of an image through the network, for an image.", False),
    "backward passes": Measure("backward passes", "Of copies of an image through the network, for an image.", False),
    "MiB": Measure("MiB", "Most memory that explaining a batch took.", False),
    "share": Measure("share", "Of all test images."),
    "p (minus the best)": Measure(
        "p, best", "p-value of no difference from the best, on the same images.", scaled=False
    ),
    "p (minus random)": Measure("p, random", "p-value of no difference from random maps.", scaled=False),
    "parameters": Measure("parameters", "Numbers that the network learns."),
}
"""By the names of columns as files have them."""


def measure_of(column: str) -> Measure:
    """Return what there is to say of a column; one that a suffix or ``masked`` makes another is described as such."""
    if column in MEASURES:
        return MEASURES[column]
    base, _, suffix = column.rpartition(", ")
    if base in MEASURES:
        known = MEASURES[base]
        if suffix == "p":
            return Measure(f"{known.title}, p", "p-value of it, corrected for the table's tests.", scaled=False)
        return Measure(f"{known.title}, {suffix}", known.meaning, None)
    if column.startswith("masked ") and column[7:] in MEASURES:
        known = MEASURES[column[7:]]
        return Measure(f"masked {known.title}", f"{known.meaning} Of masked images.", known.higher_is_better)
    return Measure(column.replace("_", " "))
