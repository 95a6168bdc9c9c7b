"""The array libraries that every public function must serve: name -> a way in and a way out."""

import numpy as np
import torch

LIBRARIES = ["numpy", "torch"] + (["torch:cuda"] if torch.cuda.is_available() else [])


def to_library(array, library):
    """A numpy array (or a list) as an array of this library, with the same values and type."""
    if library == "numpy":
        return np.asarray(array)
    device = library.partition(":")[2] or "cpu"
    return torch.from_numpy(np.array(array)).to(device)


def to_numpy(array):
    """Whatever came back, as numpy."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
