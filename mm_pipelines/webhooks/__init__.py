"""The webhook receiver: what Meta sends is checked, told apart and stored, and nothing else.

``signature`` says whether a body comes from Meta, ``envelope`` which events it holds, ``store``
commits them (many requests in one transaction), ``metrics`` counts, ``app`` answers, and ``server``
runs it on connections that are bounded (``connection``).
"""
