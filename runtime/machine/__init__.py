"""What this machine offers, and how much of it a model gets.

Cores, memory, power and accelerators, mostly as Linux tells them in /sys, /proc and /etc; elsewhere
those are unknown.
"""
