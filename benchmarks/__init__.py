"""Measurements. Ratios within one run mean something; absolute times belong to the machine."""
