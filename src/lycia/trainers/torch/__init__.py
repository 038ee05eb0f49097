"""Models of PyTorch: any nn.Module, trained by a loop of ours, by one of your own, or by Lightning."""

from lycia.trainers.torch.lightning import LightningTrainer
from lycia.trainers.torch.trainer import TorchTrainer

__all__ = ["LightningTrainer", "TorchTrainer"]
