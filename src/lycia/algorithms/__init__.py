"""Federated algorithms: what is special on the node, and how the server steps."""

from lycia.algorithms.client_rules import FedAvg, FedProx
from lycia.algorithms.server_optimizers import SGD, Adagrad, Adam, Yogi

__all__ = ["SGD", "Adagrad", "Adam", "FedAvg", "FedProx", "Yogi"]
