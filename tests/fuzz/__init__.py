"""Inputs of strangers, changed at random: the product answers each with a result or one of its own errors.

``python -m tests.fuzz --minutes 60`` looks for others.
"""
