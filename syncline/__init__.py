"""Syncline keeps a Qdrant vector index in line with a MongoDB database."""

__version__ = "0.1.0"
