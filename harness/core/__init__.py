"""The mathematics: schedules, networks, consistency losses, couplings. Tensors in, tensors out; no disk."""
