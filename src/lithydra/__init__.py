"""lithydra: a research template for image classification on PyTorch Lightning and Hydra."""
