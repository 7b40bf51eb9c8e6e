"""Reads what Linux tells of the machine in /sys, /proc and /etc. Elsewhere all of it is unknown."""
