"""What all tests share: one thread a process, so that small kernels do not wait for each other on shared cores."""

import torch

torch.set_num_threads(1)
