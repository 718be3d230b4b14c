"""Where there is a GPU, what must hold on a CPU must hold there, too."""

from __future__ import annotations

import pytest
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
"""To parametrise with."""

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
