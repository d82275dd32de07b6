"""What torchvision, timm and transformers are needed for: `make test-zoo`, in a virtual environment of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy comes
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # for the list of architectures
