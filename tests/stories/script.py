"""What goes wrong in the stories: (round, node) → what happens to its update, at the first attempt."""

from lycia.simulation.faults import Mishap

SCRIPT: dict[tuple[int, str], Mishap] = {
    (1, "birch"): "vanish",
    (3, "cedar"): "late",
    (6, "ash"): "vanish",  # with the next one, too many for the quorum: the round is asked again
    (6, "birch"): "vanish",
}
