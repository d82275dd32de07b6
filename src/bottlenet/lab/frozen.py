"""What does not learn, as fast as this machine can run it: the start of the head, and the uncut network's scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from bottlenet.lab.features import Frozen
from bottlenet.net.export import to_onnx
from bottlenet.net.models import Classifier, Normalize
from bottlenet.net.split import split
from bottlenet.runtime import open_session, run_graph
from bottlenet.task import is_dense


class FeaturesAndScores(nn.Module):
    """pixels (B, S, S, 3) uint8 -> features at a cut (B, c, H, W), scores (B, classes)."""

    def __init__(self, head: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.head, self.tail = head, tail

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.head(pixels)
        return features, self.tail(features)


def frozen_network(classifier: Classifier, cut: str, head_size: int) -> Frozen:
    """The classifier through onnxruntime, three times as fast as torch: features at `cut` of pixels of `head_size`,
    scores of pixels of the classifier's own size, (B, 0) where its answers are about places. Where both sizes are the
    same the head runs once.
    """
    size, threads = classifier.preprocess.size, torch.get_num_threads()
    normalize = Normalize(classifier.mean, classifier.std)
    halves = split(classifier.module, cut, (3, head_size, head_size))
    head = nn.Sequential(normalize, halves.head)
    if is_dense(classifier.task):
        alone = open_session(graph_of(head, head_size, "features"), threads=threads)
        return lambda _, head_pixels: (
            run_graph(alone, pixels=head_pixels),
            np.empty((len(head_pixels), 0), np.float32),
        )
    if head_size == size:
        both = open_session(graph_of(FeaturesAndScores(head, halves.tail), size, "features", "scores"), threads=threads)

        def run_once(uncut_pixels: np.ndarray, head_pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            features, scores = both.run(None, {"pixels": uncut_pixels})
            return features, scores

        return run_once
    start = open_session(graph_of(head, head_size, "features"), threads=threads)
    whole = open_session(graph_of(nn.Sequential(normalize, classifier.module), size, "scores"), threads=threads)

    def run_both(uncut_pixels: np.ndarray, head_pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return run_graph(start, pixels=head_pixels), run_graph(whole, pixels=uncut_pixels)

    return run_both


def graph_of(module: nn.Module, size: int, *outputs: str) -> bytes:
    """As ONNX, for pixels of `size`."""
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return to_onnx(module.eval(), example, inputs=["pixels"], outputs=outputs)
