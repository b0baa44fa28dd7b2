"""Hears of every module that runs, and knows its address."""
