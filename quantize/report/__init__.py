"""Shows an evaluation: which models are worth their size and time, in pictures."""
