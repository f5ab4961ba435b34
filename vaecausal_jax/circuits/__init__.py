"""Circuits: graphs of effects between units, their modules and their motifs."""
