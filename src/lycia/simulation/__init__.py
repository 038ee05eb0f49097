"""A federation in this process."""

from lycia.simulation.clock import Pace
from lycia.simulation.faults import Faults
from lycia.simulation.simulate import Result, simulate

__all__ = ["Faults", "Pace", "Result", "simulate"]
