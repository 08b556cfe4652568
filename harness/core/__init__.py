"""The thin scientific core: schedules, networks, consistency losses, couplings. Pure functions, tensors in, tensors out."""
