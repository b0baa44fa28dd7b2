"""The front desk's verbs besides `trace` and `load`: each a few calls of these."""
