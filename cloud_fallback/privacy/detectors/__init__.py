"""Finds what must not leave the device: each takes plain text and gives spans. Pure, and linear in
the length of the text."""
