"""Sentence to layout: a RoBERTa encoder with a mixture head that places every object of a sentence."""
