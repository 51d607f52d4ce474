"""The same in a few lines, with Gradio's page around it.

pip install -e '.[gradio]'
python examples/serve/gradio_app.py runs/explainer/<run>
"""

import argparse
import os

import gradio as gr
from matplotlib.figure import Figure
from PIL import Image

from fastshap_lab import load_explainer
from fastshap_lab.errors import UserError
from fastshap_lab.inference import AmortizedExplainer


def make_demo(explainer: AmortizedExplainer, max_refine: int = 2048) -> gr.Blocks:
    """Return the page.

    Args:
        explainer: What answers.
        max_refine: Evaluations of the game that a request may spend.
    """
    most = min(max_refine, 2 ** min(explainer.grid.num_players, 30) - 2)

    def explain(picture: Image.Image | None, refine: float) -> tuple[dict[str, float], Figure]:
        if picture is None:
            raise gr.Error("choose a picture")
        try:
            explanation = explainer.explain(picture, refine=int(refine))
        except UserError as error:
            raise gr.Error(str(error)) from None
        said = dict(zip(explanation.classes, explanation.predictions[0].tolist(), strict=True))
        return said, explanation.plot(max_classes=4)

    with gr.Blocks(title="fastshap_lab", delete_cache=(600, 600)) as demo:
        gr.Markdown("# What speaks for it?\nShapley values of image patches: red speaks for a class, blue against it.")
        with gr.Row():
            picture = gr.Image(type="pil", label="picture")
            answers = gr.Label(num_top_classes=5, label="classes")
        refine = gr.Slider(0, most, value=0, step=2, label="evaluations of the model to refine with")
        maps = gr.Plot(label="maps")
        gr.on([picture.upload, refine.release], explain, [picture, refine], [answers, maps], concurrency_limit=1)
    return demo.queue(max_size=8)


def main() -> None:
    """Load an explainer, and answer until somebody stops it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or model folder of an explainer, or user/name of the hub")
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args()
    os.environ.setdefault("FASTSHAP_LAB_MAX_PIXELS", "16000000")
    try:
        demo = make_demo(load_explainer(given.model))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    demo.launch(server_port=given.port, max_file_size="10mb")


if __name__ == "__main__":
    main()
