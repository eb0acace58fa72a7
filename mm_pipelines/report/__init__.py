"""Figures for people: a Page's growth, and the overview that ``mm status`` prints."""
