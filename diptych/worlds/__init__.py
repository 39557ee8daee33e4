"""Embedded worlds: pictures, captions, questions and edits made from a seed, with an exact checker."""
