"""How a model is laid out in memory: by an estimate, which loading it proves or corrects.

Knows sizes and settings; opens no model and starts no process.
"""
