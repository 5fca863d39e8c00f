"""Requests to a served model, and the errors for bad ones."""

import numpy as np

GOOD = {"times": [0.0, 0.4], "values": np.eye(16)[:2].tolist(), "ask": [0.2]}
BAD = [
    ({"times": []}, {}, "sequence 1: times is empty"),
    ({"ask": []}, {}, "ask is empty"),
    ({"times": [0.4, 0.0]}, {}, "times must increase"),
    ({"ask": [0.2, 0.2]}, {}, "ask must increase"),
    ({"ask": [-1.0]}, {}, "ask begins at -1; the sequence begins at 0 s"),
    ({"ask": [1e9]}, {}, "extends to 1e+09 s; request times up to 40 s"),
    ({"ask": np.linspace(0, 30, 20_001).tolist()}, {}, "has 20003 frames; send at most 20000"),
    ({"values": np.eye(15)[:2].tolist()}, {}, "values are 2 x 15, not 2 x 16"),
    ({"values": np.eye(16)[:1].tolist()}, {}, "values are 1 x 16, not 2 x 16"),
    ({"values": [[0.0] * 16, [0.0] * 3]}, {}, "values must be numbers, and frames of equal length"),
    ({"values": np.full((2, 16), np.nan).tolist()}, {}, "values holds NaN"),
    ({"values": [[None] * 16] * 2}, {}, "values holds NaN"),
    ({"values": np.full((2, 16), 0.5).tolist()}, {}, "values must be 0 or 1"),
    ({"times": ["a", "b"]}, {}, "times must be numbers"),
    ({}, {"task": "forecast"}, "task=forecast: vsdn_vae supports interpolation and prediction"),
    ({}, {"samples": 0}, "samples=0: must be from 1 to 1000"),
    ({}, {"particles": 1001}, "particles=1001: must be from 1 to 1000"),
    ({}, {"seed": -1}, "seed=-1: must not be negative"),
    ({}, {"decision": "loud"}, "decision=loud: must be one of expected_score, 0.5, probability"),
]
