"""SenseNova-U1: one native model, pixels in and out (arXiv 2605.12500)."""

NAME = "u1"
